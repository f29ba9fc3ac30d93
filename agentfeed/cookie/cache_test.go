package cookie_test

import (
	"testing"

	"github.com/keytide/keytide/agentfeed/cookie"
)

// TestCacheIsBounded opens tokens of more sealers than the cache holds.
func TestCacheIsBounded(t *testing.T) {
	r := ringOf(dynamicSet(t, 5, 3))
	for _, size := range []int{1, 5, 64} {
		c := newCodec(t, cookie.Config{Ring: r, Subkeys: size})
		var tokens [][]byte
		for range 4 * max(size, 8) {
			tokens = append(tokens, mustSeal(t, newCodec(t, cookie.Config{Ring: r}), "x"))
		}
		for range 3 {
			for _, token := range tokens {
				mustOpen(t, c, token, "x")
			}
		}
		most := 4
		for most < size {
			most *= 2
		}
		if n := c.Subkeys(); n > most || n < most/2 {
			t.Errorf("%d subkeys kept of %d, want at most %d and no fewer than half", n, len(tokens), most)
		}
	}
}

// TestForgersFillNothing: a header comes in only with a token that opens.
func TestForgersFillNothing(t *testing.T) {
	c := newCodec(t, cookie.Config{Ring: ringOf(dynamicSet(t, 5, 3))})
	token := mustSeal(t, c, "x")
	for i := 12; i < 32; i++ {
		wantRefused(t, c, changedAt(token, i), cookie.Unauthentic)
	}
	if n := c.Subkeys(); n != 1 {
		t.Errorf("%d subkeys kept, want the sealer's own", n)
	}
	elsewhere := mustSeal(t, newCodec(t, cookie.Config{Ring: ringOf(dynamicSet(t, 5, 3)), Context: "elsewhere"}), "x")
	wantRefused(t, c, elsewhere, cookie.Unauthentic)
	if n := c.Subkeys(); n != 1 {
		t.Errorf("%d subkeys kept after a token of another context, want 1", n)
	}
}
