package agentfeed

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"net"
	"sync"

	"github.com/keytide/keytide/keystore"
)

// TLSListener makes a listener of TLS connections whose session tickets every other
// agent of the ring accepts: a client that comes back is spared the full handshake at
// whichever instance it lands. Tickets are sealed with a key derived from the ring's
// current key, in static mode too, and opened also with those of its old keys and its
// future key. The instances need the same certificate.
//
//	listener = agentfeed.TLSListener(listener, &tls.Config{
//		Certificates: …, NextProtos: []string{"h2", "http/1.1"},
//	}, client.Ring("sso"))
//	err = server.Serve(listener) // and not ServeTLS
//
// It uses a clone of config: what is changed in config later changes nothing. A config
// that GetConfigForClient returns has its own tickets; see SetTicketKeys.
func TLSListener(inner net.Listener, config *tls.Config, ring *Ring) net.Listener {
	l := &tlsListener{Listener: inner, config: config.Clone(), ring: ring}
	l.config.SetSessionTicketKeys([][32]byte{randomTicketKey()}) // until there are keys: never those that crypto/tls makes
	return l
}

type tlsListener struct {
	net.Listener
	config *tls.Config // the one that connections use: only on it do new keys count
	ring   *Ring

	mu  sync.Mutex       // held while keys are set
	set *keystore.KeySet // whose keys are
}

// Accept returns a *tls.Conn, which does its handshake when it is first read or
// written.
func (l *tlsListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if err := l.follow(); err != nil {
		conn.Close()
		return nil, err
	}
	return tls.Server(conn, l.config), nil
}

// follow sets the ring's newest keys, if they are not those that are set.
func (l *tlsListener) follow() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	set := l.ring.Snapshot()
	if set == l.set {
		return nil
	}
	if err := SetTicketKeys(l.config, set); err != nil {
		return err
	}
	l.set = set
	return nil
}

// SetTicketKeys gives config the session ticket keys that agents derive from set.
// Without a set, or when none of its keys seals any more, tickets are sealed with a
// random key, which opens nowhere else. It is for programs that keep the
// tls.Config of their connections themselves; a TLSListener needs no call.
//
// Call it before config is in use and after every change, on the very config that
// connections use: http.Server.ServeTLS, for one, uses a clone, and what is set
// on the original is then silently ignored.
//
//	for set := range ring.Updates(ctx) {
//		err := agentfeed.SetTicketKeys(config, set)
//		…
//	}
func SetTicketKeys(config *tls.Config, set *keystore.KeySet) error {
	keys, err := ticketKeys(set)
	if err != nil {
		return err
	}
	config.SetSessionTicketKeys(keys)
	clear(keys)
	return nil
}

// ticketKeys derives the keys of the tickets, the one that seals first. There is at
// least one. The static key is none: whoever gets it could read all traffic for as
// long as it lives.
func ticketKeys(set *keystore.KeySet) ([][32]byte, error) {
	keys := [][32]byte{randomTicketKey()}
	if set == nil {
		return keys, nil
	}
	_, sealing := set.Sealing()
	for i := range set.Keys {
		k := &set.Keys[i]
		if k.Role == keystore.Static {
			continue
		}
		key, err := ticketKey(set.Ring, k.Material)
		if err != nil {
			return nil, fmt.Errorf("agentfeed: session ticket key %s of ring %s: %w", k.KID, set.Ring, err)
		}
		if sealing && k.Role == keystore.Current && !k.Pending {
			keys[0] = key
		} else {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// ticketKey is HKDF-Expand-SHA256(key, "keytide/v1 stek go|" ring, 32). Tickets of
// other programs have other forms, and other keys.
func ticketKey(ring keystore.RingName, m keystore.Material) (key [32]byte, err error) {
	err = m.Use(func(secret []byte) error {
		derived, err := hkdf.Expand(sha256.New, secret, "keytide/v1 stek go|"+string(ring), len(key))
		copy(key[:], derived)
		clear(derived)
		return err
	})
	return key, err
}

func randomTicketKey() (key [32]byte) {
	rand.Read(key[:]) // never fails
	return key
}
