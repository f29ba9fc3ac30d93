package agentfeed

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/secretfile"
)

func TestHolding(t *testing.T) {
	a, b, c := testMaterial(t, 1), testMaterial(t, 2), testMaterial(t, 3)
	for _, tt := range []struct {
		name       string
		held, disk holding
		offered    keystore.Material
		want       holding
		write      bool
	}{
		{"the first rollover", holding{secret: a}, holding{secret: a}, b, holding{secret: b, previous: a}, true},
		{"the second", holding{secret: b, previous: a}, holding{secret: b, previous: a}, c, holding{secret: c, previous: b}, true},
		{"the one in use", holding{secret: b, previous: a}, holding{secret: b, previous: a}, b, holding{secret: b, previous: a}, false},
		{"kept, and not known to a server before", holding{secret: b, previous: a, former: true}, holding{secret: b, previous: a}, b, holding{secret: b, previous: a}, false},
		{"another, after the newest was lost", holding{secret: b, previous: a, former: true}, holding{secret: b, previous: a}, c, holding{secret: c, previous: a}, true},
		{"another process was first", holding{secret: a}, holding{secret: c, previous: b}, b, holding{secret: c, previous: b}, false},
	} {
		next, write := tt.held.offered(tt.disk, tt.offered)
		if !sameSecret(next.secret, tt.want.secret) || !sameSecret(next.previous, tt.want.previous) || next.former != tt.want.former || write != tt.write {
			t.Errorf("%s: %s, previous %s, former %v, write %v", tt.name, next.secret.KID(), next.previous.KID(), next.former, write)
		}
	}
	h, again := holding{secret: a}.refused()
	if again || !sameSecret(h.use(), a) {
		t.Error("without a former secret there is something to try")
	}
	h, again = holding{secret: b, previous: a}.refused()
	if !again || !sameSecret(h.use(), a) {
		t.Error("the former secret is not tried")
	}
	if h, again = h.refused(); again || !sameSecret(h.use(), b) {
		t.Error("after both were refused, the newest is to be used, and not at once")
	}
}

func testCA(t *testing.T) []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestSecretsOnDisk walks what can be wrong with the file that keeps new secrets.
func TestSecretsOnDisk(t *testing.T) {
	a, b := testMaterial(t, 1), testMaterial(t, 2)
	dir := t.TempDir()
	path := filepath.Join(dir, "web-1.yaml")
	file := HostFile{Servers: []string{"https://ps-1:7443"}, CA: testCA(t), Host: "web-1", Secret: a, KID: a.KID()}
	write := func(h HostFile) {
		t.Helper()
		content, err := h.Encode()
		if err == nil {
			err = secretfile.Replace(path, content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(file)
	held := func(c Config) *secrets {
		t.Helper()
		h, err := c.hostFile()
		if err != nil {
			t.Fatal(err)
		}
		s, err := newSecrets(c, h, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		s.prepare()
		return s
	}
	s := held(Config{HostFile: path})
	instance, keeps := s.identity()
	if on, err := ReadHostFile(path); err != nil || !keeps || instance == "" || on.Instance != instance {
		t.Fatalf("instance %q, keeps %v; on disk %q, %v", instance, keeps, on.Instance, err)
	}
	if again, _ := held(Config{HostFile: path}).identity(); again != instance {
		t.Errorf("started anew: instance %q, want %q", again, instance)
	}
	if renewed, err := s.take(b, b); renewed || err != nil {
		t.Errorf("offered under another secret: %v, %v; want nothing done", renewed, err)
	}
	if renewed, err := s.take(b, a); !renewed || err != nil || !sameSecret(s.inUse(), b) {
		t.Fatalf("take = %v, %v", renewed, err)
	}
	on, err := ReadHostFile(path)
	if err != nil || on.KID != b.KID() || on.Previous.KID() != a.KID() || on.Instance != instance {
		t.Errorf("on disk: kid %s, previous %s, %v", on.KID, on.Previous.KID(), err)
	}
	if _, keeps := held(Config{HostFile: path, FixedSecret: true}).identity(); keeps {
		t.Error("a fixed secret is said to be kept")
	}

	other := on
	other.Host = "web-2"
	write(other)
	if _, err := s.take(testMaterial(t, 3), b); err == nil || !strings.Contains(err.Error(), "is now host web-2's") {
		t.Errorf("take over another host's file = %v", err)
	}
	if _, keeps := s.identity(); keeps || s.err() == nil {
		t.Error("after a failure the agent still says that it keeps")
	}
	write(on)
	s.prepare()
	if _, keeps := s.identity(); !keeps || s.err() != nil {
		t.Errorf("mended, but keeps %v, %v", keeps, s.err())
	}
}
