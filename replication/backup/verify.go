package backup

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// A Ledger is what a backup, or one and its increments, proved of one ledger.
type Ledger struct {
	Part   Part // of the newest file; Base is the first one's
	State  *events.State
	Values map[string][]byte // every value that lives at the head
	// Bad is the first event that is wrong, 0 if none is; Why says what is.
	Bad keystore.N
	Why error
}

// Verify reads a whole backup and then its increments, in order, and checks everything
// that they hold: every event's form, place, hash and signature from event 1 on, what
// it does to the state, and every live value by its hash. each, if not nil, gets every
// good event. A ledger in which something is wrong is returned with Bad set; an error
// means that the files are no backup, or not parts of one: it wraps ErrDamaged, or is
// the reading's own.
func Verify(each func(events.Kind, events.Record) error, files ...io.Reader) ([]*Ledger, error) {
	v := &verifier{each: each}
	for _, file := range files {
		if err := v.file(file); err != nil {
			return nil, err
		}
	}
	return v.ledgers, nil
}

type verifier struct {
	each    func(events.Kind, events.Record) error
	ledgers []*Ledger
	now     *Ledger // whose frames are being read
}

func (v *verifier) file(r io.Reader) error {
	f, err := newReader(r)
	if err != nil {
		return err
	}
	v.now = nil
	for {
		fr, err := f.next()
		if err == nil {
			err = v.take(fr)
		}
		if errors.Is(err, io.EOF) {
			v.finish()
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (v *verifier) take(fr frame) error {
	if fr.kind == frameLedger {
		v.finish()
		p, err := decodePart(fr.payload)
		if err == nil {
			err = v.begin(p)
		}
		return err
	}
	if v.now == nil {
		return damaged("a frame before any ledger's")
	}
	switch fr.kind {
	case frameEvent:
		return v.event(events.Record(bytes.Clone(fr.payload)))
	case frameValue:
		key, value, err := splitValue(fr.payload)
		if err == nil {
			v.now.Values[key] = value
		}
		return err
	}
	return damaged("a frame of an unknown kind, %d", fr.kind)
}

// begin finds the ledger that a part goes on with, or begins one.
func (v *verifier) begin(p Part) error {
	for _, l := range v.ledgers {
		if l.Part.Kind != p.Kind {
			continue
		}
		if l.Part.Store != p.Store || l.Part.Genesis != p.Genesis || l.Part.Epoch != p.Epoch {
			return damaged("the %s of another key store, or of another epoch, than in the file before", p.Kind)
		}
		if p.Base != l.Part.Head {
			return damaged("the %s go on after event %d, but the file before ends at event %d: a file between is missing, or the order is another", p.Kind, p.Base.N, l.Part.Head.N)
		}
		p.Base = l.Part.Base
		l.Part, v.now = p, l
		return nil
	}
	if p.Base != (events.Head{}) {
		return damaged("the %s begin after event %d: this is an increment; name the whole backup that it belongs to first", p.Kind, p.Base.N)
	}
	v.now = &Ledger{Part: p, State: events.NewState(), Values: make(map[string][]byte)}
	v.ledgers = append(v.ledgers, v.now)
	return nil
}

func (v *verifier) event(rec events.Record) error {
	l := v.now
	if l.Bad != 0 {
		return nil // nothing after the first fault proves anything
	}
	if l.State.N() == 0 && rec.Hash() != l.Part.Genesis {
		l.fault(1, fmt.Errorf("the genesis is %s; the header says %s", rec.Hash(), l.Part.Genesis))
		return nil
	}
	if _, err := l.State.Apply(rec); err != nil {
		l.fault(l.State.N()+1, err)
		return nil
	}
	if v.each == nil {
		return nil
	}
	return v.each(l.Part.Kind, rec)
}

func (l *Ledger) fault(n keystore.N, err error) { l.Bad, l.Why = n, err }

// finish compares a ledger that was read to its end with what its header promised.
func (v *verifier) finish() {
	if v.now == nil {
		return
	}
	l := v.now
	v.now = nil
	if l.Bad == 0 && l.State.Head() != l.Part.Head {
		l.fault(l.State.N()+1, fmt.Errorf("it ends at event %d; its header says %d", l.State.N(), l.Part.Head.N))
	}
	if l.Bad == 0 {
		l.compareValues()
	}
}

// compareValues wants exactly the values that live; an increment's base may hold
// others, which ended since.
func (l *Ledger) compareValues() {
	for _, key := range l.State.Live() {
		want, _ := l.State.Expect(key)
		value, ok := l.Values[key]
		switch {
		case !ok:
			l.fault(l.State.N(), fmt.Errorf("the value of %s is missing", key))
			return
		case events.HashOf(value) != want:
			l.fault(l.State.N(), fmt.Errorf("the value of %s is not the one that its event put", key))
			return
		}
	}
	for key := range l.Values {
		if _, live := l.State.Expect(key); !live {
			clear(l.Values[key])
			delete(l.Values, key)
		}
	}
}
