//go:build unix

package secretfile

import (
	"io/fs"
	"os"
	"syscall"
)

// unsafe says who else can read or change the file; "" = nobody.
func unsafe(info fs.FileInfo) string {
	mode := info.Mode().Perm()
	switch {
	case mode&0o007 != 0:
		return "others can read or change it"
	case mode&0o020 != 0:
		return "its group can change it"
	case mode&0o040 != 0 && !ownedByRoot(info):
		return "its group can read it"
	}
	return ""
}

func ownedByRoot(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Uid == 0
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
