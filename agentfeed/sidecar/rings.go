package sidecar

import (
	"encoding/base64"
	"encoding/json"
	"io"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/keystore"
)

// Rings is what fetch prints, and with key bytes what a file of format json holds.
type Rings struct {
	State  agentfeed.State `json:"state"`
	Server string          `json:"server"`
	Rings  []Ring          `json:"rings"`
}

// Ring is one ring of Rings.
type Ring struct {
	Name    keystore.RingName `json:"name"`
	Epoch   keystore.Epoch    `json:"epoch"`
	Version keystore.Version  `json:"version"`
	Mode    keystore.Mode     `json:"mode"`
	Keys    []Key             `json:"keys"`
}

// Key is one key of a Ring: without its bytes, unless it goes into a file.
type Key struct {
	Role keystore.Role `json:"role"`
	KID  keystore.KID  `json:"kid"`
	K    *exposed      `json:"k,omitempty"`
}

// exposed is key material that goes into a file, where its JSON is its bytes in
// base64url. Printed it is a placeholder.
type exposed struct{ keystore.Material }

func (e *exposed) MarshalJSON() ([]byte, error) {
	var out []byte
	err := e.Use(func(secret []byte) error {
		out = append(out, '"')
		out = base64.RawURLEncoding.AppendEncode(out, secret)
		out = append(out, '"')
		return nil
	})
	return out, err
}

// ringsOf is what client holds, without key bytes.
func ringsOf(client *agentfeed.Client) Rings {
	status := client.Status()
	return convert(status, client.Snapshot(), func(keystore.Material) *exposed { return nil })
}

func convert(status agentfeed.Status, sets []*keystore.KeySet, k func(keystore.Material) *exposed) Rings {
	held := Rings{State: status.State, Server: status.Server, Rings: make([]Ring, 0, len(sets))}
	for _, set := range sets {
		r := Ring{Name: set.Ring, Epoch: set.Epoch, Version: set.Version, Mode: set.Mode, Keys: make([]Key, 0, len(set.Keys))}
		for _, key := range set.Keys {
			r.Keys = append(r.Keys, Key{Role: key.Role, KID: key.KID, K: k(key.Material)})
		}
		held.Rings = append(held.Rings, r)
	}
	return held
}

func writeJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}
