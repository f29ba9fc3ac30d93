// Package adminapi holds the words of the admin API: the requests and answers
// that administrators' programs and policy servers exchange over HTTPS, and the
// problems that a server answers with (RFC 9457).
//
// The JSON field names are stable: they are also what `keytide … -o json`
// prints. Times are RFC 3339 in UTC, durations are Go duration strings
// ("8h0m0s"), key ids are 16 hexadecimal digits, event ids are ULIDs. A reader
// ignores fields that it does not know; a server refuses them.
//
// No type here can hold key material but Registered, whose one secret is
// answered once, to the administrator who registers a trusted host.
package adminapi
