package cookie_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keytide/keytide/agentfeed/cookie"
	"github.com/keytide/keytide/keystore"
)

// A legacy opens tokens "old:<kid>:<payload>" and notes which keys it was given.
type legacy struct {
	tried  []keystore.KID
	issued time.Time
	maxAge time.Duration
}

func (l *legacy) Match(token []byte) bool { return bytes.HasPrefix(token, []byte("old:")) }

func (l *legacy) Open(dst, token []byte, key keystore.Material) (cookie.Foreign, error) {
	l.tried = append(l.tried, key.KID())
	payload, ok := bytes.CutPrefix(token, []byte("old:"+key.KID().String()+":"))
	if !ok {
		return cookie.Foreign{}, errors.New("not this key")
	}
	return cookie.Foreign{Payload: append(dst, payload...)[len(dst):], Issued: l.issued, MaxAge: l.maxAge}, nil
}

func TestForeignTriesKeysInOrder(t *testing.T) {
	current, old1, old2 := setKey(t, "c", keystore.Current), setKey(t, "o1", keystore.Old), setKey(t, "o2", keystore.Old)
	future, static := setKey(t, "f", keystore.Future), setKey(t, "s", keystore.Static)
	kids := func(keys ...keystore.SetKey) (all []keystore.KID) {
		for _, k := range keys {
			all = append(all, k.KID)
		}
		return all
	}
	staticFirst := setOf(keystore.ModeStatic, static, old1, old2, current, future)
	staticFirst.Keys[0].Seals, staticFirst.Keys[3].Seals = true, false
	for _, test := range []struct {
		name    string
		set     *keystore.KeySet
		purpose cookie.Purpose
		want    []keystore.KID
	}{
		{"dynamic", setOf(keystore.ModeDynamic, current, old1, old2, future, static), cookie.Session, kids(current, old1, old2, future)},
		{"static", staticFirst, cookie.Session, kids(current, old1, old2, future, static)},
		{"tracking", setOf(keystore.ModeDynamic, current, old1, future, static), cookie.Tracking, kids(static)},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := &legacy{}
			c := newCodec(t, cookie.Config{Ring: ringOf(test.set), Purpose: test.purpose, Fallback: l})
			wantRefused(t, c, []byte("old:0000000000000000:x"), cookie.Unauthentic)
			if !slices.Equal(l.tried, test.want) {
				t.Errorf("tried %v, want %v", l.tried, test.want)
			}
			for _, kid := range test.want {
				o := mustOpen(t, c, []byte("old:"+kid.String()+":x"), "x")
				if o.KID != kid || !o.Foreign || !o.Reseal {
					t.Errorf("Open = %+v, want a foreign token of %v to reseal", o, kid)
				}
			}
		})
	}
}

func TestForeignIsAskedOnlyForWhatIsNotNative(t *testing.T) {
	l := &legacy{}
	r := ringOf(dynamicSet(t, 3, 1))
	c := newCodec(t, cookie.Config{Ring: r, Fallback: l})
	token := mustSeal(t, c, "x")
	mustOpen(t, c, token, "x")
	wantRefused(t, c, changedAt(token, 60), cookie.Unauthentic)
	wantRefused(t, c, bytes.Repeat([]byte("x"), 200), cookie.Malformed)
	wantRefused(t, c, append([]byte("old:"), make([]byte, cookie.MaxToken)...), cookie.Malformed)
	if len(l.tried) != 0 {
		t.Errorf("tried %v, want no keys", l.tried)
	}
	// OpenString gives it bytes that it may not share with the string.
	kid := r.Snapshot().Keys[0].KID.String()
	if o, err := c.OpenString(nil, "old:"+kid+":x"); err != nil || string(o.Payload) != "x" {
		t.Errorf("OpenString = %q, %v", o.Payload, err)
	}
}

func TestForeignSessionsEndToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &legacy{}
		r := ringOf(dynamicSet(t, 3, 1))
		c := newCodec(t, cookie.Config{Ring: r, MaxAge: time.Hour, Fallback: l})
		token := []byte("old:" + r.Snapshot().Keys[0].KID.String() + ":x")
		if o := mustOpen(t, c, token, "x"); !o.Issued.Equal(time.Now()) || o.MaxAge != time.Hour {
			t.Errorf("Issued, MaxAge = %v, %v; want now and the codec's hour", o.Issued, o.MaxAge)
		}
		l.issued, l.maxAge = time.Now(), 90*time.Second
		opened := mustOpen(t, c, token, "x")
		native, err := c.Reseal(nil, opened)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(90 * time.Second)
		wantRefused(t, c, token, cookie.Expired)
		wantRefused(t, c, native, cookie.Expired)
		l.issued = time.Now().Add(time.Hour)
		wantRefused(t, c, token, cookie.Premature)
	})
}
