package server

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytide/keytide/keystore/adminapi"
)

// TestUnlockKeyIsAskedForAtTheStartAlone: what unlocks the key store key is away. A server
// that runs makes and feeds keys as before; a start says what it lacks, changes nothing,
// and succeeds once that is back.
func TestUnlockKeyIsAskedForAtTheStartAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	r := start(t, dir)
	key := filepath.Join(dir, unlockFile)
	if err := os.Rename(key, key+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.service.Rollover(t.Context(), "alice", devRing, adminapi.Rollover{Intent: intent()}); err != nil {
		t.Errorf("a rollover without the unlock key: %v", err)
	}
	r.diagnose(t)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	err := Dev(t.Context(), DevConfig{
		Dir: dir, Listen: "127.0.0.1:0", FeedListen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler),
		Ready: func(Ready) { t.Error("the server serves without its key store key") },
	})
	if err == nil || !strings.Contains(err.Error(), "unlock key") {
		t.Errorf("a start without the unlock key = %v, want an error that names it", err)
	}
	if err := os.Rename(key+".away", key); err != nil {
		t.Fatal(err)
	}
	if got := start(t, dir).show(t).Version; got != 2 {
		t.Errorf("version = %d, want 2", got)
	}
}
