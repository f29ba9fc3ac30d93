package events

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/keytide/keytide/keystore"
)

// A KeyKind says what a KV key holds.
type KeyKind uint8

const (
	KeyLog      KeyKind = iota + 1 // log.<n>: an event
	KeyRing                        // ring.<name>: a ring's state
	KeyHost                        // host.<name>: a trusted host's state
	KeyMaterial                    // material.<kid>: sealed key bytes
	KeyKSK                         // ksk.<kid>: a key store key's unlock slots
	KeyHead                        // head: where the log ends
	KeyServer                      // server.<id>: a policy server's own record
	KeyBeacon                      // beacon: the proof that the ledger lives
	KeyToken                       // token.<kid>: a registration token's state
	KeyPolicy                      // policy.<name>: a policy of the policy store
)

// HeadKey and BeaconKey are the KV keys of which a ledger has one each.
const (
	HeadKey   = "head"
	BeaconKey = "beacon"
)

const (
	logPrefix      = "log."
	ringPrefix     = "ring."
	hostPrefix     = "host."
	materialPrefix = "material."
	kskPrefix      = "ksk."
	serverPrefix   = "server."
	tokenPrefix    = "token."
	policyPrefix   = "policy."
)

// LogKey returns the KV key of event n.
func LogKey(n keystore.N) string { return logPrefix + strconv.FormatUint(uint64(n), 10) }

// RingKey returns the KV key of a ring's state.
func RingKey(name keystore.RingName) string { return ringPrefix + string(name) }

// HostKey returns the KV key of a trusted host's state.
func HostKey(name string) string { return hostPrefix + name }

// MaterialKey returns the KV key of sealed key bytes.
func MaterialKey(kid keystore.KID) string { return materialPrefix + kid.String() }

// TokenKey returns the KV key of a registration token's state.
func TokenKey(id keystore.KID) string { return tokenPrefix + id.String() }

// PolicyKey returns the KV key of a policy.
func PolicyKey(name string) string { return policyPrefix + name }

// KSKKey returns the KV key of a key store key's unlock slots.
func KSKKey(id keystore.KID) string { return kskPrefix + id.String() }

// ServerKey returns the KV key of a policy server's record.
func ServerKey(id string) string { return serverPrefix + id }

// A Key is a KV key taken apart.
type Key struct {
	Kind KeyKind
	N    keystore.N   // of KeyLog
	Name string       // of KeyRing, KeyHost, KeyServer and KeyPolicy
	KID  keystore.KID // of KeyMaterial, KeyKSK and KeyToken
}

// ParseKey takes a KV key apart. The error wraps keystore.ErrInvalid.
func ParseKey(s string) (Key, error) {
	kind, rest, ok := splitKey(s)
	key := Key{Kind: kind}
	var err error
	switch {
	case !ok:
		err = invalid("not a key of a ledger")
	case kind == KeyLog:
		key.N, err = parseN(rest)
	case kind == KeyMaterial || kind == KeyKSK || kind == KeyToken:
		if key.KID, err = keystore.ParseKID(rest); err == nil && key.KID.String() != rest {
			err = invalid("kid %q has upper-case digits", rest)
		}
	case kind == KeyRing || kind == KeyHost || kind == KeyServer || kind == KeyPolicy:
		key.Name, err = rest, keystore.CheckName(rest)
	}
	if err != nil {
		return Key{}, fmt.Errorf("key %q: %w", s, err)
	}
	return key, nil
}

// splitKey tells a key's kind and what follows the prefix, which it does not check.
func splitKey[T string | []byte](s T) (kind KeyKind, rest T, ok bool) {
	switch {
	case hasPrefix(s, logPrefix):
		return KeyLog, s[len(logPrefix):], true
	case hasPrefix(s, materialPrefix):
		return KeyMaterial, s[len(materialPrefix):], true
	case hasPrefix(s, ringPrefix):
		return KeyRing, s[len(ringPrefix):], true
	case hasPrefix(s, hostPrefix):
		return KeyHost, s[len(hostPrefix):], true
	case hasPrefix(s, kskPrefix):
		return KeyKSK, s[len(kskPrefix):], true
	case hasPrefix(s, serverPrefix):
		return KeyServer, s[len(serverPrefix):], true
	case hasPrefix(s, tokenPrefix):
		return KeyToken, s[len(tokenPrefix):], true
	case hasPrefix(s, policyPrefix):
		return KeyPolicy, s[len(policyPrefix):], true
	case string(s) == HeadKey:
		return KeyHead, s[len(s):], true
	case string(s) == BeaconKey:
		return KeyBeacon, s[len(s):], true
	}
	return 0, s, false
}

func hasPrefix[T string | []byte](s T, prefix string) bool {
	return len(s) >= len(prefix) && string(s[:len(prefix)]) == prefix
}

// isEffectKey reports whether an event may name this key as an effect.
func isEffectKey(s []byte) bool {
	kind, rest, ok := splitKey(s)
	switch {
	case !ok:
		return false
	case kind == KeyRing || kind == KeyHost || kind == KeyPolicy:
		return isName(rest)
	case kind == KeyMaterial || kind == KeyKSK || kind == KeyToken:
		return isKID(rest)
	}
	return false
}

func isName(s []byte) bool { return keystore.CheckName(string(s)) == nil }

func isKID(s []byte) bool {
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(s) == 16
}

func parseN(s string) (keystore.N, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n == 0 || s[0] < '1' || s[0] > '9' {
		return 0, invalid("%q is not the number of an event", s)
	}
	return keystore.N(n), nil
}

const (
	bucketPrefix  = "keytide_"
	streamPrefix  = "KV_"
	subjectPrefix = "$KV."
)

// BucketName returns the name of a ledger's bucket, such as keytide_keys_main_e1.
func BucketName(kind Kind, store string, epoch keystore.Epoch) string {
	return fmt.Sprintf("%s%s_%s_e%d", bucketPrefix, kind, store, epoch)
}

// ParseBucket takes the name of a ledger's bucket apart. The error wraps
// keystore.ErrInvalid.
func ParseBucket(bucket string) (kind Kind, store string, epoch keystore.Epoch, err error) {
	bad := invalid("bucket %q: want %s<keys|hosts>_<store>_e<epoch>", bucket, bucketPrefix)
	rest, ok := strings.CutPrefix(bucket, bucketPrefix)
	parts := strings.Split(rest, "_")
	if !ok || len(parts) != 3 || kind.UnmarshalText([]byte(parts[0])) != nil || keystore.CheckName(parts[1]) != nil {
		return 0, "", 0, bad
	}
	digits, ok := strings.CutPrefix(parts[2], "e")
	n, err := parseN(digits)
	if !ok || err != nil {
		return 0, "", 0, bad
	}
	return kind, parts[1], keystore.Epoch(n), nil
}

// StreamName returns the name of the stream that keeps a bucket.
func StreamName(bucket string) string { return streamPrefix + bucket }

// Subject returns the subject of a KV key.
func Subject(bucket, key string) string { return subjectPrefix + bucket + "." + key }

// Subjects returns the pattern of all subjects of a bucket.
func Subjects(bucket string) string { return subjectPrefix + bucket + ".>" }

// KeyOf returns the KV key of one of the bucket's subjects.
func KeyOf(bucket, subject string) (string, bool) {
	return strings.CutPrefix(subject, subjectPrefix+bucket+".")
}
