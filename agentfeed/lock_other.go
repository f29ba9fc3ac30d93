//go:build !unix

package agentfeed

import "errors"

// lockDir fails: without a lock, two agents could overwrite each other's newest
// secret. Hosts on such systems keep the secret that they were registered with.
func lockDir(string) (unlock func(), err error) {
	return nil, errors.New("this system has no lock for directories")
}
