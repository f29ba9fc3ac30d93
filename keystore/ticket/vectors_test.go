package ticket_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/ticket"
)

var update = flag.Bool("update", false, "write testdata/vectors anew")

const vectorFile = "testdata/vectors/ticket.json"

type vectors struct {
	Comment string    `json:"comment"`
	Tickets []vector  `json:"tickets"`
	Refused []refused `json:"refused"` // under the first ticket's key and ring, at its issue time
}

type vector struct {
	Key     string `json:"key"` // hexadecimal
	KID     string `json:"kid"`
	Ring    string `json:"ring"`
	Host    string `json:"host"`
	Issued  int64  `json:"issued"`  // Unix seconds
	MaxAge  int64  `json:"max_age"` // seconds
	Payload string `json:"payload"` // hexadecimal
	Ticket  string `json:"ticket"`
}

type refused struct {
	Why    string `json:"why"`
	Ticket string `json:"ticket"`
}

func writeVectors(t *testing.T) {
	v := vectors{Comment: "Session tickets, as keystore/ticket/SPEC.md describes them. The keys are for tests only."}
	for i, payload := range []string{"user=amira", ""} {
		k := key(t, string(rune('a'+i)))
		one := ticket.Ticket{Host: "web-1", Issued: start, MaxAge: 8 * time.Hour, Payload: []byte(payload)}
		row := vector{
			KID: k.KID().String(), Ring: "sso", Host: one.Host, Issued: one.Issued.Unix(), MaxAge: int64(one.MaxAge / time.Second),
			Payload: hex.EncodeToString(one.Payload), Ticket: seal(t, k, one),
		}
		k.Use(func(secret []byte) error { row.Key = hex.EncodeToString(secret); return nil })
		v.Tickets = append(v.Tickets, row)
	}
	good := v.Tickets[0].Ticket
	old := ticket.Ticket{Host: "web-1", Issued: start.Add(-time.Hour), MaxAge: time.Hour}
	another, err := ticket.Seal(key(t, "a"), "app", aTicket())
	if err != nil {
		t.Fatal(err)
	}
	v.Refused = []refused{
		{"another ring's", another}, {"expired", seal(t, key(t, "a"), old)}, {"another key's", v.Tickets[1].Ticket},
		{"cut", good[:len(good)-4]}, {"padded", good + "="}, {"a cookie's version", "A" + good[1:]},
	}
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorFile, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestVectors: what was sealed once opens for ever.
func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	v := readVectors(t)
	if len(v.Tickets) < 2 || len(v.Refused) < 6 {
		t.Fatalf("%d tickets and %d refusals", len(v.Tickets), len(v.Refused))
	}
	for i, row := range v.Tickets {
		k := row.key(t)
		got, err := ticket.Open(row.Ticket, keystore.RingName(row.Ring), time.Unix(row.Issued, 0), ring(k))
		if err != nil || k.KID().String() != row.KID {
			t.Errorf("ticket %d under key %s: %v", i, k.KID(), err)
			continue
		}
		if got.Host != row.Host || got.Issued.Unix() != row.Issued || int64(got.MaxAge/time.Second) != row.MaxAge || hex.EncodeToString(got.Payload) != row.Payload {
			t.Errorf("ticket %d = %+v, want %+v", i, got, row)
		}
	}
	first := v.Tickets[0]
	for _, r := range v.Refused {
		_, err := ticket.Open(r.Ticket, keystore.RingName(first.Ring), time.Unix(first.Issued, 0), ring(first.key(t)))
		if !errors.Is(err, ticket.ErrTicket) && !errors.Is(err, ticket.ErrExpired) {
			t.Errorf("%s: %v, want it refused", r.Why, err)
		}
	}
}

func readVectors(t testing.TB) vectors {
	t.Helper()
	text, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v vector) key(t testing.TB) keystore.Material {
	t.Helper()
	secret, err := hex.DecodeString(v.Key)
	if err != nil {
		t.Fatal(err)
	}
	m, err := keystore.NewMaterial(secret)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
