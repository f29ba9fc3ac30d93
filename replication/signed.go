package replication

import (
	"fmt"

	"github.com/keytide/keytide/events"
)

// A beaconOrder tells a new beacon from an old one. Beacons rise: a later term, or
// in one term a higher counter of its holder. If two servers take over with one
// term, the one whose id sorts first holds it.
type beaconOrder struct {
	term    uint64
	holder  string
	counter uint64
}

func (o beaconOrder) before(b events.Beacon) bool {
	switch {
	case b.Term != o.term:
		return b.Term > o.term
	case b.Holder != o.holder:
		return b.Holder < o.holder
	}
	return b.Counter > o.counter
}

func orderOf(b events.Beacon) beaconOrder {
	return beaconOrder{term: b.Term, holder: b.Holder, counter: b.Counter}
}

// openBeacon decodes and verifies a beacon. Its order is not judged.
func openBeacon(s *events.State, value []byte) (events.Beacon, error) {
	b, err := events.DecodeBeacon(value)
	if err != nil {
		return events.Beacon{}, err
	}
	member, ok := s.Member(b.Holder)
	if !ok {
		return events.Beacon{}, fmt.Errorf("%w: holder %q", events.ErrNotMember, b.Holder)
	}
	if err := events.VerifyBeacon(value, member.PublicKey); err != nil {
		return events.Beacon{}, fmt.Errorf("holder %s: %w", b.Holder, err)
	}
	if want := s.Genesis().Epoch; b.Epoch != want {
		return events.Beacon{}, fmt.Errorf("holder %s: epoch %d, want %d", b.Holder, b.Epoch, want)
	}
	return b, nil
}

// openServer decodes and verifies the record that stands under a server's key.
func openServer(s *events.State, id string, value []byte) (events.ServerRecord, error) {
	rec, err := events.DecodeServer(value)
	if err != nil {
		return events.ServerRecord{}, err
	}
	if rec.ID != id {
		return events.ServerRecord{}, fmt.Errorf("it is the record of %q", rec.ID)
	}
	member, ok := s.Member(id)
	if !ok {
		return events.ServerRecord{}, events.ErrNotMember
	}
	if err := events.VerifyServer(value, member.PublicKey); err != nil {
		return events.ServerRecord{}, err
	}
	return rec, nil
}
