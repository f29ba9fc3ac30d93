package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	coreKills   = flag.Int("kills.core", 1, "TestCoreKilledAtOnce: how often all core servers are killed")
	randomKills = flag.Int("kills.random", 2, "TestRandomServersKilled: how often a set of servers is killed")
	killSeed    = flag.Uint64("kills.seed", 0, "seed of both; 0: drawn")
)

// killPatience is how long a deployment may take after a round of kills: the core
// elects, restarted servers read what they missed, and the machine may be busy.
const killPatience = 3 * time.Minute

// A killing is rounds in which servers die by kill -9 while administrators work and
// users hop between applications in two regions.
type killing struct {
	*deployment
	load  *load
	apps  []string // URLs
	users *crowd
	// newest is the version of ring sso.
	newest uint64
	r      *rand.Rand
	// victims draws the regions whose servers die together.
	victims func(*rand.Rand) []string
	// beside, if set, goes on while servers die, as changes of the core's membership;
	// it ends by itself, or by end.
	beside func(t *testing.T, end <-chan struct{})
}

func newKilling(t *testing.T, victims func(*rand.Rand) []string) *killing {
	t.Helper()
	seed := *killSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("killed by seed %d", seed)
	k := &killing{deployment: deploy(t), r: rand.New(rand.NewPCG(seed, 0)), victims: victims}
	k.sites["eu"].keytide(t, "ring", "create", "sso", "--min-interval", "0s", "--reason", "rollovers in quick succession", "--yes")
	k.awaitEven(t)
	k.newest = k.sites["eu"].ring(t).Version
	k.load = newLoad(t, k.deployment)
	for _, region := range []string{"eu", "us"} {
		s := k.sites[region]
		k.apps = append(k.apps, startWebapp(t, s.output, s.host(t, "web-"+region)))
	}
	k.users = startCrowd(t, 4, k.apps...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("users complain: %q", k.users.refused) // they have gone home before
		}
	})
	awaitRequests(t, k.users, 20)
	return k
}

// round kills servers amid work, starts them again, and looks whether everything that
// was acknowledged is there, the same everywhere.
func (k *killing) round(t *testing.T, round int) {
	t.Helper()
	k.load.run(k.r)
	stop, beside := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(beside)
		if k.beside != nil {
			k.beside(t, stop)
		}
	}()
	k.load.awaitAnswers(t, 12)
	if k.agentsEven(t) {
		k.load.rollSSO(k.r)
	}
	<-time.After(time.Duration(k.r.IntN(400)) * time.Millisecond) // the moment is what is random here
	victims := k.victims(k.r)
	for _, region := range victims {
		must(t, k.sites[region].cmd.Process.Kill())
	}
	for _, region := range victims {
		<-k.sites[region].exited
	}
	killed := time.Now()
	<-time.After(time.Duration(k.r.IntN(2000)) * time.Millisecond)
	k.r.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
	for _, region := range victims {
		s := k.sites[region]
		s.process = start(t, s.output, "", append([]string{"keytide"}, s.command...)...)
	}
	k.load.awaitAnswers(t, 3)
	writable := time.Since(killed)
	close(stop)
	<-beside
	k.load.end()
	k.awaitWell(t)
	k.awaitEven(t)
	k.load.check(t, allRegions[k.r.IntN(len(allRegions))])
	k.newest = k.sites["eu"].ring(t).Version
	k.load.askAgain(t, k.r, 8)
	awaitRequests(t, k.users, 10)
	asked, answered, _ := k.load.tally()
	t.Logf("round %d: %v killed; changes go on after %v; %d of %d acknowledged so far", round, victims, writable.Round(10*time.Millisecond), answered, asked)
}

// agentsEven reports whether every application has the newest ring. One whose server died
// waits for up to half a minute before it asks there again; real rollovers are further
// apart than that.
func (k *killing) agentsEven(t *testing.T) bool {
	t.Helper()
	for _, app := range k.apps {
		got, err := application(app)()
		must(t, err)
		if got.State != "fresh" || got.Version != k.newest {
			return false
		}
	}
	return true
}

// awaitWell waits until every server says that it is fresh. One that says forked or
// halted never will be.
func (k *killing) awaitWell(t *testing.T) {
	t.Helper()
	for _, region := range allRegions {
		eventuallyWithin(t, killPatience, region+" is fresh", func() error {
			state, why, _, err := k.own(t, region)
			switch {
			case err != nil:
				return err
			case state == "forked" || state == "halted":
				t.Fatalf("%s says that it is %s: %s", region, state, why)
			case state != "fresh":
				return fmt.Errorf("%s says that it is %s: %s", region, state, why)
			}
			return nil
		})
	}
}

// finish looks at everything once more.
func (k *killing) finish(t *testing.T) {
	t.Helper()
	k.users.end()
	keys := map[string]uint64{}
	for _, ev := range k.sites["eu"].past(t, "sso") {
		for _, made := range ev.Made {
			keys[made.KID] = ev.Version
		}
	}
	k.users.check(t, keys)
	for _, region := range allRegions {
		k.load.check(t, region)
	}
	asked, answered, refused := k.load.tally()
	t.Logf("%d changes asked for, %d acknowledged, %d refused by the guard", asked, answered, refused)
	if out := k.sites["eu"].output.String(); strings.Contains(out, "panic:") || strings.Contains(out, "DATA RACE") {
		t.Errorf("a server has panicked:\n%s", out)
	}
}

// TestCoreKilledAtOnce kills all three servers of a core by kill -9 at one moment, amid
// changes: each change that was acknowledged is there afterwards, once, and the same
// everywhere; no server calls itself forked; users notice nothing. Ten rounds:
//
//	go test ./e2e -run TestCoreKilledAtOnce -kills.core 10 -timeout 30m
func TestCoreKilledAtOnce(t *testing.T) {
	k := newKilling(t, func(*rand.Rand) []string { return slices.Clone(coreRegions) })
	for round := range *coreKills {
		k.round(t, round+1)
	}
	k.finish(t)
}

// TestRandomServersKilled is the same with a random set of core and policy servers in
// each round, from one to all of them. A hundred rounds:
//
//	go test ./e2e -run TestRandomServersKilled -kills.random 100 -timeout 2h
func TestRandomServersKilled(t *testing.T) {
	k := newKilling(t, func(r *rand.Rand) []string {
		some := slices.Clone(allRegions)
		r.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
		return some[:1+r.IntN(len(some))]
	})
	for round := range *randomKills {
		k.round(t, round+1)
	}
	k.finish(t)
}
