// Package adminhttp is the admin API over HTTPS: the server's handlers and the
// client of the commands.
//
// It turns requests into calls of a Service and answers into JSON. It decides
// nothing about rings or hosts. Every error becomes an RFC 9457 problem by one
// table, and the client turns the problem back into an error that wraps the same
// sentinel. An error that the table does not know is answered with a bare 500;
// what it says goes to the log alone.
package adminhttp
