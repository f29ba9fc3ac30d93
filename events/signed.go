package events

import (
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/keytide/keytide/keystore"
)

// What is signed beside events begins with a context of its own, so that no
// signature of one can pass for one of another. An event begins with 0x9c.
const (
	serverContext = "keytide server record 1\x00"
	beaconContext = "keytide beacon 1\x00"
)

const (
	maxAddress = 255
	maxLevels  = 16
)

// A ServerState is how far a policy server can be relied on, in its own words.
// Stored: never renumber.
type ServerState uint8

const (
	Fresh   ServerState = 1 // proves that it is up to date
	Stale   ServerState = 2 // cannot prove it; serves what it has
	Forked  ServerState = 3 // the ledger is behind, or other than, its replica
	Halted  ServerState = 4 // met an event that it cannot apply
	Stopped ServerState = 5 // ended in order
)

var serverStates = [...]string{Fresh: "fresh", Stale: "stale", Forked: "forked", Halted: "halted", Stopped: "stopped"}

func (s ServerState) String() string {
	if s >= Fresh && s <= Stopped {
		return serverStates[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// MarshalText gives the state's word.
func (s ServerState) MarshalText() ([]byte, error) {
	if s < Fresh || s > Stopped {
		return nil, invalid("unknown server state %d", uint8(s))
	}
	return []byte(s.String()), nil
}

// UnmarshalText reads the state's word.
func (s *ServerState) UnmarshalText(text []byte) error {
	for state := Fresh; state <= Stopped; state++ {
		if state.String() == string(text) {
			*s = state
			return nil
		}
	}
	return invalid("unknown server state %q", text)
}

// A ServerRecord is what a policy server says of itself, as server.<id> holds it.
type ServerRecord struct {
	ID           string
	Region       string
	Address      string
	PublicKey    ed25519.PublicKey
	Levels       []uint64 // format levels that it reads
	Boot         [16]byte // drawn at each start
	Counter      uint64   // rises with each record, over restarts too
	Applied      Head     // what its replica holds on disk
	At           time.Time
	ClockOffset  time.Duration // ahead of the reference, to the millisecond
	State        ServerState
	Agents       uint64 // connected
	AgentsBehind uint64
	// Hosts says of hosts that policies name which event of the key store all their
	// agents here have applied, by their own word; 0: not all have. By name.
	Hosts []HostApplied
}

// A HostApplied is what the agents of one host have applied.
type HostApplied struct {
	Host string
	N    keystore.N
}

// MaxHostsApplied is how many hosts a record may tell of.
const MaxHostsApplied = 1024

// Sign encodes and signs the record. The error wraps keystore.ErrInvalid.
func (s ServerRecord) Sign(key ed25519.PrivateKey) ([]byte, error) {
	var p packer
	outer := p.begin()
	p.str("address", s.Address, maxAddress)
	p.uint("agents", s.Agents)
	p.uint("agents_behind", s.AgentsBehind)
	if s.Applied != (Head{}) {
		p.field("applied")
		p.head(s.Applied)
	}
	p.time("at", s.At)
	p.fixed("boot", s.Boot[:])
	p.int("clock_offset", s.ClockOffset.Milliseconds())
	p.uint("counter", s.Counter)
	p.array("hosts", len(s.Hosts), MaxHostsApplied)
	for _, h := range s.Hosts {
		at := p.begin()
		p.name("host", h.Host)
		p.uint("n", uint64(h.N))
		p.end(at)
	}
	p.name("id", s.ID)
	p.array("levels", len(s.Levels), maxLevels)
	for _, level := range s.Levels {
		p.b = appendUint(p.b, level)
	}
	p.fixed("public_key", s.PublicKey)
	p.name("region", s.Region)
	p.uint("state", uint64(s.State))
	p.end(outer)
	return p.sign(serverContext, key)
}

func (p *packer) sign(context string, key ed25519.PrivateKey) ([]byte, error) {
	if len(key) != ed25519.PrivateKeySize {
		p.fail("signing key of %d bytes", len(key))
	}
	value, err := p.done()
	if err != nil {
		return nil, err
	}
	return append(value, ed25519.Sign(key, append([]byte(context), value...))...), nil
}

// DecodeServer takes a server's record apart; it does not check the signature. The
// error wraps ErrMalformed.
func DecodeServer(value []byte) (ServerRecord, error) {
	r := signedReader(value)
	var s ServerRecord
	for f := r.fields(); f.next(); {
		switch string(f.key) {
		case "address":
			s.Address = f.str(maxAddress)
		case "agents":
			s.Agents = f.uint(1<<64 - 1)
		case "agents_behind":
			s.AgentsBehind = f.uint(1<<64 - 1)
		case "applied":
			s.Applied = r.head(f.open())
		case "at":
			s.At = f.time()
		case "boot":
			f.fixed(s.Boot[:])
		case "clock_offset":
			s.ClockOffset = f.offset()
		case "counter":
			s.Counter = f.uint(1<<64 - 1)
		case "hosts":
			s.Hosts = f.hostsApplied()
		case "id":
			s.ID = f.name()
		case "levels":
			s.Levels = f.levels()
		case "public_key":
			s.PublicKey = make(ed25519.PublicKey, ed25519.PublicKeySize)
			f.fixed(s.PublicKey)
		case "region":
			s.Region = f.name()
		case "state":
			s.State = ServerState(f.uint(1<<8 - 1))
		default:
			r.skip()
		}
	}
	if err := r.end(); err != nil {
		return ServerRecord{}, fmt.Errorf("server record: %w", err)
	}
	return s, nil
}

func (f *fields) offset() time.Duration {
	ms := f.int()
	if most := int64(maxDuration); ms > most || ms < -most {
		f.r.fail("clock offset of %d ms", ms)
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

func (f *fields) hostsApplied() []HostApplied {
	hosts := make([]HostApplied, f.array(MaxHostsApplied))
	for i := range hosts {
		for in := f.r.fields(); in.next(); {
			switch string(in.key) {
			case "host":
				hosts[i].Host = in.name()
			case "n":
				hosts[i].N = keystore.N(in.uint(1<<64 - 1))
			default:
				in.r.skip()
			}
		}
	}
	return hosts
}

func (f *fields) levels() []uint64 {
	levels := make([]uint64, f.array(maxLevels))
	for i := range levels {
		levels[i] = f.r.uint()
	}
	return levels
}

// VerifyServer reports ErrSignature if the record is not signed by this key.
func VerifyServer(value []byte, key ed25519.PublicKey) error {
	return verifySigned(serverContext, value, key)
}

// A Beacon is the proof that the ledger lives and where it ends, as beacon holds it.
type Beacon struct {
	Epoch   keystore.Epoch
	Term    uint64 // rises with each takeover
	Holder  string // the member that sends it
	Counter uint64 // rises within a term
	N       keystore.N
	Hash    Hash      // of event N
	Origin  time.Time // the holder's clock, to the millisecond
}

// Sign encodes and signs the beacon. The error wraps keystore.ErrInvalid.
func (b Beacon) Sign(key ed25519.PrivateKey) ([]byte, error) {
	var p packer
	outer := p.begin()
	p.uint("counter", b.Counter)
	p.uint("epoch", uint64(b.Epoch))
	p.fixed("hash", b.Hash[:])
	p.name("holder", b.Holder)
	p.uint("n", uint64(b.N))
	p.time("origin", b.Origin)
	p.uint("term", b.Term)
	p.end(outer)
	return p.sign(beaconContext, key)
}

// DecodeBeacon takes a beacon apart; it does not check the signature. The error
// wraps ErrMalformed.
func DecodeBeacon(value []byte) (Beacon, error) {
	r := signedReader(value)
	var b Beacon
	for f := r.fields(); f.next(); {
		switch string(f.key) {
		case "counter":
			b.Counter = f.uint(1<<64 - 1)
		case "epoch":
			b.Epoch = keystore.Epoch(f.uint(1<<64 - 1))
		case "hash":
			f.fixed(b.Hash[:])
		case "holder":
			b.Holder = f.name()
		case "n":
			b.N = keystore.N(f.uint(1<<64 - 1))
		case "origin":
			b.Origin = f.time()
		case "term":
			b.Term = f.uint(1<<64 - 1)
		default:
			r.skip()
		}
	}
	if err := r.end(); err != nil {
		return Beacon{}, fmt.Errorf("beacon: %w", err)
	}
	return b, nil
}

// VerifyBeacon reports ErrSignature if the beacon is not signed by this key.
func VerifyBeacon(value []byte, key ed25519.PublicKey) error {
	return verifySigned(beaconContext, value, key)
}

// signedReader reads a value without its signature.
func signedReader(value []byte) reader {
	r := valueReader(value)
	if len(value) < ed25519.SignatureSize {
		r.fail("no signature")
	}
	if r.err == nil {
		r.b = value[:len(value)-ed25519.SignatureSize]
	}
	return r
}

func verifySigned(context string, value []byte, key ed25519.PublicKey) error {
	at := len(value) - ed25519.SignatureSize
	if at < 0 || len(key) != ed25519.PublicKeySize {
		return ErrSignature
	}
	if !ed25519.Verify(key, append([]byte(context), value[:at]...), value[at:]) {
		return ErrSignature
	}
	return nil
}
