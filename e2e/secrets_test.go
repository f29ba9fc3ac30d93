package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// spellings are the forms in which key bytes could turn up in a file or a line.
func spellings(secret []byte) [][]byte {
	// Base64 of a longer text that holds the secret at another offset shares no
	// characters with base64 of the secret alone; hence the three alignments,
	// without the characters that neighbours change.
	var out [][]byte
	out = append(out, secret, []byte(hex.EncodeToString(secret)), bytes.ToUpper([]byte(hex.EncodeToString(secret))))
	for offset := range 3 {
		padded := append(make([]byte, offset), secret...)
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			text := []byte(enc.EncodeToString(padded))
			from := (offset*8 + 5) / 6
			to := len(padded) * 8 / 6
			out = append(out, text[from:to])
		}
	}
	return out
}

// findSecrets reports every place in files below dir, and in the transcript, that
// holds one of the secrets. keep tells files that may.
func findSecrets(t *testing.T, dir string, output *transcript, secrets [][]byte, keep func(path string) bool) {
	t.Helper()
	searched := 0
	search := func(where string, data []byte) {
		searched++
		for i, secret := range secrets {
			for form, spelling := range spellings(secret) {
				if bytes.Contains(data, spelling) {
					t.Errorf("%s holds the bytes of secret %d in spelling %d", where, i, form)
				}
			}
		}
	}
	search("a program's output", []byte(output.String()))
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || keep != nil && keep(path) {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		search(path, data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if searched < 5 {
		t.Errorf("searched %d files; the search has lost the store", searched)
	}
}

// TestSearchFindsSecrets keeps the search itself honest.
func TestSearchFindsSecrets(t *testing.T) {
	secret := []byte("an example of thirty-two bytes!!")
	for i, holder := range [][]byte{
		append([]byte("xx"), append(bytes.Clone(secret), 'y')...),
		[]byte("key=" + hex.EncodeToString(secret)),
		[]byte(base64.StdEncoding.EncodeToString(append([]byte("k"), append(bytes.Clone(secret), "tail"...)...))),
		[]byte(base64.RawURLEncoding.EncodeToString(append([]byte("ab"), secret...))),
		[]byte(base64.RawURLEncoding.EncodeToString(secret)),
	} {
		found := false
		for _, spelling := range spellings(secret) {
			found = found || bytes.Contains(holder, spelling)
		}
		if !found {
			t.Errorf("holder %d: the secret in %q was not found", i, holder)
		}
	}
}
