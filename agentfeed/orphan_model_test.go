package agentfeed

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/host"
)

var (
	histories   = flag.Int("histories", 3000, "how many histories TestNoHostIsOrphaned makes up")
	historySeed = flag.Uint64("history-seed", 0, "the seed of the first; 0: drawn")
)

// TestNoHostIsOrphaned makes histories of a host's shared secrets up: servers that lag,
// are cut off and restart, processes of agents that crash before and after they write,
// disks that refuse to be written, answers that are lost, and rollovers at any time.
// The rules are the product's own: host.Host decides and folds, holding decides for the
// agent. After each step every disk must hold a secret that is valid, and once
// everything is mended every process must get in.
func TestNoHostIsOrphaned(t *testing.T) {
	seed := *historySeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	rollovers := 0
	for i := range *histories {
		w := newOrphanWorld(seed + uint64(i))
		if err := w.live(orphanSteps); err != nil {
			w = newOrphanWorld(seed + uint64(i))
			w.tracing = true
			err = w.live(orphanSteps)
			t.Fatalf("-histories=1 -history-seed=%d: %v\n%s", seed+uint64(i), err, w.trace)
		}
		rollovers += int(w.newest().Generation) - 1
	}
	// A model in which nothing ever ends would find nothing.
	if *histories >= 100 && 2*rollovers < *histories {
		t.Errorf("%d rollovers in %d histories: the model has come to a halt", rollovers, *histories)
	}
	t.Logf("%d histories with %d rollovers", *histories, rollovers)
}

// TestTheModelSeesOrphans breaks a rule at a time: the model must notice.
func TestTheModelSeesOrphans(t *testing.T) {
	for name, fault := range map[string]func(*orphanWorld){
		"the former secret ends at once":              func(w *orphanWorld) { w.faults.retireAtOnce = true },
		"a secret is used before it is on disk":       func(w *orphanWorld) { w.faults.useFirst = true },
		"servers that are cut off are not waited for": func(w *orphanWorld) { w.faults.ignoreCut = true },
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(20_000) {
				w := newOrphanWorld(seed)
				fault(w)
				if w.live(orphanSteps) != nil {
					return
				}
			}
			t.Error("20,000 histories show nothing of it")
		})
	}
}

const (
	orphanSteps     = 200
	orphanServers   = 3
	orphanInstances = 2
	orphanProcesses = 3 // the first two share the disk of the first instance
)

type orphanWorld struct {
	rand *rand.Rand
	log  []host.Host // the ledger: the host after each event
	at   time.Time

	tracing bool
	trace   string

	servers   [orphanServers]orphanServer
	disks     [orphanInstances]holding
	processes [orphanProcesses]orphanProcess
	keys      map[keystore.KID]keystore.Material
	faults    struct{ retireAtOnce, useFirst, ignoreCut bool }
}

type orphanServer struct {
	applied int // into log
	cut     bool
	sights  map[byte]host.Instance // seen, not marked yet
}

type orphanProcess struct {
	up     bool
	held   holding
	server int               // of its session; -1: none
	under  keystore.Material // the secret that the session was opened with
	// owed says that its server has restarted under it, or it itself before the ledger
	// knew of its disk. Agents come back sooner than the servers take to settle.
	owed bool
}

func (p orphanProcess) disk(i int) int { return max(i-1, 0) }

func (w *orphanWorld) secret() keystore.Material {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d", len(w.keys)))
	m, err := keystore.NewMaterial(sum[:])
	if err != nil {
		panic(err)
	}
	w.keys[m.KID()] = m
	return m
}

func newOrphanWorld(seed uint64) *orphanWorld {
	w := &orphanWorld{rand: rand.New(rand.NewPCG(seed, 1)), keys: map[keystore.KID]keystore.Material{}, at: time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)}
	first := w.secret()
	var h host.Host
	c, err := h.Register("web-1", []keystore.RingName{"sso"}, keystore.NewKey{KID: first.KID(), Created: w.at}, host.Grant{})
	w.commit(c, err)
	w.disks[0] = holding{secret: first}
	c, err = w.newest().See([]host.Instance{w.instance(0, 1)})
	w.commit(c, err)
	for i := range w.servers {
		w.servers[i] = orphanServer{applied: len(w.log) - 1, sights: map[byte]host.Instance{}}
	}
	for p := range w.processes {
		w.start(p)
	}
	return w
}

// start starts a process from its disk. There is no second disk until it is copied.
func (w *orphanWorld) start(p int) {
	i := w.processes[p].disk(p)
	up := !w.disks[i].secret.IsZero()
	_, marked := w.newest().Instance(w.instance(i, 1).ID)
	w.processes[p] = orphanProcess{up: up, held: w.disks[i], server: -1, owed: up && (w.processes[p].owed || !marked)}
}

// clone copies the first disk, as a machine is copied, and starts the copy at a server
// at once: the others have not heard of it.
func (w *orphanWorld) clone(i int) {
	const p = orphanProcesses - 1
	if !w.disks[1].secret.IsZero() {
		return
	}
	w.disks[1] = w.disks[0]
	w.start(p)
	if !w.connect(p, i) {
		w.disks[1] = holding{}
		w.start(p)
	}
}

func (w *orphanWorld) instance(i int, generation uint64) host.Instance {
	return host.Instance{ID: host.InstanceID{byte(i + 1)}, Seen: w.at, Generation: generation, Keeps: true}
}

func (w *orphanWorld) newest() host.Host {
	if len(w.log) == 0 {
		return host.Host{}
	}
	return w.log[len(w.log)-1]
}

// commit writes an event, if it was decided.
func (w *orphanWorld) commit(c host.Change, err error) bool {
	if err != nil {
		return false
	}
	h := w.newest()
	next, err := h.Apply(c, keystore.EventRef{N: h.Last.N + 1, At: w.at})
	if err != nil {
		panic(err)
	}
	w.log = append(w.log, next)
	return true
}

func (w *orphanWorld) note(format string, args ...any) {
	if w.tracing {
		w.trace += fmt.Sprintf(format+"\n", args...)
	}
}

// live makes a history of that many steps, and mends everything at its end.
func (w *orphanWorld) live(steps int) error {
	for range steps {
		w.step()
		for i, d := range w.disks {
			if !d.secret.IsZero() && !w.valid(w.newest(), d.secret) && !w.valid(w.newest(), d.previous) {
				return fmt.Errorf("disk %d holds no secret that is valid", i)
			}
		}
	}
	return w.mend()
}

func (w *orphanWorld) valid(h host.Host, m keystore.Material) bool {
	if m.IsZero() {
		return false
	}
	_, ok := h.Secret(m.KID())
	return ok
}

func (w *orphanWorld) step() {
	i, p := w.rand.IntN(orphanServers), w.rand.IntN(orphanProcesses)
	switch w.rand.IntN(24) {
	case 0, 1, 2, 14, 15:
		for range 1 + w.rand.IntN(4) {
			w.apply(i)
		}
	case 16, 17:
		w.servers[i].cut = false
	case 18:
		w.clone(i)
	case 3:
		w.servers[i].cut = true
		w.note("server %d cut: %v", i, w.servers[i].cut)
	case 4: // a restart forgets what was not marked yet, and cuts its sessions
		w.note("server %d restarts", i)
		w.servers[i].sights = map[byte]host.Instance{}
		w.hangUp(i)
	case 5:
		if m := w.secret(); w.current(i) {
			c, err := w.newest().Offer(keystore.NewKey{KID: m.KID(), Created: w.at}, w.at)
			if w.commit(c, err) {
				w.note("server %d offers secret %s", i, m.KID())
			}
		}
	case 6, 7, 19, 20:
		w.mark(i)
	case 8, 21, 22:
		w.retire(i)
	case 9, 10:
		w.connect(p, i)
	case 11, 12, 23:
		w.take(p)
	case 13:
		w.note("process %d crashes", p)
		w.start(p)
	}
}

// current reports whether a server can write: it is not cut, and has applied all.
func (w *orphanWorld) current(i int) bool {
	return !w.servers[i].cut && w.servers[i].applied == len(w.log)-1
}

func (w *orphanWorld) apply(i int) {
	s := &w.servers[i]
	if s.cut || s.applied == len(w.log)-1 {
		return
	}
	s.applied++
	for p := range w.processes { // a secret that has ended ends its sessions
		if at := &w.processes[p]; at.server == i && !w.valid(w.log[s.applied], at.under) {
			at.server = -1
		}
	}
}

func (w *orphanWorld) hangUp(i int) {
	for p := range w.processes {
		if w.processes[p].server == i {
			w.processes[p].server, w.processes[p].owed = -1, true
		}
	}
}

// mark writes what a server has seen.
func (w *orphanWorld) mark(i int) {
	s := &w.servers[i]
	if !w.current(i) || len(s.sights) == 0 {
		return
	}
	var seen []host.Instance
	for _, id := range slices.Sorted(func(yield func(byte) bool) {
		for id := range s.sights {
			if !yield(id) {
				return
			}
		}
	}) {
		if w.newest().Marks(s.sights[id]) {
			seen = append(seen, s.sights[id])
		}
	}
	if len(seen) > 0 {
		c, err := w.newest().See(seen)
		if w.commit(c, err) {
			w.note("server %d marks %+v", i, seen)
		}
	}
	s.sights = map[byte]host.Instance{}
}

// retire ends the former secret, if every server has applied all and said what it saw.
func (w *orphanWorld) retire(i int) {
	h := w.newest()
	if !w.current(i) || !h.Rolling() {
		return
	}
	for _, s := range w.servers {
		settled := !s.cut && s.applied == len(w.log)-1 && len(s.sights) == 0
		if !settled && !w.faults.ignoreCut && !w.faults.retireAtOnce {
			return
		}
	}
	if slices.ContainsFunc(w.processes[:], func(p orphanProcess) bool { return p.owed }) && !w.faults.ignoreCut {
		return
	}
	c, err := h.Retire(w.at)
	if w.faults.retireAtOnce {
		c, err = host.Change{Kind: host.Retired, Host: h.Name, Destroyed: []keystore.KID{h.Secrets[1].KID}}, nil
	}
	if w.commit(c, err) {
		w.note("server %d retires", i)
	}
}

// connect opens a session, or is refused.
func (w *orphanWorld) connect(p, i int) bool {
	at, s := &w.processes[p], &w.servers[i]
	if !at.up {
		return false
	}
	at.owed = false
	h := w.log[s.applied]
	secret, ok := h.Secret(at.held.use().KID())
	w.note("process %d at server %d with %s: %v", p, i, at.held.use().KID(), ok)
	if !ok {
		at.server = -1
		if s.cut {
			return false // not-current: it goes on with what it has
		}
		if disk := w.disks[at.disk(p)]; !sameSecret(disk.secret, at.held.secret) {
			at.held = holding{secret: disk.secret, previous: disk.previous}
		} else {
			at.held, _ = at.held.refused()
		}
		return false
	}
	at.server, at.under = i, at.held.use()
	id := at.disk(p)
	sight := w.instance(id, secret.Generation)
	s.sights[sight.ID[0]] = sight
	return true
}

// take takes in what a session's server offers; it may crash at any point.
func (w *orphanWorld) take(p int) {
	at := &w.processes[p]
	if at.server < 0 || !sameSecret(at.under, at.held.use()) {
		return
	}
	h := w.log[w.servers[at.server].applied]
	if !h.Rolling() || h.Secrets[0].KID == at.under.KID() {
		return
	}
	offered := w.keys[h.Secrets[0].KID]
	disk := &w.disks[at.disk(p)]
	next, write := at.held.offered(*disk, offered)
	fate := w.rand.IntN(8)
	w.note("process %d takes %s, write %v, fate %d", p, offered.KID(), write, fate)
	switch {
	case fate == 0 || write && fate == 1: // it crashes before, or the disk refuses
		if w.faults.useFirst {
			at.held = next
		}
		if fate == 0 {
			w.start(p)
		}
		return
	case write:
		*disk = holding{secret: next.secret, previous: next.previous}
	}
	if fate == 2 { // it crashes after
		w.start(p)
		return
	}
	at.held = next
	if !sameSecret(at.under, next.use()) {
		at.server = -1 // it connects anew
	}
}

// mend heals and catches up everything, and has every process, and one that is started
// from its disk, get in: with as many attempts as an agent makes at once, and one more.
func (w *orphanWorld) mend() error {
	for i := range w.servers {
		w.servers[i].cut = false
		for w.servers[i].applied < len(w.log)-1 {
			w.apply(i)
		}
	}
	for p := range w.processes {
		if !w.processes[p].up {
			continue
		}
		for _, started := range []bool{false, true} {
			if started {
				w.start(p)
			}
			in := false
			for range 3 {
				in = in || w.connect(p, 0)
			}
			if !in {
				return fmt.Errorf("process %d (started anew: %v) does not get in", p, started)
			}
		}
	}
	return nil
}
