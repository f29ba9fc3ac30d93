package events

import (
	"errors"
	"fmt"
	"iter"

	"github.com/keytide/keytide/keystore"
)

// Replay folds a history from event 1 on and returns the state after the last
// record, or after the first for which until returns true; until may be nil. The
// newest signature is checked, and with it the whole prefix. A record that is
// refused ends it with the state before it and an error as Apply's.
func Replay(records iter.Seq2[Record, error], until func(Event) bool) (*State, error) {
	s := NewState()
	for rec, err := range records {
		if err != nil {
			return s, fmt.Errorf("event %d: %w", s.n+1, err)
		}
		v, err := s.apply(rec, false)
		if err != nil {
			return s, err
		}
		if until != nil && until(v.event()) {
			break
		}
	}
	if s.n == 0 {
		return s, nil
	}
	return s, s.VerifyNewest()
}

// A Verified is what Verify proved.
type Verified struct {
	Events  uint64
	Head    Head
	Genesis Genesis
}

// Verify checks a whole history without folding it: every record's form, n and
// prev, that a member wrote it, the genesis against pin (unless that is zero), and
// the newest signature.
// What it proved up to the first fault is returned with the error, which is a
// *HistoryError. An empty history is refused with ErrNotNext.
func Verify(records iter.Seq2[Record, error], pin Hash) (Verified, error) {
	c := chain{members: newMembers()}
	for rec, err := range records {
		if err == nil {
			err = c.add(rec, pin)
		}
		if err != nil {
			return c.proved, c.fault(err)
		}
	}
	if c.proved.Events == 0 {
		return c.proved, c.fault(fmt.Errorf("%w: the history is empty", ErrNotNext))
	}
	v, err := parse(c.newest)
	if err == nil {
		err = c.members.verify(&v)
	}
	if err != nil {
		return Verified{}, &HistoryError{N: c.proved.Head.N, Err: err}
	}
	return c.proved, nil
}

// A HistoryError names the first event of a history that is wrong.
type HistoryError struct {
	N   keystore.N
	Err error // as State.Apply's
}

func (e *HistoryError) Error() string { return fmt.Sprintf("event %d: %v", e.N, e.Err) }
func (e *HistoryError) Unwrap() error { return e.Err }

type chain struct {
	newest  Record // the chain's own copy
	members members
	epoch   epoch
	proved  Verified
}

func (c *chain) fault(err error) error {
	var history *HistoryError
	if errors.As(err, &history) {
		return err
	}
	return &HistoryError{N: c.proved.Head.N + 1, Err: err}
}

func (c *chain) add(rec Record, pin Hash) error {
	v, err := parse(rec)
	if err != nil {
		return err
	}
	if err := follows(&v, c.proved.Head.N, c.proved.Head.Hash); err != nil {
		return err
	}
	if !v.typ.known() {
		return &UnknownTypeError{N: v.n, Type: v.typ} // it might have changed who is a member
	}
	hash := rec.Hash()
	if v.n == 1 {
		err = c.begin(&v, hash, pin)
	} else {
		err = c.next(&v)
	}
	if err != nil {
		return err
	}
	c.newest = append(c.newest[:0], rec...)
	c.proved.Events++
	c.proved.Head = Head{Epoch: c.epoch.now.Number, N: v.n, Hash: hash}
	return nil
}

// next follows who is a member, and the epochs.
func (c *chain) next(v *view) (err error) {
	if c.epoch, err = c.epoch.decide(v, c.proved.Head.N, c.proved.Head.Hash); err != nil {
		return err
	}
	if _, err := c.members.author(v); err != nil || !v.typ.ofServers() {
		return err
	}
	change, err := c.members.decideServer(v, c.proved.Genesis.Kind)
	if err == nil {
		c.members.carryOut(change, v)
	}
	return err
}

func (c *chain) begin(v *view, hash, pin Hash) error {
	if !pin.IsZero() && hash != pin {
		return fmt.Errorf("%w: the genesis is %s; want %s", ErrForked, hash, pin)
	}
	if v.typ != TypeGenesis {
		return unfit("%s as event 1", v.typ)
	}
	g, err := decideGenesis(v)
	if err != nil {
		return err
	}
	if err := g.Founder.verify(v); err != nil {
		return err
	}
	c.members.found(g)
	c.proved.Genesis, c.epoch = g, beginEpoch(g, hash)
	return nil
}
