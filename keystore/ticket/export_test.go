package ticket

// For the tests: what is within the seal.
var (
	Parse = parse
	Plain = Ticket.plain
)
