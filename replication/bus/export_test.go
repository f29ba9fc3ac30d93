package bus

import (
	"crypto/sha256"
	"fmt"

	"github.com/nats-io/nats-server/v2/server"
)

// Routes tells what the server's routes are.
func (b *Bus) Routes() (*server.Routez, error) { return b.server().Routez(nil) }

// NewEnough is the version rule.
var NewEnough = newEnough

// Apart reports whether the server has left the others of its core.
func (b *Bus) Apart() bool { return b.server() == nil }

// Terms are those of the groups that the server belongs to, by their account; nil while it is apart.
func (b *Bus) Terms() map[string]uint64 {
	terms := make(map[string]uint64)
	srv := b.server()
	if srv == nil {
		return nil
	}
	for _, group := range groups(srv) {
		terms[fmt.Sprintf("%s of %d", group.TrafficAcc, group.Size)] += group.Term
	}
	return terms
}

// LeadsAny reports whether the server leads a group.
func (b *Bus) LeadsAny() bool {
	srv := b.server()
	if srv == nil {
		return false
	}
	for _, group := range groups(srv) {
		if group.Leader == group.ID {
			return true
		}
	}
	return false
}

// ParseBlock reads a block's bytes.
func ParseBlock(block []byte, stream string, number uint64, each func(Stored)) []Damage {
	key := sha256.Sum256(fmt.Appendf(nil, "%s-%d", stream, number))
	return parseBlock(block, key[:], each)
}
