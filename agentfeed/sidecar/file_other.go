//go:build !unix

package sidecar

import "os"

const noFollow = 0

// syncDir does nothing: directories cannot be flushed here.
func syncDir(string) error { return nil }

// lock makes the directory; there are no locks of this kind here.
func lock(dir string) (unlock func(), err error) { return func() {}, os.MkdirAll(dir, 0o700) }
