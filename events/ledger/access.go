package ledger

import "github.com/keytide/keytide/events"

// ReadAccess lists the subjects to which a policy server that only reads must be
// allowed to publish: it asks for the bucket's state, and follows it.
func ReadAccess(bucket string) []string {
	stream := events.StreamName(bucket)
	return []string{
		"$JS.API.STREAM.INFO." + stream, "$JS.API.DIRECT.GET." + stream, "$JS.API.DIRECT.GET." + stream + ".>",
		"$JS.API.CONSUMER.CREATE." + stream + ".>", "$JS.API.CONSUMER.MSG.NEXT." + stream + ".>",
	}
}

// WriteAccess lists what a policy server that writes as well needs.
func WriteAccess(bucket string) []string {
	return append(ReadAccess(bucket), events.Subjects(bucket))
}

// SealAccess lists what Seal needs; nobody needs it afterwards.
func SealAccess(bucket string) []string {
	return append(ReadAccess(bucket), "$JS.API.STREAM.UPDATE."+events.StreamName(bucket))
}

// CreateAccess lists what Create needs; nobody needs it afterwards.
func CreateAccess(bucket string) []string {
	return append(WriteAccess(bucket), "$JS.API.STREAM.CREATE."+events.StreamName(bucket))
}
