package server

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/bundle"
	"github.com/keytide/keytide/keystore/seal"
)

// This file takes static and session ticket keys out of a ring and into one.

var exportable = map[string]keystore.Role{"static": keystore.Static, "ticket": keystore.SessionTicket}

// ExportKeys implements adminhttp.Changer. It changes nothing, but hands out keys: it is
// logged.
func (s *service) ExportKeys(_ context.Context, actor string, name keystore.RingName, req adminapi.Export) (adminapi.Exported, error) {
	ring, err := s.ring(name)
	if err != nil {
		return adminapi.Exported{}, err
	}
	set, err := s.exported(ring, req)
	if err != nil {
		return adminapi.Exported{}, err
	}
	answer := adminapi.Exported{
		From: s.fingerprint(), Store: set.Store, Ring: string(name), Keys: bundledKeys(set.Keys),
	}
	signed, err := bundle.Sign(set, s.signer)
	if err != nil {
		return adminapi.Exported{}, err
	}
	if req.Recipient == "" {
		if answer.Bundle, err = bundle.Close(signed, []byte(req.Passphrase)); err != nil {
			return adminapi.Exported{}, err
		}
	} else {
		recipient, err := bundle.ParseRecipient([]byte(req.Recipient))
		if err != nil {
			return adminapi.Exported{}, fmt.Errorf("recipient: %w", err)
		}
		if answer.Bundle, err = bundle.CloseFor(signed, recipient); err != nil {
			return adminapi.Exported{}, err
		}
		id, _ := recipient.Fingerprint()
		answer.Recipient = string(id)
	}
	kids := make([]string, len(answer.Keys))
	for i, k := range answer.Keys {
		kids[i] = k.KID
	}
	s.log.Warn("keys exported", "ring", string(name), "actor", actor, "keys", strings.Join(kids, " "),
		"recipient", answer.Recipient, "reason", req.Reason)
	return answer, nil
}

// exported are the keys of the asked roles: the one that seals, and former ones, which
// whoever imports them only opens with.
func (s *service) exported(ring keystore.Ring, req adminapi.Export) (bundle.Set, error) {
	if (req.Passphrase == "") == (req.Recipient == "") {
		return bundle.Set{}, fmt.Errorf("%w: export: want a passphrase or a recipient, one of the two", keystore.ErrInvalid)
	}
	if n := utf8.RuneCountInString(string(req.Passphrase)); req.Recipient == "" && n < seal.MinPassphrase {
		return bundle.Set{}, fmt.Errorf("%w: export: the passphrase has %d characters; want %d or more", keystore.ErrInvalid, n, seal.MinPassphrase)
	}
	set := bundle.Set{Store: s.id.Store, Ring: ring.Name, Exported: now()}
	roles := make(map[keystore.Role]bool)
	for _, what := range req.What {
		role, ok := exportable[what]
		if !ok {
			return bundle.Set{}, fmt.Errorf("%w: export: %q: want static or ticket", keystore.ErrInvalid, what)
		}
		roles[role] = true
	}
	for _, k := range ring.Keys {
		switch {
		case !roles[k.Role]:
		case k.Pending:
			return bundle.Set{}, &keystore.PendingError{Ring: ring.Name, Role: k.Role, KID: k.KID}
		default:
			m, err := s.vault.open(s.keys.Replica(), ringOwner(ring.Name), k.KID)
			if err != nil {
				return bundle.Set{}, err
			}
			set.Keys = append(set.Keys, bundle.Key{
				Role: k.Role, Created: k.Created, OpenOnly: req.OpenOnly || k.Retired != 0, Material: m,
			})
		}
	}
	return set, nil
}

// fingerprint names the key with which this server signs.
func (s *service) fingerprint() (name string) {
	s.keys.Replica().Read(func(state *events.State) {
		member, _ := state.Member(s.id.Server)
		name = fingerprintOf(member)
	})
	return name
}

func bundledKeys(keys []bundle.Key) []adminapi.BundledKey {
	views := make([]adminapi.BundledKey, len(keys))
	for i, k := range keys {
		views[i] = adminapi.BundledKey{Role: k.Role.String(), KID: k.KID().String(), CreatedAt: k.Created, OpenOnly: k.OpenOnly}
	}
	return views
}

// A fromError refuses a bundle that somebody else signed than who was named.
type fromError struct {
	from bundle.Fingerprint
	want []string
}

func (e *fromError) Error() string {
	return fmt.Sprintf("import refused: the bundle is signed by %s, not by %s", e.from, strings.Join(e.want, " or "))
}
func (e *fromError) Hint() string {
	return "ask the exporting store, by another way than the bundle came, for the fingerprint of the server that exported:  keytide status -o json"
}
func (e *fromError) Forceable() bool { return false }
func (e *fromError) Unwrap() error   { return keystore.ErrRefused }
