package bundle_test

import (
	"errors"
	"testing"

	"github.com/keytide/keytide/keystore/bundle"
)

// FuzzOpenAs: whatever the text, it opens to what was closed, or gives one of the two
// errors.
func FuzzOpenAs(f *testing.F) {
	vector := readVectors(f).Bundles[1] // the same in every process that fuzzes
	key, err := bundle.ParseRecipientKey(vector.Recipient)
	if err != nil {
		f.Fatal(err)
	}
	signed, text := vector.Signed, vector.Bundle
	weak, err := bundle.CloseWeakly(signed, []byte("phrase"))
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{text, weak, "", "....", text[:100], text + "\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := bundle.OpenAs([]byte(text), key)
		if err == nil && got != signed {
			t.Errorf("opens to %q", got)
		}
		if err != nil && !errors.Is(err, bundle.ErrMalformed) && !errors.Is(err, bundle.ErrNotOpened) {
			t.Errorf("%v, want ErrMalformed or ErrNotOpened", err)
		}
	})
}

// FuzzContents signs whatever it is given: what passes encodes to something that
// passes as the same.
func FuzzContents(f *testing.F) {
	f.Add(payload(f, sign(f, aSet(f))))
	f.Add(`{"keytide":1,"keys":[{"kty":"oct"}]}`)
	f.Fuzz(func(t *testing.T, contents string) {
		s, _, err := bundle.Verify(resign(t, contents, nil))
		if err != nil {
			if !errors.Is(err, bundle.ErrMalformed) {
				t.Errorf("%v, want ErrMalformed", err)
			}
			return
		}
		again, _, err := bundle.Verify(sign(t, s))
		if err != nil || plain(t, again) != plain(t, s) {
			t.Errorf("does not come back the same: %v", err)
		}
	})
}

// FuzzVerify: a signed part that the seeds do not hold is refused.
func FuzzVerify(f *testing.F) {
	signed := sign(f, aSet(f))
	f.Add(signed)
	f.Add("..")
	f.Fuzz(func(t *testing.T, text string) {
		_, _, err := bundle.Verify(text)
		if err == nil && text != signed || err != nil && !errors.Is(err, bundle.ErrMalformed) && !errors.Is(err, bundle.ErrSignature) {
			t.Errorf("Verify(%q) = %v", text, err)
		}
	})
}
