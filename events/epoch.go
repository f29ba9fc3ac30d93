package events

import (
	"errors"
	"fmt"

	"github.com/keytide/keytide/keystore"
)

// An EpochID says which incarnation of a ledger one is: by its number alone two that
// were restored apart would look alike.
type EpochID struct {
	Number  keystore.Epoch `json:"epoch"`
	Genesis Hash           `json:"genesis"` // of the event by which it began
}

// An EpochBegun is the payload of the event by which a ledger goes on in a bucket of
// its own after a restore. Everything up to Kept is the epochs' before it.
type EpochBegun struct {
	Epoch keystore.Epoch `json:"epoch"` // that begins
	Old   EpochID        `json:"old"`   // that is left
	Kept  Head           `json:"kept"`  // the last event that was kept of it
}

// An EpochEnded is the payload of the last event of a bucket that a restore has left
// behind: whoever still follows it learns why nothing comes any more.
type EpochEnded struct {
	Next EpochID `json:"next"`
}

// ErrEnded: an event after the one by which its epoch ended.
var ErrEnded = errors.New("after the end of its epoch")

// Encode packs the payload. The error wraps keystore.ErrInvalid.
func (e EpochBegun) Encode() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	var p packer
	top := p.begin()
	p.uint("epoch", uint64(e.Epoch))
	p.fixed("genesis", e.Old.Genesis[:])
	p.field("kept")
	p.head(e.Kept)
	p.end(top)
	return p.done()
}

func (e EpochBegun) check() error {
	switch {
	case e.Old.Number == 0 || e.Epoch <= e.Old.Number:
		return invalid("epoch %d begins after epoch %d", e.Epoch, e.Old.Number)
	case e.Old.Genesis.IsZero(), e.Kept.N == 0, e.Kept.Hash.IsZero(), e.Kept.Epoch != e.Old.Number:
		return invalid("epoch %d begins: what it keeps of epoch %d is missing", e.Epoch, e.Old.Number)
	}
	return nil
}

// DecodeEpochBegun takes the payload apart. The error wraps ErrMalformed.
func DecodeEpochBegun(payload []byte) (EpochBegun, error) {
	r := reader{b: payload}
	var e EpochBegun
	for f := r.fields(); f.next(); {
		switch string(f.key) {
		case "epoch":
			e.Epoch = keystore.Epoch(f.uint(1<<64 - 1))
		case "genesis":
			f.fixed(e.Old.Genesis[:])
		case "kept":
			e.Kept = r.head(f.open())
		default:
			r.skip()
		}
	}
	e.Old.Number = e.Kept.Epoch
	return e, decoded(r.end(), e.check)
}

// Encode packs the payload. The error wraps keystore.ErrInvalid.
func (e EpochEnded) Encode() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	var p packer
	top := p.begin()
	p.uint("epoch", uint64(e.Next.Number))
	p.fixed("genesis", e.Next.Genesis[:])
	p.end(top)
	return p.done()
}

func (e EpochEnded) check() error {
	if e.Next.Number < 2 || e.Next.Genesis.IsZero() {
		return invalid("an epoch ends, and the next one, %d, is not named", e.Next.Number)
	}
	return nil
}

// DecodeEpochEnded takes the payload apart. The error wraps ErrMalformed.
func DecodeEpochEnded(payload []byte) (EpochEnded, error) {
	r := reader{b: payload}
	var e EpochEnded
	for f := r.fields(); f.next(); {
		switch string(f.key) {
		case "epoch":
			e.Next.Number = keystore.Epoch(f.uint(1<<64 - 1))
		case "genesis":
			f.fixed(e.Next.Genesis[:])
		default:
			r.skip()
		}
	}
	return e, decoded(r.end(), e.check)
}

// decoded is the error of a payload that was read, or does not say what it must.
func decoded(read error, check func() error) error {
	if read != nil {
		return read
	}
	if err := check(); err != nil {
		return malformed("%w", err)
	}
	return nil
}

// An epoch is where a history stands among its epochs. It holds the rules by which
// one follows another.
type epoch struct {
	now   EpochID
	n     keystore.N // of the event by which it began
	ended EpochEnded // zero: it goes on
}

// decide judges an event for what it does to the epoch. Its effects are the caller's.
func (e epoch) decide(v *view, n keystore.N, hash Hash) (next epoch, err error) {
	if e.ended.Next.Number != 0 {
		return e, fmt.Errorf("%w: epoch %d ended before event %d; epoch %d followed", ErrEnded, e.now.Number, v.n, e.ended.Next.Number)
	}
	if v.typ != TypeEpochBegun && v.typ != TypeEpochEnded {
		return e, nil
	}
	if v.effectCount != 0 {
		return e, unfit("%s with %d effects", v.typ, v.effectCount)
	}
	if v.typ == TypeEpochEnded {
		ended, err := DecodeEpochEnded(v.payload)
		if err == nil && ended.Next.Number <= e.now.Number {
			err = unfit("epoch %d ends, and epoch %d is said to follow", e.now.Number, ended.Next.Number)
		}
		e.ended = ended
		return e, misfit(err)
	}
	begun, err := DecodeEpochBegun(v.payload)
	if err == nil && (begun.Old != e.now || begun.Kept != Head{Epoch: e.now.Number, N: n, Hash: hash}) {
		err = unfit("epoch %d begins after event %d of epoch %d; this is event %d of epoch %d", begun.Epoch, begun.Kept.N, begun.Old.Number, n, e.now.Number)
	}
	if err != nil {
		return e, misfit(err)
	}
	return epoch{now: EpochID{begun.Epoch, v.rec.Hash()}, n: v.n}, nil
}

// beginEpoch is that of a ledger's first event.
func beginEpoch(g Genesis, genesis Hash) epoch { return epoch{now: EpochID{g.Epoch, genesis}, n: 1} }

// Epoch returns the epoch that the newest event is of; the zero EpochID before event 1.
func (s *State) Epoch() EpochID { return s.epoch.now }

// EpochBegan returns the number of the event by which that epoch began.
func (s *State) EpochBegan() keystore.N { return s.epoch.n }

// Ended returns what followed the epoch; ok is false where it goes on.
func (s *State) Ended() (next EpochID, ok bool) {
	return s.epoch.ended.Next, s.epoch.ended.Next.Number != 0
}
