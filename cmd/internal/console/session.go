package console

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"sync"
	"time"
)

const (
	// maxSessions bounds what a server remembers. Whoever signs in beyond it takes
	// the place of the session that was used least recently.
	maxSessions = 64
	// sessionLife ends a session however much it is used; sessionIdle ends one that
	// no visible page uses: pages that are hidden ask for nothing.
	sessionLife = 8 * time.Hour
	sessionIdle = 15 * time.Minute
)

// sessions are the browsers that are signed in, by the SHA-256 of their session
// ids: what is in memory does not sign anybody in.
type sessions struct {
	mu   sync.Mutex // guards the field below
	byID map[[sha256.Size]byte]session
}

type session struct {
	actor      string // whose token it was
	made, used time.Time
}

func (s session) ended(now time.Time) bool {
	return now.Sub(s.made) >= sessionLife || now.Sub(s.used) >= sessionIdle
}

// begin makes a session and returns its id: 32 random bytes in base64url.
func (s *sessions) begin(actor string, now time.Time) string {
	var secret [32]byte
	rand.Read(secret[:])
	id := base64.RawURLEncoding.EncodeToString(secret[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	s.makeRoom(now)
	s.byID[sha256.Sum256([]byte(id))] = session{actor: actor, made: now, used: now}
	return id
}

func (s *sessions) makeRoom(now time.Time) {
	if s.byID == nil {
		s.byID = make(map[[sha256.Size]byte]session)
	}
	var idlest [sha256.Size]byte
	for id, each := range s.byID {
		if each.ended(now) {
			delete(s.byID, id)
		} else if least, ok := s.byID[idlest]; !ok || each.used.Before(least.used) {
			idlest = id
		}
	}
	if len(s.byID) >= maxSessions {
		delete(s.byID, idlest)
	}
}

// use returns whose session it is, and keeps it from idling.
func (s *sessions) use(id string, now time.Time) (actor string, ok bool) {
	hash := sha256.Sum256([]byte(id))
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.byID[hash]
	if !ok || found.ended(now) {
		delete(s.byID, hash)
		return "", false
	}
	found.used = now
	s.byID[hash] = found
	return found.actor, true
}

// end forgets a session.
func (s *sessions) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, sha256.Sum256([]byte(id)))
}
