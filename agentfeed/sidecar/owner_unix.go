//go:build unix

package sidecar

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// An owner is who a file is to belong to, by number; nil = whoever it does.
type owner struct{ uid, gid *int }

// ownerOf looks a user and a group up, each by name or number; "" = no matter. It
// reports which of the two there is not.
func ownerOf(userName, groupName string, report func(key string, err error)) owner {
	number := func(key, name string, find func(string) (string, error)) *int {
		if name == "" {
			return nil
		}
		n, err := strconv.ParseUint(name, 10, 31)
		if err != nil {
			var text string
			if text, err = find(name); err == nil {
				n, err = strconv.ParseUint(text, 10, 31)
			}
		}
		if err != nil {
			report(key, fmt.Errorf("there is no %s here", name))
		}
		id := int(n)
		return &id
	}
	return owner{
		uid: number("owner", userName, func(name string) (string, error) {
			u, err := user.Lookup(name)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		}),
		gid: number("group", groupName, func(name string) (string, error) {
			g, err := user.LookupGroup(name)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		}),
	}
}

// has reports whether a file belongs to o.
func (o owner) has(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && (o.uid == nil || *o.uid == int(stat.Uid)) && (o.gid == nil || *o.gid == int(stat.Gid))
}

// give makes a file belong to o.
func (o owner) give(f *os.File) error {
	if o.uid == nil && o.gid == nil {
		return nil
	}
	uid, gid := -1, -1
	if o.uid != nil {
		uid = *o.uid
	}
	if o.gid != nil {
		gid = *o.gid
	}
	return f.Chown(uid, gid)
}
