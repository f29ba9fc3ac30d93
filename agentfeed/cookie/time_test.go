package cookie_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keytide/keytide/agentfeed/cookie"
)

func TestTokensEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCodec(t, cookie.Config{Ring: ringOf(dynamicSet(t, 5, 3)), MaxAge: time.Hour})
		start := time.Now()
		token := mustSeal(t, c, "x")
		opened := mustOpen(t, c, token, "x")
		if !opened.Issued.Equal(start) || opened.MaxAge != time.Hour {
			t.Errorf("Issued, MaxAge = %v, %v; want %v, 1h", opened.Issued, opened.MaxAge, start)
		}
		if end, ok := opened.Expires(); !ok || !end.Equal(start.Add(time.Hour)) {
			t.Errorf("Expires = %v %v, want an hour after %v", end, ok, start)
		}
		time.Sleep(time.Hour - time.Second)
		mustOpen(t, c, token, "x")
		time.Sleep(time.Second)
		wantRefused(t, c, token, cookie.Expired)
	})
}

// TestResealKeepsTheEnd: a session ends however often it is renewed.
func TestResealKeepsTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := ringOf(dynamicSet(t, 5, 9))
		c := newCodec(t, cookie.Config{Ring: r, MaxAge: time.Hour})
		other := newCodec(t, cookie.Config{Ring: r, MaxAge: 24 * time.Hour}) // its own maximum age is for new tokens
		start := time.Now()
		token := mustSeal(t, c, "x")
		for v := 6; v < 11; v++ {
			time.Sleep(10 * time.Minute)
			r.set.Store(dynamicSet(t, v, 9))
			opened := mustOpen(t, other, token, "x")
			if !opened.Reseal || !opened.Issued.Equal(start) || opened.MaxAge != time.Hour {
				t.Fatalf("opened %+v, want a reseal of a session of %v", opened, start)
			}
			var err error
			if token, err = other.Reseal(nil, opened); err != nil {
				t.Fatal(err)
			}
			if mustOpen(t, c, token, "x").Reseal {
				t.Fatal("a token just resealed asks for it again")
			}
		}
		time.Sleep(10 * time.Minute)
		wantRefused(t, c, token, cookie.Expired)
	})
}

func TestClocksMayDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCodec(t, cookie.Config{Ring: ringOf(dynamicSet(t, 5, 3))})
		ahead := func(d time.Duration) []byte {
			token, err := c.Reseal(nil, cookie.Opened{Payload: []byte("x"), Issued: time.Now().Add(d), MaxAge: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			return token
		}
		mustOpen(t, c, ahead(cookie.ClockSkew), "x")
		late := ahead(cookie.ClockSkew + time.Second)
		wantRefused(t, c, late, cookie.Premature)
		time.Sleep(time.Second)
		mustOpen(t, c, late, "x")
	})
}

func TestNoEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCodec(t, cookie.Config{Ring: ringOf(dynamicSet(t, 5, 3)), Purpose: cookie.Tracking})
		token := mustSeal(t, c, "x")
		time.Sleep(20 * 365 * 24 * time.Hour)
		if end, ok := mustOpen(t, c, token, "x").Expires(); ok {
			t.Errorf("Expires = %v, want none", end)
		}
	})
}

func TestTimesOutOfRange(t *testing.T) {
	c := newCodec(t, cookie.Config{Ring: ringOf(dynamicSet(t, 5, 3))})
	for _, opened := range []cookie.Opened{
		{}, // a zero time is before 1970
		{Issued: time.Unix(-1, 0), MaxAge: time.Hour},
		{Issued: time.Unix(1<<32, 0), MaxAge: time.Hour},
		{Issued: time.Unix(1, 0), MaxAge: -time.Hour},
		{Issued: time.Unix(1, 0), MaxAge: (1 << 32) * time.Second},
	} {
		if _, err := c.Reseal(nil, opened); !errors.Is(err, cookie.ErrTime) {
			t.Errorf("Reseal of %v, %v: %v, want ErrTime", opened.Issued, opened.MaxAge, err)
		}
	}
}

func sealerOf(t *testing.T, token []byte) string {
	t.Helper()
	e, err := cookie.Explain(string(token))
	if err != nil {
		t.Fatal(err)
	}
	return e.Sealer
}

func TestSaltIsNewAfterTwelveHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCodec(t, cookie.Config{Ring: ringOf(dynamicSet(t, 5, 3)), MaxAge: 48 * hour})
		first := mustSeal(t, c, "x")
		time.Sleep(12*hour - time.Second)
		if got, want := sealerOf(t, mustSeal(t, c, "x")), sealerOf(t, first); got != want {
			t.Errorf("another salt before 12 hours")
		}
		time.Sleep(time.Second)
		second := mustSeal(t, c, "x")
		if sealerOf(t, second) == sealerOf(t, first) {
			t.Errorf("the same salt after 12 hours")
		}
		mustOpen(t, c, first, "x")
		mustOpen(t, c, second, "x")
	})
}

func TestSaltIsNewAfterSoManyTokens(t *testing.T) {
	c := newCodec(t, cookie.Config{Ring: ringOf(dynamicSet(t, 5, 3))})
	first := mustSeal(t, c, "x")
	buf := make([]byte, 0, cookie.MaxToken)
	for range 1 << 18 {
		if _, err := c.Seal(buf, nil); err != nil {
			t.Fatal(err)
		}
	}
	// The count of 2^18 tokens is a sum over 2^10 samples; a quarter off is 8 standard
	// deviations.
	if n := c.Counted(); n < 3<<16 || n > 5<<16 {
		t.Errorf("counted %d of %d tokens", n, 1<<18)
	}
	c.Spend(1<<24 - 1)
	if sealerOf(t, mustSeal(t, c, "x")) != sealerOf(t, first) {
		t.Error("another salt before 2^24 tokens")
	}
	c.Spend(1 << 24)
	if sealerOf(t, mustSeal(t, c, "x")) == sealerOf(t, first) {
		t.Error("the same salt after 2^24 tokens")
	}
	mustOpen(t, c, first, "x")
}
