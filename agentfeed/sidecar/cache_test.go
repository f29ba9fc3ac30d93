package sidecar_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytide/keytide/agentfeed/feedtest"
)

// TestStartFromCache: an agent without a server writes the files of its cache; with
// the cache off it has none, not even one from before.
func TestStartFromCache(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	config, dir := writeConfig(t, server.WriteHostFile("web-1"), twoFiles)
	ready := func(a *agent, state string) func() bool {
		return func() bool { return a.out.String() == "keytide-agent ready state="+state+" rings=sso:1.1\n" }
	}
	a := start(t, "run", "--config", config)
	until(t, "it is ready", ready(a, "fresh"))
	cache := filepath.Join(dir, "state/rings.cache")
	until(t, "there is a cache", func() bool { _, err := os.Stat(cache); return err == nil })
	a.end()
	server.Stop()
	if err := os.RemoveAll(filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	a = start(t, "run", "--config", config)
	until(t, "it is ready from its cache", ready(a, "cached"))
	a.end()

	path := writeBeside(t, config, "nocache.yaml", "host_file: web-1.yaml\ncache: false\n"+twoFiles)
	a = start(t, "run", "--config", path)
	until(t, "it waits", func() bool { return strings.Contains(a.talk.String(), "feed lost") })
	if _, err := os.Stat(cache); err == nil || a.out.String() != "" {
		t.Error("it used or kept the cache although there is to be none")
	}
}
