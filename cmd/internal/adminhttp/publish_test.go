package adminhttp_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

func (f *fake) PublishKey(_ context.Context, actor string, _ keystore.RingName, req adminapi.PublishKey) (adminapi.KeyPublished, error) {
	return adminapi.KeyPublished{}, f.ask(actor, req)
}
func (f *fake) SetMode(_ context.Context, actor string, _ keystore.RingName, req adminapi.SetMode) (adminapi.RingChanged, error) {
	return adminapi.RingChanged{}, f.ask(actor, req)
}
func (f *fake) ExportKeys(_ context.Context, actor string, _ keystore.RingName, req adminapi.Export) (adminapi.Exported, error) {
	return adminapi.Exported{}, f.ask(actor, req)
}
func (f *fake) ImportKeys(_ context.Context, actor string, _ keystore.RingName, req adminapi.Import) (adminapi.Imported, error) {
	return adminapi.Imported{}, f.ask(actor, req)
}

// TestPublishingArrivesWhole: what the client is told to ask for is what the service
// is asked, secrets included, by whom the token is.
func TestPublishingArrivesWhole(t *testing.T) {
	s := newSite(t)
	overlap := "48h"
	publish := adminapi.PublishKey{Intent: intent(), Role: "static", K: adminapi.Secret(strings.Repeat("A", 43)), Overlap: &overlap, Force: true}
	mode := adminapi.SetMode{Intent: intent(), Mode: "static", Overlap: &overlap}
	export := adminapi.Export{What: []string{"static", "ticket"}, OpenOnly: true, Passphrase: "correct horse battery", Reason: "partner"}
	take := adminapi.Import{Intent: intent(), Signed: "a.b.c", From: []string{"x"}, OpenOnly: true, DryRun: true}
	for name, c := range map[string]struct {
		call func() error
		want any
	}{
		"publish": {func() error { _, err := s.client.PublishKey(t.Context(), "sso", publish); return err }, publish},
		"mode":    {func() error { _, err := s.client.SetMode(t.Context(), "sso", mode); return err }, mode},
		"export":  {func() error { _, err := s.client.ExportKeys(t.Context(), "sso", export); return err }, export},
		"import":  {func() error { _, err := s.client.ImportKeys(t.Context(), "sso", take); return err }, take},
	} {
		if err := c.call(); err != nil || s.actor != "alice" {
			t.Errorf("%s = %v by %q, want nil by alice", name, err, s.actor)
		}
		if diff := cmp.Diff(c.want, s.asked); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestBadPublishingShowsNoKey: a request that does not fit its schema is refused, and
// the answer repeats nothing of the key.
func TestBadPublishingShowsNoKey(t *testing.T) {
	s := newSite(t)
	secret := strings.Repeat("S3cret", 20)
	for path, body := range map[string]string{
		"/v1/rings/sso/keys":   `{"request":"` + intent().Request + `","role":"static","k":"` + secret + `"}`,
		"/v1/rings/sso/mode":   `{"request":"` + intent().Request + `","mode":"` + secret + `"}`,
		"/v1/rings/sso/export": `{"what":["static"],"passphrase":"` + strings.Repeat(secret, 20) + `"}`,
		"/v1/rings/sso/import": `{"request":"` + intent().Request + `","signed":["` + secret + `"]}`,
	} {
		p := s.raw(t, "POST", path, body)
		text := p.Detail
		for _, f := range p.Faults {
			text += f.Path + f.Detail
		}
		if p.Name() != "invalid" || strings.Contains(text, "S3cret") {
			t.Errorf("%s: %+v, want it invalid and without the secret", path, p)
		}
	}
}
