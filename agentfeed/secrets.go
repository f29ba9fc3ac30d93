package agentfeed

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/secretfile"
)

// ErrSecret: a new shared secret could not be kept.
var ErrSecret = errors.New("agentfeed: shared secret")

// secrets holds an agent's shared secrets, in memory and on disk. A new one is on
// disk before it is used, and the one before it stays beside it: whatever dies when,
// the disk holds a secret that is valid. Its methods are safe for concurrent use.
type secrets struct {
	file HostFile // as the agent was started with
	path string   // of the file that keeps new secrets; "": none does
	// separate says that path is not the host file itself.
	separate bool
	log      *slog.Logger

	mu       sync.Mutex // guards the fields below
	held     holding
	instance string
	keeps    bool // path can be written
	fault    error
}

// newSecrets reads what is kept.
func newSecrets(c Config, file HostFile, log *slog.Logger) (*secrets, error) {
	s := &secrets{file: file, log: log, held: holding{secret: file.Secret, previous: file.Previous}, instance: file.Instance}
	if s.held.previous.IsZero() {
		s.held.previous = c.PreviousSecret
	}
	switch {
	case c.FixedSecret:
	case c.SecretState != "":
		s.path, s.separate = c.SecretState, true
		if err := s.restore(); err != nil {
			return nil, err
		}
	case c.HostFile != "" && c.Secret.IsZero() && c.SecretFile == "":
		s.path = c.HostFile
	}
	return s, nil
}

// restore takes over the state file, if it follows the host file's secret. One that
// does not is of a registration before.
func (s *secrets) restore() error {
	state, err := ReadHostFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: state: %w", ErrSecret, err)
	}
	if !s.follows(state) {
		s.log.Warn("the secret's state is of another registration, and will be replaced", "path", s.path)
		return nil
	}
	s.held = holding{secret: state.Secret, previous: state.Previous}
	s.instance = state.Instance
	return nil
}

// follows reports whether what path holds is this agent's. A state file is, if it
// began with the host file's secret.
func (s *secrets) follows(state HostFile) bool {
	return state.Host == s.file.Host && (!s.separate || state.Origin == s.file.KID)
}

// inUse is the secret to authenticate with now.
func (s *secrets) inUse() keystore.Material {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held.use()
}

// all are the secrets that may have sealed a cache.
func (s *secrets) all() []keystore.Material {
	s.mu.Lock()
	defer s.mu.Unlock()
	return []keystore.Material{s.held.secret, s.held.previous, s.file.Secret, s.file.Previous}
}

// identity is what requests say of this copy of the secret.
func (s *secrets) identity() (instance string, keeps bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.instance, s.keeps
}

// err is why no new secret can be kept.
func (s *secrets) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault
}

// prepare finds out whether a new secret could be kept, before a server is told so,
// and gives this copy its id.
func (s *secrets) prepare() {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := errNotKept
	if s.path != "" {
		err = s.probe()
	}
	s.note(err) // a copy that has no disk has no id either: it is told apart from none
}

var errNotKept = errors.New("it is not kept on disk, so that it cannot be rolled over")

// note takes in whether the last attempt to write has worked. It needs mu.
func (s *secrets) note(err error) {
	s.keeps = err == nil
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrSecret, err)
	}
	if err != nil && s.path != "" && (s.fault == nil || s.fault.Error() != err.Error()) {
		s.log.Warn("a new shared secret could not be kept; this host's is not rolled over", "err", err)
	}
	s.fault = err
}

// probe writes: the id of this copy, if it has none on disk yet, else a file beside.
// It needs mu.
func (s *secrets) probe() error {
	unlock, err := lockDir(filepath.Dir(s.path))
	if err != nil {
		return err
	}
	defer unlock()
	disk, there, err := s.read()
	if err != nil {
		return err
	}
	if there && disk.Instance != "" {
		s.instance = disk.Instance
		probe, err := os.CreateTemp(filepath.Dir(s.path), ".keytide-*.tmp")
		if err != nil {
			return err
		}
		return errors.Join(probe.Close(), os.Remove(probe.Name()))
	}
	if s.instance == "" {
		s.instance = newInstance()
	}
	disk.Instance = s.instance
	return s.write(disk)
}

func newInstance() string {
	for {
		var id [8]byte
		rand.Read(id[:]) // never fails: crypto/rand ends the program instead
		if id != [8]byte{} {
			return hex.EncodeToString(id[:])
		}
	}
}

// read returns what path holds, or, where there is nothing of this registration yet,
// what belongs there. The directory must be locked.
func (s *secrets) read() (disk HostFile, there bool, err error) {
	disk, err = ReadHostFile(s.path)
	if err == nil && s.follows(disk) {
		return disk, true, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return HostFile{}, false, err
	}
	if !s.separate {
		if err == nil {
			err = fmt.Errorf("host file %s is now host %s's", s.path, disk.Host)
		}
		return HostFile{}, false, err
	}
	disk = s.file
	disk.Secret, disk.KID, disk.Previous = s.held.secret, s.held.secret.KID(), s.held.previous
	disk.Origin = s.file.KID
	return disk, false, nil
}

func (s *secrets) write(disk HostFile) error {
	content, err := disk.Encode()
	if err != nil {
		return err
	}
	defer clear(content)
	return secretfile.Replace(s.path, content)
}

// take keeps a secret that a server has offered, under the secret with id under, on
// disk and then in memory. It reports whether another secret is to be used from now
// on. After an error nothing has changed in memory: the agent goes on with what it
// has.
func (s *secrets) take(offered, under keystore.Material) (renewed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path == "" || !sameSecret(under, s.held.use()) {
		return false, nil
	}
	defer func() { s.note(err) }()
	unlock, err := lockDir(filepath.Dir(s.path))
	if err != nil {
		return false, err
	}
	defer unlock()
	disk, _, err := s.read()
	if err != nil {
		return false, err
	}
	next, write := s.held.offered(holding{secret: disk.Secret, previous: disk.Previous}, offered)
	if write {
		disk.Secret, disk.KID, disk.Previous = next.secret, next.secret.KID(), next.previous
		if disk.Instance == "" {
			disk.Instance = s.instance
		}
		if err := s.write(disk); err != nil {
			return false, err
		}
		s.log.Info("a new shared secret is on disk", "kid", next.secret.KID().String())
	}
	renewed = !sameSecret(next.use(), s.held.use())
	s.held = next
	return renewed, nil
}

// refused takes in that a server has refused the secret in use. It reports whether
// there is another one to try at once: one that another process has kept since, or
// the one before.
func (s *secrets) refused(kid keystore.KID) (again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held.use().KID() != kid {
		return true // it is another one already
	}
	if s.path != "" {
		if disk, err := ReadHostFile(s.path); err == nil && s.follows(disk) && !sameSecret(disk.Secret, s.held.secret) {
			s.held = holding{secret: disk.Secret, previous: disk.Previous}
			return true
		}
	}
	s.held, again = s.held.refused()
	if again {
		s.log.Warn("the shared secret is refused; trying the one before it", "kid", s.held.previous.KID().String())
	}
	return again
}

// refusesSecret reports whether an error says that a server does not take the secret.
func refusesSecret(err error) bool {
	var p *ProblemError
	return errors.As(err, &p) && (p.Name == wire.BadMAC || p.Name == wire.SecretRetired)
}
