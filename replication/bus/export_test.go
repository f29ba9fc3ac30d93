package bus

import "github.com/nats-io/nats-server/v2/server"

// Routes tells what the server's routes are.
func (b *Bus) Routes() (*server.Routez, error) { return b.server().Routez(nil) }

// NewEnough is the version rule.
var NewEnough = newEnough
