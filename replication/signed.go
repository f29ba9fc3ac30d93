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

// speaker returns the member of this id, whose beacons and record count unless it is
// forgotten.
func speaker(s *events.State, id string) (events.Member, error) {
	switch member, ok := s.Member(id); {
	case !ok:
		return events.Member{}, fmt.Errorf("%w: server %q", events.ErrNotMember, id)
	case member.Forgotten != 0:
		return events.Member{}, fmt.Errorf("%w: %w: server %s, by event %d", events.ErrNotMember, events.ErrForgotten, id, member.Forgotten)
	default:
		return member, nil
	}
}

// openBeacon decodes and verifies a beacon. Its order is not judged.
func openBeacon(s *events.State, value []byte) (events.Beacon, error) {
	b, err := events.DecodeBeacon(value)
	if err != nil {
		return events.Beacon{}, err
	}
	member, err := speaker(s, b.Holder)
	if err != nil {
		return events.Beacon{}, err
	}
	if err := events.VerifyBeacon(value, member.PublicKey); err != nil {
		return events.Beacon{}, fmt.Errorf("holder %s: %w", b.Holder, err)
	}
	if want := s.Epoch().Number; b.Epoch != want {
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
	member, err := speaker(s, id)
	if err != nil {
		return events.ServerRecord{}, err
	}
	if err := events.VerifyServer(value, member.PublicKey); err != nil {
		return events.ServerRecord{}, err
	}
	return rec, nil
}
