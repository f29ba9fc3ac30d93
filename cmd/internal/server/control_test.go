package server

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/replication/wan"
)

// startControl runs a control over the links between three regions.
func startControl(t *testing.T, dir string) *wan.Net {
	t.Helper()
	links := wan.NewNet(0)
	for _, pair := range [][2]string{{"eu", "us"}, {"us", "ap"}, {"ap", "eu"}} {
		if _, err := links.Link(pair[0], pair[1], "127.0.0.1:1"); err != nil {
			t.Fatal(err)
		}
	}
	c, err := openControl(dir, links)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, links.Close()); err != nil {
			t.Error(err)
		}
	})
	return links
}

func TestControl(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	for name, dir := range map[string]string{"short": "d", "deep": strings.Repeat("deep/", 40)} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), dir)
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if _, err := SetLinks(t.Context(), dir, "ap", wan.Hold); err == nil || !strings.Contains(err.Error(), "does not run") {
				t.Errorf("with nothing that runs: %v", err)
			}
			links := startControl(t, dir)
			info, err := os.Stat(filepath.Join(dir, controlFile))
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the socket: %v, %v; want mode 0600", info, err)
			}
			got, err := SetLinks(t.Context(), dir, "ap", wan.Hold)
			want := []RegionLinks{{"ap", "hold"}, {"eu", "whole"}, {"us", "whole"}}
			if err != nil || !slices.Equal(got, want) || links.Fault("ap") != wan.Hold {
				t.Errorf("cut: %v, %v; the links have %v", got, err, links.Fault("ap"))
			}
			if _, err := SetLinks(t.Context(), dir, "mars", wan.Reset); !errors.Is(err, keystore.ErrNotFound) || !strings.Contains(err.Error(), "ap, eu, us") {
				t.Errorf("a region that is not there: %v", err)
			}
			if got, err := SetLinks(t.Context(), dir, "", 0); err != nil || !slices.Equal(got, want) {
				t.Errorf("a look changes nothing: %v, %v", got, err)
			}
			if _, err := SetLinks(t.Context(), dir, "ap", 0); err != nil || links.Fault("ap") != 0 {
				t.Errorf("heal: %v; the links have %v", err, links.Fault("ap"))
			}
		})
	}
}

func TestControlAfterACrashAndWithNonsense(t *testing.T) {
	dir := t.TempDir()
	left, err := listenUnix(filepath.Join(dir, controlFile))
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	if _, err := SetLinks(t.Context(), dir, "ap", wan.Reset); err == nil || !strings.Contains(err.Error(), "does not run") {
		t.Errorf("a socket that was left behind: %v", err)
	}
	links := startControl(t, dir)
	conn, err := net.Dial("unix", filepath.Join(dir, controlFile))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write([]byte("cut ap!\n"))
	answer := make([]byte, 200)
	if n, err := conn.Read(answer); err != nil || !strings.Contains(string(answer[:n]), "cannot be read") {
		t.Errorf("nonsense is answered with %q, %v", answer[:n], err)
	}
	if _, err := SetLinks(t.Context(), dir, "us", wan.Reset); err != nil || links.Fault("us") != wan.Reset {
		t.Errorf("after that: %v; the links have %v", err, links.Fault("us"))
	}
}
