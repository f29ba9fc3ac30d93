package events

import "fmt"

// A Type is what an event does. Stored: never renumber, never use a number again.
type Type uint16

const (
	TypeGenesis         Type = 1  // the ledger begins
	TypeVoid            Type = 2  // nothing; takes an n so that no other event can
	TypeServerInvited   Type = 4  // a server may join, once
	TypeServerJoined    Type = 5  // it is a member
	TypeServerExcluded  Type = 6  // nothing waits for it until it returns
	TypeServerReturned  Type = 7  // it counts again, by its own word
	TypeServerForgotten Type = 8  // it is no member any more; its invitation ends
	TypeRingCreated     Type = 10 // keystore.Created
	TypeRingPolicySet   Type = 11 // keystore.PolicySet
	TypeRollover        Type = 12 // keystore.RolledOver
	TypeKeysDestroyed   Type = 13 // keystore.KeysDestroyed
	TypeRingDeleted     Type = 14 // keystore.Deleted
	TypeKeyPublished    Type = 15 // keystore.KeyPublished
	TypeKeyActivated    Type = 16 // keystore.KeyActivated
	TypeRolloverUndone  Type = 17 // keystore.Undone
	TypeRolloverHeld    Type = 18 // keystore.RolloverHeld
	TypeHoldEnded       Type = 19 // keystore.HoldEnded
	TypeIncidentClosed  Type = 20 // keystore.IncidentClosed
	TypeModeSet         Type = 21 // keystore.ModeSet
	TypeSlotSkipped     Type = 22 // keystore.SlotSkipped
	TypeHostRegistered  Type = 30 // host.Registered
	TypeHostRevoked     Type = 31 // host.Revoked

	TypeTokenCreated    Type = 32 // host.TokenChange
	TypeTokenRevoked    Type = 33 // host.TokenChange
	TypeHostsExpired    Type = 34 // host.Expired, of several hosts
	TypeHostsSeen       Type = 35 // host.Seen, of several hosts
	TypeSecretsOffered  Type = 36 // host.Offered, of several hosts
	TypeSecretsRetired  Type = 37 // host.Retired, of several hosts
	TypeSecretPolicySet Type = 38 // host.SecretPolicy

	TypeEpochBegun        Type = 40 // EpochBegun: a ledger goes on in another bucket
	TypeEpochEnded        Type = 41 // EpochEnded: and not in this one
	TypeRekeyBegun        Type = 42 // KSKChange: the next key store key is published
	TypeKSKTaken          Type = 43 // KSKChange: its server holds it durably
	TypeRekeyTurned       Type = 44 // KSKChange: new material is sealed under it
	TypeMaterialRewrapped Type = 45 // KSKChange: some of the former's material is sealed under it
	TypeRekeyEnded        Type = 46 // KSKChange: the former one's unlock slots are deleted
	TypeSlotsSet          Type = 47 // KSKChange: unlock slots are added or removed
	// Reserved: 3 format.
)

// typeWords is indexed by type; "" stands for no type.
var typeWords = [...]string{
	TypeGenesis: "genesis", TypeVoid: "void",
	TypeServerInvited: "server_invited", TypeServerJoined: "server_joined", TypeServerExcluded: "server_excluded",
	TypeServerReturned: "server_returned", TypeServerForgotten: "server_forgotten",
	TypeRingCreated: "ring_created", TypeRingPolicySet: "ring_policy_set",
	TypeRollover: "rollover", TypeKeysDestroyed: "keys_destroyed", TypeRingDeleted: "ring_deleted",
	TypeRolloverUndone: "rollover_undone", TypeRolloverHeld: "rollover_held", TypeHoldEnded: "hold_ended",
	TypeIncidentClosed: "incident_closed", TypeSlotSkipped: "slot_skipped",
	TypeKeyPublished: "key_published", TypeKeyActivated: "key_activated", TypeModeSet: "mode_set",
	TypeHostRegistered: "host_registered", TypeHostRevoked: "host_revoked",
	TypeTokenCreated: "token_created", TypeTokenRevoked: "token_revoked",
	TypeHostsExpired: "hosts_expired", TypeHostsSeen: "hosts_seen",
	TypeSecretsOffered: "secrets_offered", TypeSecretsRetired: "secrets_retired", TypeSecretPolicySet: "secret_policy_set",
	TypeEpochBegun: "epoch_begun", TypeEpochEnded: "epoch_ended",
	TypeRekeyBegun: "rekey_begun", TypeKSKTaken: "ksk_taken", TypeRekeyTurned: "rekey_turned",
	TypeMaterialRewrapped: "material_rewrapped", TypeRekeyEnded: "rekey_ended", TypeSlotsSet: "slots_set",
}

// known reports whether this program knows the type.
func (t Type) known() bool { return int(t) < len(typeWords) && typeWords[t] != "" }

// ofServers reports whether an event of the type changes who is a member or counts.
func (t Type) ofServers() bool { return t >= TypeServerInvited && t <= TypeServerForgotten }

// ofKSK reports whether an event of the type is about the key store key.
func (t Type) ofKSK() bool { return t >= TypeRekeyBegun && t <= TypeSlotsSet }

// OfRing reports whether an event of the type is a change of a ring.
func (t Type) OfRing() bool { return ringKind(t) != 0 }

// String returns the type's word.
func (t Type) String() string {
	if t.known() {
		return typeWords[t]
	}
	return fmt.Sprintf("type(%d)", uint16(t))
}

// MarshalText gives the type's word.
func (t Type) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Types returns the types that this program knows, by number.
func Types() []Type {
	var types []Type
	for t := range Type(len(typeWords)) {
		if t.known() {
			types = append(types, t)
		}
	}
	return types
}

// A Kind is what a ledger holds. Stored: never renumber.
type Kind uint8

const (
	Keys  Kind = 1 // rings: the ledger of a key store
	Hosts Kind = 2 // trusted hosts: the ledger of a policy store
)

func (k Kind) String() string {
	switch k {
	case Keys:
		return "keys"
	case Hosts:
		return "hosts"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// MarshalText gives "keys" or "hosts".
func (k Kind) MarshalText() ([]byte, error) {
	if !k.valid() {
		return nil, invalid("unknown kind of ledger %d", uint8(k))
	}
	return []byte(k.String()), nil
}

// UnmarshalText reads "keys" or "hosts".
func (k *Kind) UnmarshalText(text []byte) error {
	for _, kind := range []Kind{Keys, Hosts} {
		if kind.String() == string(text) {
			*k = kind
			return nil
		}
	}
	return invalid(`unknown kind of ledger %q; want "keys" or "hosts"`, text)
}

func (k Kind) valid() bool { return k == Keys || k == Hosts }

// holds reports whether an event of type t belongs in a ledger of kind k.
func (k Kind) holds(t Type) bool {
	switch {
	case t == TypeGenesis || t == TypeVoid || t == TypeEpochBegun || t == TypeEpochEnded:
		return true
	case t.ofKSK():
		// Servers take the key store key in the ledger of keys; a policy store's follows.
		return k == Keys || t != TypeKSKTaken
	case t.ofServers():
		// A policy store's ledger takes over who has joined the key store.
		return k == Keys || t != TypeServerInvited
	case t.OfRing():
		return k == Keys
	case t >= TypeHostRegistered && t <= TypeSecretPolicySet:
		return k == Hosts
	}
	return false
}
