package doctor

import (
	"time"

	"github.com/keytide/keytide/keystore"
)

// An Observation is what one policy server sees at one moment. Fields that the server
// could not see are empty; they give no findings.
type Observation struct {
	Server string    `json:"server"`
	Region string    `json:"region"`
	At     time.Time `json:"at"`
	Store  string    `json:"store"`
	KSK    string    `json:"ksk"` // id of the key store key

	Ledgers      []Ledger      `json:"ledgers"`
	Core         Core          `json:"core"`
	Disk         Disk          `json:"disk"`
	Certificates []Certificate `json:"certificates"`
	Servers      []Server      `json:"servers"` // the policy servers, as this one has heard of them
	Rings        []Ring        `json:"rings"`
	Hosts        []Host        `json:"hosts"` // those of which there is something to say
	Alarms       []Alarm       `json:"alarms"`
}

// A Ledger is a replica and what is known of its bucket.
type Ledger struct {
	Kind  string         `json:"kind"` // keys or hosts
	Epoch keystore.Epoch `json:"epoch"`
	State string         `json:"state"` // fresh, stale, forked, halted
	Why   string         `json:"why,omitempty"`
	N     keystore.N     `json:"n"`
	Marks []Mark         `json:"marks"` // hashes at some events, the newest first
	// Bad is the first event of the replica's own file that does not verify, 0 if the
	// file is good or was not read.
	Bad    keystore.N `json:"bad,omitempty"`
	BadWhy string     `json:"bad_why,omitempty"`
	Sealed []string   `json:"sealed,omitempty"` // keys that do not open under the key store key, and why

	Bucket   *Bucket `json:"bucket,omitempty"` // nil: the core did not answer
	Flaws    []Flaw  `json:"flaws,omitempty"`  // of the bucket against the replica
	Examined int     `json:"examined"`         // entries of the bucket that were compared
}

// A Mark is the hash of one event. Equal hashes mean equal histories up to there.
type Mark struct {
	N    keystore.N `json:"n"`
	Hash string     `json:"hash"`
}

// A Bucket is how the core keeps a ledger.
type Bucket struct {
	Replicas     int      `json:"replicas"`
	Bytes        uint64   `json:"bytes"`
	MaxBytes     int64    `json:"max_bytes"`
	MaxConsumers int      `json:"max_consumers"`
	Consumers    int      `json:"consumers"`
	Faults       []string `json:"faults,omitempty"` // settings that could lose events
}

// A Fault is what is wrong with an entry of a bucket.
type Fault string

const (
	Missing     Fault = "missing"     // an event or value that must be there is not
	Overwritten Fault = "overwritten" // something else stands there
	Foreign     Fault = "foreign"     // no event puts it
	Forged      Fault = "forged"      // an event in a place that is not taken yet, and no good one
)

// A Flaw is an entry of a bucket that does not hold what the verified events say.
type Flaw struct {
	Key      string `json:"key"`
	Fault    Fault  `json:"fault"`
	Revision uint64 `json:"revision"` // of what stands there; 0: nothing does
}

// A Core is the NATS servers that hold the buckets, as far as this server sees them.
type Core struct {
	Kind       string       `json:"kind"` // alone, member or remote
	Size       int          `json:"size"` // how many servers it has, by the configuration
	Expected   []string     `json:"expected,omitempty"`
	Durability string       `json:"durability"`
	Fault      string       `json:"fault,omitempty"` // why there is no connection
	Servers    []CoreServer `json:"servers,omitempty"`
	Store      *Store       `json:"store,omitempty"` // this server's own files
}

// A CoreServer is one NATS server, by its own word.
type CoreServer struct {
	Server     string   `json:"server"`
	SyncAlways bool     `json:"sync_always"`
	MaxStore   int64    `json:"max_store"`
	Used       uint64   `json:"used"`
	Streams    []Stream `json:"streams"`
}

// A Stream is a ledger's stream as one NATS server keeps it.
type Stream struct {
	Ledger string `json:"ledger"`
	Msgs   uint64 `json:"msgs"`
	First  uint64 `json:"first"`
	Last   uint64 `json:"last"`
}

// A Store is what was read of the NATS server's own files, past the server.
type Store struct {
	Dir    string   `json:"dir"`
	Bytes  int64    `json:"bytes"`            // read by this pass
	Damage []string `json:"damage,omitempty"` // places that do not read
	Holes  []string `json:"holes,omitempty"`  // ledger and keys that are not in these files, or not as they must be
}

// A Disk is the file system of the server's directory.
type Disk struct {
	Dir   string `json:"dir"`
	Free  uint64 `json:"free"` // bytes
	Total uint64 `json:"total"`
}

// A Certificate is one that this server shows or trusts.
type Certificate struct {
	Name      string    `json:"name"`
	File      string    `json:"file"`
	NotAfter  time.Time `json:"not_after"`
	Generated bool      `json:"generated"` // by Keytide, which renews it
}

// A Server is a policy server that is a member.
type Server struct {
	ID           string        `json:"id"`
	Region       string        `json:"region"`
	Self         bool          `json:"self,omitempty"`
	State        string        `json:"state"`
	N            keystore.N    `json:"n"`
	Silent       time.Duration `json:"silent_ns"` // since its last record
	Heard        bool          `json:"heard"`
	ClockOffset  time.Duration `json:"clock_offset_ns"`
	AgentsBehind int           `json:"agents_behind"`
	Excluded     bool          `json:"excluded,omitempty"`
}

// A Ring is what keeps a ring from rolling over.
type Ring struct {
	Name     string   `json:"name"`
	HeldBy   []string `json:"held_by,omitempty"` // of a slot that is due
	Failing  string   `json:"failing,omitempty"`
	Incident string   `json:"incident,omitempty"` // open; whom it waits for
}

// A Host is a trusted host of which there is something to say.
type Host struct {
	Name   string `json:"name"`
	Cloned string `json:"cloned,omitempty"` // how it shows
}

// An Alarm is one of the server's list.
type Alarm struct {
	Ledger string    `json:"ledger"`
	Kind   string    `json:"kind"`
	Key    string    `json:"key,omitempty"`
	Text   string    `json:"text"`
	Since  time.Time `json:"since"`
	Ended  time.Time `json:"ended,omitzero"`
}

// spare is how many of the newest events have a mark each.
const spare = 32

// MarksAt are the events at which a replica of n events tells its hashes, newest first:
// the newest ones, and multiples of a power of two. Two replicas of any lengths that are
// not far apart have some in common.
func MarksAt(n keystore.N) []keystore.N {
	step := keystore.N(1)
	for n/step > spare {
		step *= 2
	}
	var at []keystore.N
	for i := n; i > 0 && n-i < spare; i-- {
		at = append(at, i)
	}
	for i := n / step * step; i > 0; i -= step {
		if i+spare <= n {
			at = append(at, i)
		}
	}
	if n > 0 && at[len(at)-1] != 1 {
		at = append(at, 1)
	}
	return at
}
