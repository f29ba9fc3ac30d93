package agentfeed

import "github.com/keytide/keytide/keystore"

// A holding is what an agent has of its shared secrets. It is a value: its methods
// decide, and secrets carries out what they decide.
type holding struct {
	secret   keystore.Material
	previous keystore.Material // the one before it; zero: none
	former   bool              // the previous one is in use, because the secret was refused
}

// use is the secret to authenticate with.
func (h holding) use() keystore.Material {
	if h.former {
		return h.previous
	}
	return h.secret
}

// refused is what to go on with after a server has refused the secret in use: the
// other one, if there is one. again says that it is worth being tried at once.
//
// The newest secret may be unknown to a server that is a moment behind, or to a store
// that was restored from before it was made. The previous one is then still valid.
func (h holding) refused() (next holding, again bool) {
	if h.previous.IsZero() {
		return h, false
	}
	h.former = !h.former
	return h, h.former
}

// offered decides what the disk must hold before the offered secret is used. disk is
// what it holds now: another process may share it. write says whether it must be
// written.
func (h holding) offered(disk holding, offered keystore.Material) (next holding, write bool) {
	if !sameSecret(disk.secret, h.secret) {
		return holding{secret: disk.secret, previous: disk.previous}, false // another process was first
	}
	if sameSecret(offered, h.secret) {
		h.former = false // it is valid: the server that refused it has caught up
		return h, false
	}
	if sameSecret(offered, h.use()) {
		return h, false
	}
	// What stays beside the new one is what has just been proved to be valid.
	return holding{secret: offered, previous: h.use()}, true
}

func sameSecret(a, b keystore.Material) bool {
	return a.IsZero() == b.IsZero() && (a.IsZero() || a.KID() == b.KID())
}
