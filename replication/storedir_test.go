package replication_test

import (
	"os"
	"testing"
	"time"
)

// storeDir is a folder for an embedded server. Unlike t.TempDir it bears that the
// server, stopped with a batch under way, still drops a file or two: it removes the
// folder as soon as that is over.
func storeDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "keytide-store-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
			err := os.RemoveAll(dir)
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Error(err)
				return
			}
		}
	})
	return dir
}
