package seal_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/seal"
)

const envelopeFile = "testdata/vectors/envelope.json"

// envelopeVectors are for other implementations; SPEC.md says what the fields are.
type envelopeVectors struct {
	Comment   string           `json:"comment"`
	Envelopes []envelopeVector `json:"envelopes"`
	Members   []memberVector   `json:"members"`
}

type envelopeVector struct {
	Scalar   hexBytes `json:"p256_scalar"` // of who opens it
	Store    string   `json:"store"`
	Epoch    uint64   `json:"epoch"`
	Server   string   `json:"server"`
	Content  uint8    `json:"content"`
	Secret   hexBytes `json:"secret"`
	Key      hexBytes `json:"wrapping_key"`
	AAD      hexBytes `json:"associated_data"`
	Envelope hexBytes `json:"envelope"`
}

type memberVector struct {
	Membership hexBytes `json:"membership_key"`
	Kind       string   `json:"kind"`
	Store      string   `json:"store"`
	StoreID    hexBytes `json:"store_id"`
	Epoch      uint64   `json:"epoch"`
	Server     string   `json:"server"`
	Region     string   `json:"region"`
	PublicKey  hexBytes `json:"public_key"`
	P256Key    hexBytes `json:"p256_key"`
	MACKey     hexBytes `json:"mac_key"`
	MAC        hexBytes `json:"mac"`
}

func (v envelopeVector) address() seal.Address {
	return seal.Address{Store: v.Store, Epoch: keystore.Epoch(v.Epoch), Server: v.Server, Content: seal.Content(v.Content)}
}

func (v envelopeVector) key(tb testing.TB) *ecdh.PrivateKey {
	tb.Helper()
	key, err := seal.P256(mustMaterial(tb, v.Scalar))
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func (v memberVector) vouched() seal.Vouched {
	return seal.Vouched{
		Kind: v.Kind, Store: v.Store, StoreID: [16]byte(v.StoreID), Epoch: keystore.Epoch(v.Epoch), Server: v.Server, Region: v.Region,
		PublicKey: v.PublicKey, P256Key: v.P256Key,
	}
}

func lp(s string) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...) }

func expand(tb testing.TB, secret []byte, info string) []byte {
	tb.Helper()
	key, err := hkdf.Expand(sha256.New, secret, info, 32)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// specEnvelope takes an envelope apart by SPEC.md alone.
func specEnvelope(tb testing.TB, v envelopeVector) envelopeVector {
	tb.Helper()
	key := v.key(tb)
	once, err := ecdh.P256().NewPublicKey(v.Envelope[2:67])
	if err != nil {
		tb.Fatal(err)
	}
	shared, err := key.ECDH(once)
	if err != nil {
		tb.Fatal(err)
	}
	salt := append(append([]byte{}, v.Envelope[2:67]...), key.PublicKey().Bytes()...)
	if v.Key, err = hkdf.Key(sha256.New, shared, salt, "kw1 envelope", 32); err != nil {
		tb.Fatal(err)
	}
	v.AAD = bytes.Join([][]byte{
		v.Envelope[:67], lp(v.Store), binary.BigEndian.AppendUint64(nil, v.Epoch), lp(v.Server), {v.Content},
	}, nil)
	return v
}

func specMember(tb testing.TB, v memberVector) memberVector {
	tb.Helper()
	v.MACKey = expand(tb, v.Membership, "kw1 member")
	h := hmac.New(sha256.New, v.MACKey)
	h.Write(bytes.Join([][]byte{
		[]byte("keytide member 1\x00"), lp(v.Kind), lp(v.Store), v.StoreID, binary.BigEndian.AppendUint64(nil, v.Epoch),
		lp(v.Server), lp(v.Region), lp(string(v.PublicKey)), lp(string(v.P256Key)),
	}, nil))
	v.MAC = h.Sum(nil)
	return v
}

func writeEnvelopeVectors(t *testing.T) {
	scalar := sha256.Sum256([]byte("keytide envelope vector"))
	v := envelopeVectors{Comment: "keystore/seal/SPEC.md, \"Envelope\" and \"Member's MAC\""}
	for content, secret := range map[uint8][]byte{1: bytes.Repeat([]byte{0x5a}, 32)} {
		e := envelopeVector{Scalar: scalar[:], Store: "main", Epoch: 1, Server: "ps-2", Content: content, Secret: secret}
		var err error
		if e.Envelope, err = seal.SealTo(e.key(t).PublicKey().Bytes(), e.address(), secret); err != nil {
			t.Fatal(err)
		}
		v.Envelopes = append(v.Envelopes, specEnvelope(t, e))
	}
	for _, kind := range []string{"keys", "hosts"} {
		v.Members = append(v.Members, specMember(t, memberVector{
			Membership: bytes.Repeat([]byte{0x33}, 32), Kind: kind, Store: "main", StoreID: bytes.Repeat([]byte{7}, 16), Epoch: 1,
			Server: "ps-2", Region: "us", PublicKey: bytes.Repeat([]byte{9}, 32), P256Key: v.Envelopes[0].key(t).PublicKey().Bytes(),
		}))
	}
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(envelopeFile, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestEnvelopeVectors(t *testing.T) {
	if *update {
		writeEnvelopeVectors(t)
	}
	text, err := os.ReadFile(envelopeFile)
	if err != nil {
		t.Fatal(err)
	}
	var v envelopeVectors
	if err := json.Unmarshal(text, &v); err != nil || len(v.Envelopes) == 0 || len(v.Members) == 0 {
		t.Fatalf("%s: %v, or a part is empty", envelopeFile, err)
	}
	for i, e := range v.Envelopes {
		got, err := seal.OpenFrom(e.key(t), e.address(), e.Envelope)
		if err != nil || !bytes.Equal(got, e.Secret) {
			t.Errorf("envelope %d: OpenFrom = %x, %v", i, got, err)
		}
		if spec := specEnvelope(t, e); !bytes.Equal(spec.Key, e.Key) || !bytes.Equal(spec.AAD, e.AAD) {
			t.Errorf("envelope %d differs from SPEC.md", i)
		}
	}
	for i, m := range v.Members {
		mac, err := seal.Vouch(mustMaterial(t, m.Membership), m.vouched())
		if err != nil || !bytes.Equal(mac[:], m.MAC) || !bytes.Equal(specMember(t, m).MAC, m.MAC) {
			t.Errorf("member %d: Vouch = %x, %v, want %x", i, mac, err, []byte(m.MAC))
		}
	}
}

func TestKSKReachesItsAddressAlone(t *testing.T) {
	ksk := seal.NewKSK()
	key, err := seal.P256(seal.GenerateP256())
	if err != nil {
		t.Fatal(err)
	}
	at := seal.Address{Store: "main", Epoch: 1, Server: "ps-2"}
	envelope, err := ksk.SealTo(key.PublicKey().Bytes(), at)
	if err != nil {
		t.Fatal(err)
	}
	got, err := seal.KSKFrom(key, at, envelope, ksk.ID())
	if err != nil || got.ID() != ksk.ID() {
		t.Fatalf("KSKFrom = %v, %v, want %v", got, err, ksk)
	}
	if _, err := seal.KSKFrom(key, at, envelope, keystore.KID{1}); !errors.Is(err, seal.ErrWrongKey) {
		t.Errorf("another id: KSKFrom = %v, want ErrWrongKey", err)
	}
	stranger, err := seal.P256(seal.GenerateP256())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.KSKFrom(stranger, at, envelope, ksk.ID()); !errors.Is(err, seal.ErrNotAuthentic) {
		t.Errorf("another key: KSKFrom = %v, want ErrNotAuthentic", err)
	}
	for name, other := range map[string]seal.Address{
		"another store":  {Store: "test", Epoch: 1, Server: "ps-2"},
		"another epoch":  {Store: "main", Epoch: 2, Server: "ps-2"},
		"another server": {Store: "main", Epoch: 1, Server: "ps-3"},
	} {
		if _, err := seal.KSKFrom(key, other, envelope, ksk.ID()); !errors.Is(err, seal.ErrNotAuthentic) {
			t.Errorf("%s: KSKFrom = %v, want ErrNotAuthentic", name, err)
		}
	}
	content := at
	content.Content = seal.ContentCA
	if _, err := seal.OpenFrom(key, content, envelope); !errors.Is(err, seal.ErrNotAuthentic) {
		t.Errorf("another content: OpenFrom = %v, want ErrNotAuthentic", err)
	}
	for i := range envelope {
		changed := bytes.Clone(envelope)
		changed[i] ^= 1
		if _, err := seal.KSKFrom(key, at, changed, ksk.ID()); !errors.Is(err, seal.ErrNotAuthentic) {
			t.Fatalf("byte %d changed: KSKFrom = %v, want ErrNotAuthentic", i, err)
		}
		if _, err := seal.KSKFrom(key, at, envelope[:i], ksk.ID()); !errors.Is(err, seal.ErrNotAuthentic) {
			t.Fatalf("%d bytes: KSKFrom = %v, want ErrNotAuthentic", i, err)
		}
	}
	if _, err := ksk.SealTo([]byte{4, 1, 2}, at); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("no key: SealTo = %v, want keystore.ErrInvalid", err)
	}
	if _, err := seal.SealTo(key.PublicKey().Bytes(), content, nil); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("nothing inside: SealTo = %v, want keystore.ErrInvalid", err)
	}
}

func TestMACVouchesForEveryField(t *testing.T) {
	membership := seal.Generate()
	v := seal.Vouched{
		Kind: "keys", Store: "main", StoreID: [16]byte{1}, Epoch: 1, Server: "ps-2", Region: "us",
		PublicKey: bytes.Repeat([]byte{9}, 32), P256Key: bytes.Repeat([]byte{4}, 65),
	}
	mac, err := seal.Vouch(membership, v)
	if err != nil || !seal.Vouches(membership, v, mac) {
		t.Fatalf("Vouches = false, %v", err)
	}
	for name, change := range map[string]func(*seal.Vouched){
		"kind": func(v *seal.Vouched) { v.Kind = "hosts" }, "store": func(v *seal.Vouched) { v.Store = "mai" },
		"store id": func(v *seal.Vouched) { v.StoreID[0]++ }, "epoch": func(v *seal.Vouched) { v.Epoch++ },
		"server": func(v *seal.Vouched) { v.Server = "ps-3" }, "region": func(v *seal.Vouched) { v.Region = "eu" },
		"public key":                func(v *seal.Vouched) { v.PublicKey = bytes.Repeat([]byte{8}, 32) },
		"P-256 key":                 func(v *seal.Vouched) { v.P256Key = bytes.Repeat([]byte{3}, 65) },
		"a byte between two fields": func(v *seal.Vouched) { v.Server, v.Region = "ps-2u", "s" },
	} {
		other := v
		change(&other)
		if seal.Vouches(membership, other, mac) {
			t.Errorf("another %s: the MAC vouches for it", name)
		}
	}
	if seal.Vouches(seal.Generate(), v, mac) {
		t.Error("another membership key vouches")
	}
}

func FuzzOpenFrom(f *testing.F) {
	key, err := seal.P256(seal.GenerateP256())
	if err != nil {
		f.Fatal(err)
	}
	at := seal.Address{Store: "main", Epoch: 1, Server: "ps-2", Content: seal.ContentCA}
	envelope, err := seal.SealTo(key.PublicKey().Bytes(), at, []byte("secret"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(envelope)
	f.Add(envelope[:67])
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := seal.OpenFrom(key, at, b); err == nil && !bytes.Equal(b, envelope) {
			t.Fatalf("opens: %x", got)
		} else if err != nil && !errors.Is(err, seal.ErrNotAuthentic) {
			t.Fatalf("OpenFrom = %v, want ErrNotAuthentic", err)
		}
	})
}
