package replication_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/replication"
	"github.com/keytide/keytide/replication/bus"
)

// The test binary starts itself with this variable to be a server that is killed.
const childDir = "KEYTIDE_TEST_CHILD_DIR"

const killRounds = 25

// Nothing acknowledged is lost by kill -9 at any moment, and the server starts again
// in its last state: from its replica alone, before it has reached the core.
func TestKilledServerLosesNothing(t *testing.T) {
	c := newCore(t)
	c.stop()
	files := map[string][]byte{"key": c.key, "genesis": c.pin.Genesis[:]}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(c.dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dir := c.dir
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	acked := make(map[keystore.N]string) // n → hash
	var newest keystore.N
	for round := range killRounds {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		stderr := new(strings.Builder)
		cmd.Stderr = stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		kill := time.Duration(r.IntN(60)) * time.Millisecond
		started := false
		for lines.Scan() {
			var word, hash string
			var n keystore.N
			if _, err := fmt.Sscan(lines.Text(), &word, &n, &hash); err != nil {
				t.Fatalf("round %d: line %q: %v", round, lines.Text(), err)
			}
			switch word {
			case "have": // what the replica alone has at the start
				if n < newest {
					t.Errorf("round %d: the replica starts at event %d; event %d was acknowledged", round, n, newest)
				}
			case "record":
				if want, ok := acked[n]; ok && want != hash {
					t.Errorf("round %d: event %d is not the one that was acknowledged", round, n)
				}
				delete(acked, n)
			case "ack":
				acked[n], newest = hash, max(newest, n)
				if !started {
					started = true
					time.AfterFunc(kill, func() { cmd.Process.Kill() })
				}
			}
		}
		if err := cmd.Wait(); err == nil || !started {
			t.Fatalf("round %d: the server ended by itself: %v\n%s", round, err, stderr)
		}
	}
	t.Logf("%d events acknowledged in %d rounds", newest, killRounds)
}

// childMain commits until it is killed. It prints "have n hash" and "record n hash"
// for every event that its replica starts with, and "ack n hash" for each receipt.
func childMain(dir string) {
	if err := child(dir, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func child(dir string, out io.Writer) error {
	ctx := context.Background()
	tb := childTB{}
	key, err := os.ReadFile(filepath.Join(dir, "key"))
	if err != nil {
		return err
	}
	genesis, err := os.ReadFile(filepath.Join(dir, "genesis"))
	if err != nil {
		return err
	}
	pin := replication.Pin{Kind: events.Keys, Store: "main", Epoch: 1, Genesis: events.Hash(genesis)}
	replica, err := replication.OpenReplica(filepath.Join(dir, "replica.db"), pin)
	if err != nil {
		return err
	}
	for rec, err := range replica.Records(1, 1<<62) {
		if err != nil {
			return err
		}
		ev, err := events.Decode(rec)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, "record", uint64(ev.N), rec.Hash())
	}
	replica.Read(func(s *events.State) { fmt.Fprintln(out, "have", uint64(s.N()), s.Hash()) })
	b, err := bus.Start(bus.Config{StoreDir: filepath.Join(dir, "bus"), ServerName: "ps-1"})
	if err != nil {
		return err
	}
	js, _, err := b.JetStream("child")
	if err != nil {
		return err
	}
	l, err := ledger.Open(ctx, js, bucket)
	if err != nil {
		return err
	}
	m, err := replication.New(replication.MemberConfig{
		Log: l, Replica: replica, Identity: replication.Identity{Server: "ps-1", Region: "eu", Address: "127.0.0.1:1", Key: key},
	})
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- m.Run(ctx) }()
	ring := keystore.RingName("sso")
	for {
		got, err := m.Commit(ctx, func(s *events.State) (replication.Proposal, error) {
			if _, ok := s.Ring(ring); !ok {
				return replication.CreateRing(tb, ring)(s)
			}
			return replication.Roll(tb, ring, "")(s)
		})
		select {
		case err := <-failed:
			return fmt.Errorf("Run ended: %v", err)
		default:
		}
		if errors.Is(err, events.ErrUnavailable) {
			<-time.After(time.Millisecond) // it has not read the ledger yet
			continue
		}
		if err != nil {
			return err
		}
		rec, err := replica.Record(got.N)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, "ack", uint64(got.N), rec.Hash())
	}
}

// A childTB is what the kit needs of a test, in a process that is none.
type childTB struct{ testing.TB }

func (childTB) Helper()           {}
func (childTB) Fatal(args ...any) { panic(fmt.Sprint(args...)) }
