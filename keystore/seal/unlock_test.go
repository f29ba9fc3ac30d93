package seal_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/keystore/secretfile"
)

func TestFileKeyForms(t *testing.T) {
	key := bytesFrom(0xe0) // has + and / in base64
	slot := []byte(nil)
	k := seal.NewKSK()
	for _, content := range []string{
		string(key), hex.EncodeToString(key), strings.ToUpper(hex.EncodeToString(key)) + "\n", hex.EncodeToString(key) + "\r\n",
		base64.StdEncoding.EncodeToString(key) + "\n", base64.RawStdEncoding.EncodeToString(key),
		base64.URLEncoding.EncodeToString(key), base64.RawURLEncoding.EncodeToString(key) + "\n",
	} {
		u, err := seal.FileKey(secretFile(t, "unlock.key", content))
		if err != nil {
			t.Errorf("FileKey of %d bytes: %v", len(content), err)
			continue
		}
		if slot == nil {
			slot = fileSlot(t, k, u, "main")
		}
		if got, err := seal.OpenSlot(slot, u, "main"); err != nil || got.ID() != k.ID() {
			t.Errorf("FileKey of %d bytes is another key: %v", len(content), err)
		}
	}
}

func TestFileKeyRefuses(t *testing.T) {
	key := hex.EncodeToString(bytesFrom(1))
	for _, content := range []string{
		"x", key[:62], key + "00", key + "\n\n", " " + key[1:], strings.Repeat("g", 64), strings.Repeat("0", 64),
		string(make([]byte, 32)), string(bytesFrom(1)) + "\n", strings.Repeat("-", 44), strings.Repeat("A", 42) + "B",
	} {
		path := secretFile(t, "unlock.key", content)
		_, err := seal.FileKey(path)
		if e, ok := errors.AsType[*secretfile.Error](err); !ok || e.Path != path || e.Hint() == "" {
			t.Errorf("FileKey of %d bytes = %v, want an error with path and hint", len(content), err)
		}
	}
}

func TestPassphraseRefuses(t *testing.T) {
	tests := map[string]string{
		"short":                    "fewer than 14 characters",
		"13 characters\n":          "fewer than 14 characters",
		"two lines of\nwords here": "more than one line, or control characters",
		"not utf-8 \xff\xfe text":  "is not UTF-8 text",
		strings.Repeat("a", 1025):  "more than 1024 bytes",
	}
	for content, want := range tests {
		_, err := seal.Passphrase(secretFile(t, "passphrase", content))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Passphrase of %d bytes = %v, want %q", len(content), err, want)
		}
		if err != nil && strings.Contains(err.Error(), strings.TrimSpace(content)) {
			t.Errorf("the error shows the passphrase: %v", err)
		}
	}
}

func TestUnlockFilesMustBeSecret(t *testing.T) {
	path := secretFile(t, "passphrase", passphrase)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Passphrase(path); !errors.Is(err, secretfile.ErrUnsafe) {
		t.Errorf("Passphrase of a file that all can read = %v, want ErrUnsafe", err)
	}
	if _, err := seal.FileKey(path); !errors.Is(err, secretfile.ErrUnsafe) {
		t.Errorf("FileKey of a file that all can read = %v, want ErrUnsafe", err)
	}
}

func TestGenerated(t *testing.T) {
	line := seal.GeneratePassphrase()
	if !regexp.MustCompile(`^([0-9a-z]{5}-){4}[0-9a-z]{5}\n$`).Match(line) || bytes.Equal(line, seal.GeneratePassphrase()) {
		t.Errorf("GeneratePassphrase = %q, want five groups of five, another each time", line)
	}
	phrase(t, string(bytes.TrimSpace(line)))
	if _, err := seal.FileKey(secretFile(t, "unlock.key", string(seal.GenerateFileKey()))); err != nil {
		t.Errorf("FileKey of a generated one: %v", err)
	}
}

// TestKeysCannotBePrinted prints key store keys and unlock keys in every way and
// looks for their bytes.
func TestKeysCannotBePrinted(t *testing.T) {
	k, u, p := seal.NewKSK(), fileKey(t, 0x21), phrase(t, passphrase)
	type holder struct {
		K      *seal.KSK
		hidden *seal.KSK
		copied seal.KSK
		U      seal.UnlockKey
		unlock *seal.UnlockKey
		any    any
	}
	h := holder{K: k, hidden: k, copied: *k, U: u, unlock: &p, any: u}
	secrets := [][]byte{seal.KSKBytes(k), seal.UnlockBytes(u), seal.UnlockBytes(p)}
	for _, v := range []any{k, *k, u, &u, p, h, &h, []any{k, u, p}} {
		var out bytes.Buffer
		for verb := '!'; verb <= '~'; verb++ {
			for _, flags := range []string{"", "+", "#", " "} {
				fmt.Fprintf(&out, "%"+flags+string(verb)+"\n", v)
			}
		}
		text, err := json.Marshal(v)
		fmt.Fprintf(&out, "%s %v", text, err)
		slog.New(slog.NewTextHandler(&out, nil)).Info("key", "value", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("key", "value", v)
		for _, secret := range secrets {
			half := secret[:12]
			for _, form := range []string{
				string(half), hex.EncodeToString(half), base64.StdEncoding.EncodeToString(half),
				strings.Trim(fmt.Sprint(half), "[]"), strings.Trim(fmt.Sprintf("%q", half), `"`),
			} {
				if bytes.Contains(out.Bytes(), []byte(form)) {
					t.Errorf("%T: printing shows %d bytes of a secret", v, len(half))
				}
			}
		}
	}
	if got, want := fmt.Sprint(k), "key store key "+k.ID().String(); got != want {
		t.Errorf("a key store key prints as %q, want %q", got, want)
	}
}
