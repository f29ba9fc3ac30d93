//go:build unix

package sidecar_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keytide/keytide/agentfeed/feedtest"
)

// TestOwner gives files to a user and group; only root can, and tests elsewhere see
// the agent say so.
func TestOwner(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	config, dir := writeConfig(t, server.WriteHostFile("web-1"), `outputs: [{name: web, files: [{path: ring.json, format: json, owner: nobody, group: "12345", mode: "0640"}]}]
`)
	a := start(t, "run", "--config", config)
	if os.Getuid() != 0 {
		if code := a.wait(); code != 1 || !strings.Contains(a.talk.String(), "operation not permitted") {
			t.Errorf("exit %d: %s", code, a.talk.String())
		}
		return
	}
	path := filepath.Join(dir, "ring.json")
	until(t, "the file is there", func() bool { _, err := os.Stat(path); return err == nil })
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if stat := info.Sys().(*syscall.Stat_t); stat.Uid == 0 || stat.Gid != 12345 || info.Mode() != 0o640 {
		t.Errorf("user %d, group %d, mode %v; want nobody, 12345, 0640", stat.Uid, stat.Gid, info.Mode())
	}
}
