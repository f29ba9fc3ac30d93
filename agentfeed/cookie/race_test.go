package cookie_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/keytide/keytide/agentfeed/cookie"
)

// TestConcurrentUse seals and opens in eight goroutines at two agents of which one is
// a version ahead now and then, while salts end and a small cache evicts.
func TestConcurrentUse(t *testing.T) {
	const goroutines, rounds, versions, retained = 8, 400, 6, 64
	ahead, behind := ringOf(dynamicSet(t, 1, 0)), ringOf(dynamicSet(t, 1, 0))
	agents := []*cookie.Codec{
		newCodec(t, cookie.Config{Ring: ahead, Subkeys: 8}),
		newCodec(t, cookie.Config{Ring: behind, Subkeys: 8}),
	}
	for _, c := range agents {
		mustSeal(t, c, "x")
	}
	work := func(g int) error {
		buf, out := make([]byte, 0, cookie.MaxToken), make([]byte, 0, cookie.MaxToken)
		for i := range rounds {
			payload := fmt.Sprintf("%d/%d", g, i)
			token, err := agents[(g+i)%2].Seal(buf, []byte(payload))
			if err != nil {
				return err
			}
			for _, c := range agents {
				opened, err := c.Open(out, token)
				if err != nil || string(opened.Payload) != payload {
					return fmt.Errorf("%s: Open = %q, %v (%v)", payload, opened.Payload, err, cookie.ReasonOf(err))
				}
			}
		}
		return nil
	}
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			if err := work(g); err != nil {
				t.Error(err)
			}
		})
	}
	for v := 2; v <= versions; v++ {
		ahead.set.Store(dynamicSet(t, v, retained))
		mustSeal(t, agents[0], "x")
		agents[0].Spend(1 << 24)
		mustOpen(t, agents[1], mustSeal(t, agents[0], "x"), "x")
		behind.set.Store(dynamicSet(t, v, retained))
	}
	wg.Wait()
}
