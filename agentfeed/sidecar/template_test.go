package sidecar_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytide/keytide/agentfeed/sidecar"
	"github.com/keytide/keytide/keystore"
)

func writeTemplate(t *testing.T, text string) sidecar.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "app.tmpl")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return sidecar.File{Template: path}
}

func TestTemplate(t *testing.T) {
	set := keySet(t, 'a', keystore.Current, keystore.Old, keystore.Old, keystore.Future, keystore.Static)
	for _, c := range []struct{ text, want string }{
		{`{{raw (current "sso")}}`, strings.Repeat("a", 32)},
		{`{{hex (future "sso")}}`, strings.Repeat("64", 32)},
		{`{{static "sso" | b64}}`, "ZWVlZWVlZWVlZWVlZWVlZWVlZWVlZWVlZWVlZWVlZWU="},
		{`{{static "sso" | b64url}}`, "ZWVlZWVlZWVlZWVlZWVlZWVlZWVlZWVlZWVlZWVlZWU"},
		{`{{range $i, $k := old "sso"}}{{if $i}},{{end}}{{raw $k | printf "%.2s"}}{{end}}`, "bb,cc"},
		{`{{range keys "sso"}}{{.Role}} {{end}}`, "current old old future static "},
		{`{{len (hkdf "rails" 64 (current "sso") | raw)}}`, "64"},
		// Checked with Python's hmac: HKDF-Expand of "keytide/v1 template|sso|x".
		{`{{current "sso" | hkdf "x" 16 | hex}}`, "ff537864c3921e0fdd763febb0c874db"},
		{`{{(ring "sso").Version}}.{{(ring "sso").Mode}} {{.State}} {{.Server}} {{range .Rings}}{{.Name}}{{end}}`, "7.dynamic fresh ps-1 sso"},
		{`{{range .Rings}}{{range keys .Name}}{{.Role}} {{end}}{{end}}`, "current old old future static "},
		{`{{define "k"}}{{b64 .}}{{end}}{{template "k" "text"}}`, "dGV4dA=="},
		{`{{(current "sso").KID}}`, set.Keys[0].KID.String()},
	} {
		if got := render(t, writeTemplate(t, c.text), set); got != c.want {
			t.Errorf("%s gives %q, want %q", c.text, got, c.want)
		}
	}
}

// TestTemplateErrors: an error names file and line, and shows no key.
func TestTemplateErrors(t *testing.T) {
	set := keySet(t, 'a', keystore.Current, keystore.Future)
	for _, c := range []struct{ text, want string }{
		{"one\n{{if}}", "app.tmpl:2: missing value for if"},
		{"one\n{{curent \"sso\"}}", `app.tmpl:2: function "curent" not defined`},
		{"one\n\n{{b64 (current \"api\")}}", "no ring of that name; it has sso"},
		{"one\n{{static \"sso\" | b64}}", "the ring has no static key"},
		{"one\n{{current \"sso\"}}", "a key is not text: write b64, b64url, hex or raw before it"},
		{"one\n{{range old \"sso\"}}{{end}}{{range keys \"sso\"}}\n{{else}}{{end}}{{hkdf \"x\" 16 (current \"sso\")}}", "a key is not text"},
		{"one\n{{with current \"sso\"}}{{.}}{{end}}", "a key is not text"},
		{"one\n{{define \"x\"}}{{keys \"sso\"}}{{end}}{{template \"x\"}}", "a key is not text"},
		{"one\n{{hkdf \"x\" 9000 (current \"sso\")}}", "9000 bytes: want 1 to 8160"},
		{"one\n{{current (current \"sso\" | raw)}}", "no ring of that name; it has sso"},
		{"one\n{{.Nosuch}}", `map has no entry for key "Nosuch"`},
	} {
		f := writeTemplate(t, c.text)
		_, err := sidecar.Render(f, set)
		if err == nil || !strings.Contains(err.Error(), f.Template+":") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		} else if strings.Contains(err.Error(), "aaaa") {
			t.Errorf("%q: the error shows key bytes", c.text)
		}
	}
}
