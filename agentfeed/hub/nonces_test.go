package hub

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keytide/keytide/agentfeed/internal/wire"
)

// TestNoncesAreRemembered: within twice the window no nonce passes twice.
func TestNoncesAreRemembered(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newNonces()
		now := time.Unix(1_800_000_000, 0)
		type use struct {
			host  string
			nonce wire.Nonce
		}
		used := make(map[use]time.Time)
		for range rapid.IntRange(1, 300).Draw(t, "uses") {
			now = now.Add(time.Duration(rapid.IntRange(0, 400).Draw(t, "seconds")) * time.Second)
			u := use{rapid.SampledFrom([]string{"a", "b"}).Draw(t, "host"), wire.Nonce{byte(rapid.IntRange(0, 20).Draw(t, "nonce"))}}
			before, was := used[u]
			got := c.use(u.host, u.nonce, now)
			if was && now.Sub(before) < nonceSpan && got != nonceUsed {
				t.Fatalf("nonce %v of %s passes again after %v", u.nonce, u.host, now.Sub(before))
			}
			if (!was || now.Sub(before) > 4*nonceSpan) && got != nonceNew {
				t.Fatalf("nonce %v of %s is refused (%d)", u.nonce, u.host, got)
			}
			if got == nonceNew {
				used[u] = now
			}
		}
	})
}

func TestNoncesAreBounded(t *testing.T) {
	c := newNonces()
	now := time.Unix(1_800_000_000, 0)
	nonce := func(i int) wire.Nonce { return wire.Nonce{byte(i), byte(i >> 8), byte(i >> 16)} }
	for i := range maxHostNonces {
		if got := c.use("a", nonce(i), now); got != nonceNew {
			t.Fatalf("use %d = %d", i, got)
		}
	}
	if got := c.use("a", nonce(maxHostNonces), now); got != nonceFull {
		t.Errorf("a host's use beyond the bound = %d, want full", got)
	}
	if got := c.use("a", nonce(1), now); got != nonceUsed {
		t.Errorf("a replay when it is full = %d, want used", got)
	}
	if got := c.use("b", nonce(1), now); got != nonceNew {
		t.Errorf("another host's use = %d, want new", got)
	}
	if got := c.use("a", nonce(maxHostNonces), now.Add(nonceSpan)); got != nonceNew {
		t.Errorf("use in the next span = %d, want new", got)
	}
	if got := c.use("a", nonce(1), now.Add(nonceSpan)); got != nonceUsed {
		t.Errorf("replay in the next span = %d, want used", got)
	}
}
