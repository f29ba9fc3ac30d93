package adminhttp

import (
	"context"
	"io"
	"time"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// A Service carries out what the API asks for. All methods are safe for
// concurrent use. Errors wrap the sentinels of the problem table; a change that
// is asked for again with the same request id is answered with the event that
// it made the first time.
type Service interface {
	Reader
	Changer
	Publisher
	Rekeyer
	TrustedHosts
	Doctor
}

// A Doctor looks at what this server sees of the key store, and puts right what others
// wrote past the servers.
type Doctor interface {
	Doctor(ctx context.Context) (adminapi.Diagnosis, error)
	Mend(ctx context.Context, actor string, req adminapi.Mend) (adminapi.Mended, error)
}

// A Reader answers from the server's own replica and never waits for the network.
type Reader interface {
	Status(ctx context.Context) (adminapi.Status, error)
	Rings(ctx context.Context) (adminapi.Rings, error)
	Ring(ctx context.Context, name keystore.RingName) (adminapi.Ring, error)
	Preview(ctx context.Context, name keystore.RingName, req adminapi.Rollover) (adminapi.Preview, error)
	Slots(ctx context.Context, name keystore.RingName, from time.Time, count int) (adminapi.Slots, error)
	Reach(ctx context.Context, name keystore.RingName, n keystore.N) (adminapi.Reach, error)
	History(ctx context.Context, name keystore.RingName, span Span) (adminapi.History, error)
	Replay(ctx context.Context, name keystore.RingName, point Point) (adminapi.Ring, error)
	Key(ctx context.Context, kid keystore.KID) (adminapi.KeyUses, error)
	Verify(ctx context.Context) (adminapi.Verification, error)
	// Backup writes a backup of both ledgers to w, each from its base on.
	Backup(ctx context.Context, bases Bases, w io.Writer) error
	// Export writes every event of both ledgers to w as lines of JSON, oldest first,
	// one ledger after the other.
	Export(ctx context.Context, span Span, w io.Writer) error
	Hosts(ctx context.Context) (adminapi.Hosts, error)
	Host(ctx context.Context, name string) (adminapi.HostShown, error)
	// ServerShown shows one policy server, and what it costs to leave it out.
	ServerShown(ctx context.Context, id string) (adminapi.ServerShown, error)
}

// A Changer commits events. Actor is whose token the request carried.
type Changer interface {
	CreateRing(ctx context.Context, actor string, req adminapi.CreateRing) (adminapi.RingChanged, error)
	SetPolicy(ctx context.Context, actor string, name keystore.RingName, req adminapi.SetPolicy) (adminapi.RingChanged, error)
	Rollover(ctx context.Context, actor string, name keystore.RingName, req adminapi.Rollover) (adminapi.RolledOver, error)
	DeleteRing(ctx context.Context, actor string, name keystore.RingName, req adminapi.DeleteRing) (adminapi.RingDeleted, error)
	RegisterHost(ctx context.Context, actor string, req adminapi.RegisterHost) (adminapi.Registered, error)
	RevokeHost(ctx context.Context, actor, name string, req adminapi.RevokeHost) (adminapi.Revoked, error)
	InviteServer(ctx context.Context, actor, id string, req adminapi.InviteServer) (adminapi.ServerInvited, error)
	// JoinServer is asked by a new server itself; token is its invitation's. It wraps
	// ErrUnauthorized where no invitation has that token.
	JoinServer(ctx context.Context, token string, req adminapi.Join) (adminapi.Joined, error)
	ExcludeServer(ctx context.Context, actor, id string, req adminapi.LeaveOut) (adminapi.LeftOut, error)
	ForgetServer(ctx context.Context, actor, id string, req adminapi.LeaveOut) (adminapi.LeftOut, error)
}

// A Span bounds a history: from Since, inclusive, until Until, exclusive. A zero
// time does not bound.
type Span struct{ Since, Until time.Time }

// A Point is a moment of a ring's past: a version, or, if that is 0, a time.
type Point struct {
	Version keystore.Version
	At      time.Time
}
