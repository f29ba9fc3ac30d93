//go:build !unix

package server

func fileLimit() (uint64, bool) { return 0, false }

func diskSpace(string) (free, total uint64, err error) { return 0, 0, nil }
