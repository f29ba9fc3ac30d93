package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/doctor"
	"github.com/keytide/keytide/replication"
	"github.com/keytide/keytide/replication/bus"
)

const (
	checkupPeriod = 45 * time.Second
	// checkupBytes is how much of each ledger's files a checkup reads: a core server's
	// disk has a megabyte a second to spare, and a usual ledger is read whole each time.
	checkupBytes = 64 << 20
	checkupLimit = 40 * time.Second
)

// A checkup looks at this server from time to time, for as long as it runs, and keeps as
// alarms what nothing else would notice. Each round costs the same, however large the
// ledgers are: it goes on in the core server's files where the last one ended.
type checkup struct {
	site *site

	mu     sync.Mutex // guards the fields below
	passes map[events.Kind]*storePass
	alarms []adminapi.Alarm
}

// A storePass goes through one ledger in this core server's own files.
type storePass struct {
	sweep  *replication.Sweep
	next   uint64
	damage map[string]bool // of this pass
	// Of the last whole pass, and what this one has found already.
	holes []string
}

func newCheckup(s *site) *checkup {
	return &checkup{site: s, passes: make(map[events.Kind]*storePass)}
}

// run makes a round each period until ctx ends.
func (c *checkup) run(ctx context.Context) error {
	period := c.site.cfg.checkup
	if period == 0 {
		period = checkupPeriod
	}
	for wait := period/8 + rand.N(period/8+1); ; wait = period {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
		c.round(ctx)
	}
}

// round looks, and keeps what it finds.
func (c *checkup) round(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, checkupLimit)
	defer cancel()
	o := c.site.observe(ctx, false)
	o.Core.Store = c.store(ctx, checkupBytes)
	if ctx.Err() == nil {
		c.keep(doctor.Examine(o), o.At)
	}
}

// alarming are the findings that no other alarm tells.
var alarming = map[doctor.Code]bool{
	doctor.StoreDamaged: true, doctor.StoreHoles: true, doctor.StoreDiffers: true, doctor.UnsafeServer: true,
	doctor.DiskFull: true, doctor.LedgerFull: true, doctor.CoreServerAway: true, doctor.ReplicaDamaged: true,
}

// keep makes alarms of findings, and ends those that are not found any more.
func (c *checkup) keep(findings []doctor.Finding, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.alarms
	c.alarms = nil
	for _, f := range findings {
		if alarming[f.Code] {
			c.alarms = append(c.alarms, adminapi.Alarm{Ledger: "doctor", Kind: string(f.Code), Key: f.Subject, Text: f.Text, Since: at})
		}
	}
	for i, a := range c.alarms {
		known := false
		for _, b := range before {
			if b.Kind == a.Kind && b.Key == a.Key && b.Ended.IsZero() {
				c.alarms[i].Since, known = b.Since, true
			}
		}
		if !known {
			c.site.log.Error("alarm", "kind", a.Kind, "key", a.Key, "why", a.Text)
		}
	}
	for _, b := range before {
		if c.standing(b.Kind, b.Key) {
			continue
		}
		if b.Ended.IsZero() {
			c.site.log.Info("alarm ended", "kind", b.Kind, "key", b.Key)
			b.Ended = at
		}
		if at.Sub(b.Ended) < 24*time.Hour {
			c.alarms = append(c.alarms, b)
		}
	}
}

func (c *checkup) standing(kind, key string) bool {
	for _, a := range c.alarms {
		if a.Kind == kind && a.Key == key && a.Ended.IsZero() {
			return true
		}
	}
	return false
}

// list are the alarms that stand, and those that ended within a day.
func (c *checkup) list() []adminapi.Alarm {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]adminapi.Alarm{}, c.alarms...)
}

// store goes on reading this core server's files, at most limit bytes of each ledger's.
// It returns what the pass has found so far and, until that is through, what the last
// one found. Without a core server of its own it returns nil.
func (c *checkup) store(ctx context.Context, limit int64) *doctor.Store {
	if c.site.bus == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := &doctor.Store{Dir: c.site.bus.StreamDir("")}
	for _, m := range c.site.members() {
		kind := m.Replica().Pin().Kind
		if c.passes[kind] == nil {
			c.passes[kind] = &storePass{damage: make(map[string]bool)}
		}
		c.passes[kind].read(ctx, c.site, m, limit, seen)
	}
	return seen
}

// whole reads all of this core server's files.
func (c *checkup) whole(ctx context.Context) *doctor.Store {
	aside := &checkup{site: c.site, passes: make(map[events.Kind]*storePass)}
	return aside.store(ctx, 1<<62)
}

func (p *storePass) read(ctx context.Context, s *site, m *replication.Member, limit int64, seen *doctor.Store) {
	kind := m.Replica().Pin().Kind
	bucket := events.BucketName(kind, s.id.Store, s.id.Epoch)
	if p.next == 0 {
		p.sweep = replication.NewSweep(m.Replica())
	}
	scan, err := s.bus.ReadBlocks(events.StreamName(bucket), p.next, limit, func(msg bus.Stored) {
		if key, ok := events.KeyOf(bucket, msg.Subject); ok && strings.HasPrefix(key, "log.") {
			p.sweep.Take(events.Entry{Key: key, Value: msg.Data, Revision: events.Revision(msg.Sequence)})
		}
	})
	if errors.Is(err, fs.ErrNotExist) {
		return // this server has none of the ledger: its state tells that
	}
	if err != nil {
		s.log.Warn("reading the core server's files", "err", err)
		return
	}
	seen.Bytes += scan.Bytes
	for _, d := range scan.Damage {
		p.damage[d.String()] = true
	}
	for place := range p.damage {
		seen.Damage = append(seen.Damage, place)
	}
	p.next = scan.Next
	if p.next == 0 {
		p.holes = p.lacking(ctx, m, kind.String())
		p.damage = make(map[string]bool)
	}
	seen.Holes = append(seen.Holes, p.holes...)
}

// lacking are the events that are not in these files as they must be, although the
// bucket, which other servers answer for, has them. What the bucket lacks is told of it.
func (p *storePass) lacking(ctx context.Context, m *replication.Member, kind string) []string {
	keys := p.sweep.Events()
	if len(keys) == 0 {
		return nil
	}
	flaws, err := m.Confirm(ctx, keys)
	if err != nil {
		return nil // the next pass asks anew
	}
	elsewhere := make(map[string]bool)
	for _, f := range flaws {
		elsewhere[f.Key] = true
	}
	var holes []string
	for _, key := range keys {
		if !elsewhere[key] {
			holes = append(holes, fmt.Sprintf("%s of the ledger of %s", key, kind))
		}
	}
	return holes
}
