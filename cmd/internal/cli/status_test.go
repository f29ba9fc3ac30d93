package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/keytide/keytide/keystore/adminapi"
)

// TestStatusOfManyRegions: who is behind, by how much and why, in 80 columns.
func TestStatusOfManyRegions(t *testing.T) {
	at := time.Date(2026, 11, 24, 15, 4, 5, 0, time.UTC)
	var out bytes.Buffer
	printStatus(&out, adminapi.Status{
		Store: "main", Epoch: 1, N: 42,
		Servers: []adminapi.Server{
			{ID: "ps-eu-1", Region: "eu", State: "fresh", N: 42, AgeMS: 300, Agents: 12000},
			{ID: "ps-ap-1", Region: "ap", State: "stale", N: 40, AgeMS: 65_000, Agents: 640, AgentsBehind: 640, Why: "nothing has been heard of it for 1m5s; its last word was fresh"},
			{ID: "ps-sa-1", Region: "sa", State: "fresh", N: 40, Excluded: true},
		},
		Rings: []adminapi.RingStatus{{Name: "sso", Version: 3, HeldBy: []string{"ps-ap-1"}, Behind: []adminapi.Behind{
			{Server: "ps-ap-1", Region: "ap", Applied: 40, Needs: 41, By: 1, Since: at},
		}}},
	})
	for _, want := range []string{
		"fresh, excluded", "stale: nothing",
		"ring sso waits for ps-ap-1 (region ap): at event 40, needs 41\n  behind since 2026-11-24T15:04:05Z\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("status lacks %q:\n%s", want, &out)
		}
	}
	for line := range strings.Lines(out.String()) {
		if utf8.RuneCountInString(strings.TrimSuffix(line, "\n")) > width {
			t.Errorf("wider than %d columns: %s", width, line)
		}
	}
}
