package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/keytide/keytide/keystore"
)

// The names of events.
const (
	EventHello   = "hello"
	EventRing    = "ring"
	EventBeat    = "hb"
	EventBye     = "bye"
	EventProblem = "problem"
)

// Hello is the first event of a stream, not sealed.
type Hello struct {
	Proto     int     `json:"proto"`
	SN        string  `json:"sn"`
	Server    string  `json:"server"`
	Heartbeat float64 `json:"hb"` // seconds
}

// Bye says that the server ends the stream, not sealed.
type Bye struct {
	Reason      string    `json:"reason"`
	ReconnectMS [2]uint64 `json:"reconnect_ms"`
}

// Beat is the sealed content of a heartbeat.
type Beat struct {
	AsOf time.Time `json:"as_of"`
	// ReceivedAt stands in answers to polls only: when the request came, by the
	// server's clock.
	ReceivedAt *time.Time `json:"received_at,omitempty"`
}

// State is the sealed content of a ring event: all that a host is told.
type State struct {
	V          string    `json:"v"`
	IssuedAt   time.Time `json:"issued_at"`
	AsOf       time.Time `json:"as_of"`
	StaleAfter int64     `json:"stale_after"` // seconds
	MaxStale   int64     `json:"max_stale"`   // seconds; 0: never
	Servers    []string  `json:"servers"`
	Regions    []string  `json:"regions,omitempty"` // of Servers, in their order; or none
	CA         string    `json:"ca,omitempty"`      // PEM
	Rings      []Ring    `json:"rings"`

	// Secret is the host's new shared secret, while the former is valid too.
	Secret *NewSecret `json:"secret,omitempty"`

	ReceivedAt *time.Time `json:"received_at,omitempty"` // as in Beat
}

// NewSecret is a shared secret for an agent to keep, and then to use.
type NewSecret struct {
	KID    keystore.KID `json:"kid"`
	K      Bytes        `json:"k"`
	Within int64        `json:"within"` // seconds: the agent connects anew, with it, after a random part of them
}

// Ring is one ring of a State.
type Ring struct {
	Name    keystore.RingName `json:"name"`
	Epoch   keystore.Epoch    `json:"epoch"`
	Version keystore.Version  `json:"version"`
	Mode    keystore.Mode     `json:"mode"`
	// OpensStatic: the static keys open sessions, although the mode is dynamic.
	OpensStatic bool  `json:"opens_static,omitempty"`
	Keys        []Key `json:"keys"`
}

// Key is one key of a Ring, with its bytes.
type Key struct {
	KID     keystore.KID  `json:"kid"`
	Role    keystore.Role `json:"role"`
	Created time.Time     `json:"created_at"`
	Pending bool          `json:"pending"`
	Retired bool          `json:"retired,omitempty"` // a former static key
	Seals   bool          `json:"seals"`
	K       Bytes         `json:"k"`
}

// Bytes is key material that goes into sealed messages, where its JSON is its
// bytes in base64url. Printed it is a placeholder.
type Bytes struct{ keystore.Material }

func (b Bytes) MarshalJSON() ([]byte, error) {
	var out []byte
	err := b.Use(func(secret []byte) error {
		out = append(out, '"')
		out = B64.AppendEncode(out, secret)
		out = append(out, '"')
		return nil
	})
	return out, err
}

func (b *Bytes) UnmarshalJSON(text []byte) error {
	var s string
	if json.Unmarshal(text, &s) != nil {
		return errors.New("key material is not a string")
	}
	raw, err := decodeFixed(s, keystore.MaterialSize)
	if err != nil {
		return errors.New("key material is not 32 bytes of base64url")
	}
	b.Material, err = keystore.NewMaterial(raw)
	clear(raw)
	return err
}

// RingOf gives the form that set travels in. A session ticket key is left out,
// should there be one: it never reaches an agent.
func RingOf(set *keystore.KeySet) Ring {
	ring := Ring{Name: set.Ring, Epoch: set.Epoch, Version: set.Version, Mode: set.Mode,
		OpensStatic: set.OpensStatic && set.Mode != keystore.ModeStatic, Keys: make([]Key, 0, len(set.Keys))}
	for _, k := range set.Keys {
		if k.Role == keystore.SessionTicket {
			continue
		}
		ring.Keys = append(ring.Keys, Key{KID: k.KID, Role: k.Role, Created: k.Created.UTC(),
			Pending: k.Pending, Retired: k.Retired, Seals: k.Seals, K: Bytes{k.Material}})
	}
	return ring
}

// KeySet checks r and gives it back as an agent holds it.
func (r Ring) KeySet() (*keystore.KeySet, error) {
	if _, err := keystore.ParseRingName(string(r.Name)); err != nil {
		return nil, err
	}
	set := &keystore.KeySet{Ring: r.Name, Epoch: r.Epoch, Version: r.Version, Mode: r.Mode,
		OpensStatic: r.OpensStatic || r.Mode == keystore.ModeStatic}
	seen := make(map[keystore.KID]bool, len(r.Keys))
	sealing := 0
	for _, k := range r.Keys {
		switch {
		case k.K.IsZero() || k.K.KID() != k.KID:
			return nil, fmt.Errorf("ring %s: key %s: its bytes are another key's", r.Name, k.KID)
		case seen[k.KID]:
			return nil, fmt.Errorf("ring %s: key %s stands twice", r.Name, k.KID)
		case k.Role == keystore.SessionTicket:
			return nil, fmt.Errorf("ring %s: key %s: a session ticket key is not an agent's", r.Name, k.KID)
		case k.Seals && (k.Pending || k.Retired):
			return nil, fmt.Errorf("ring %s: key %s seals while it is pending or retired", r.Name, k.KID)
		}
		seen[k.KID] = true
		if k.Seals {
			sealing++
		}
		set.Keys = append(set.Keys, keystore.SetKey{KID: k.KID, Role: k.Role, Created: k.Created,
			Pending: k.Pending, Retired: k.Retired, Seals: k.Seals, Material: k.K.Material})
	}
	if sealing > 1 {
		return nil, fmt.Errorf("ring %s: %d keys seal", r.Name, sealing)
	}
	return set, nil
}
