package agentfeed_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/feedtest"
)

// ticketRing is ring sso as a host with this right to session tickets has it.
func ticketRing(t *testing.T, server *feedtest.Server, host, right string) *agentfeed.Ring {
	t.Helper()
	h := server.Host(host)
	server.AllowTickets(host, right)
	client, err := agentfeed.New(agentfeed.Config{Servers: h.Servers, CA: h.CA, Host: h.Host, KID: h.KID, Secret: h.Secret})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client.Ring("sso")
}

func refusedAs(err error, name string) bool {
	var p *agentfeed.ProblemError
	return errors.As(err, &p) && p.Name == name
}

// TestTickets: a host with the right has a server seal, one with less opens, one with
// none does neither; a new key leaves the tickets of the former one good.
func TestTickets(t *testing.T) {
	server := feedtest.NewServer(t, "sso", "app")
	sealer, opener, stranger := ticketRing(t, server, "sealer", "seal"), ticketRing(t, server, "opener", "open"), ticketRing(t, server, "stranger", "none")
	before := time.Now().Add(-2 * time.Second)
	tickets, err := sealer.SealTickets(t.Context(), time.Hour, []byte("user=amira"), nil, bytes.Repeat([]byte{0xff}, 8192))
	if err != nil || len(tickets) != 3 {
		t.Fatalf("SealTickets = %d tickets, %v", len(tickets), err)
	}
	server.RollTicketKey("sso")
	opened, err := opener.OpenTickets(t.Context(), tickets...)
	if err != nil || len(opened) != 3 {
		t.Fatalf("OpenTickets = %+v, %v", opened, err)
	}
	for i, want := range [][]byte{[]byte("user=amira"), nil, bytes.Repeat([]byte{0xff}, 8192)} {
		got := opened[i]
		if got.Err != nil || !bytes.Equal(got.Payload, want) || got.Host != "sealer" || got.Issued.Before(before) || got.Expires.Sub(got.Issued) != time.Hour {
			t.Errorf("ticket %d = %d bytes by %s at %v until %v, %v", i, len(got.Payload), got.Host, got.Issued, got.Expires, got.Err)
		}
	}
	longest, err := sealer.SealTickets(t.Context(), 0, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if opened, err := sealer.OpenTickets(t.Context(), longest...); err != nil || opened[0].Expires.Sub(opened[0].Issued) != 8*time.Hour {
		t.Errorf("without an age: %+v, %v; want the ring's 8 hours", opened, err)
	}
	for name, err := range map[string]error{
		"open right seals": second(opener.SealTickets(t.Context(), 0, []byte("x"))),
		"no right seals":   second(stranger.SealTickets(t.Context(), 0, []byte("x"))),
		"no right opens":   second(stranger.OpenTickets(t.Context(), tickets...)),
	} {
		if !refusedAs(err, "tickets-refused") {
			t.Errorf("%s: %v, want tickets-refused", name, err)
		}
	}
}

// TestTicketsUnderTheSecretInUse: while servers do not know an agent's new secret, it asks
// for tickets with the one before, as it is fed.
func TestTicketsUnderTheSecretInUse(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	h, unknown := server.Host("web-1"), feedtest.NewServer(t, "sso").Host("web-1").Secret
	server.AllowTickets("web-1", "seal")
	client, err := agentfeed.New(agentfeed.Config{Servers: h.Servers, CA: h.CA, Host: h.Host, Secret: unknown, PreviousSecret: h.Secret})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if err := client.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	ring := client.Ring("sso")
	tickets, err := ring.SealTickets(t.Context(), 0, []byte("x"))
	if err != nil {
		t.Fatalf("SealTickets, fed under the previous secret: %v", err)
	}
	if opened, err := ring.OpenTickets(t.Context(), tickets...); err != nil || string(opened[0].Payload) != "x" {
		t.Errorf("OpenTickets = %+v, %v", opened, err)
	}
	alone, err := agentfeed.New(agentfeed.Config{Servers: h.Servers, CA: h.CA, Host: h.Host, Secret: unknown})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { alone.Close() })
	if _, err := alone.Ring("sso").SealTickets(t.Context(), 0, []byte("x")); !refusedAs(err, "bad-mac") {
		t.Errorf("SealTickets under a secret that no server knows: %v, want it refused", err)
	}
}

func second[T any](_ T, err error) error { return err }

// TestTicketsThatDoNotOpen are told apart one by one, in a batch.
func TestTicketsThatDoNotOpen(t *testing.T) {
	server := feedtest.NewServer(t, "sso", "app")
	ring := ticketRing(t, server, "web-1", "seal")
	good, err := ring.SealTickets(t.Context(), time.Hour, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	short, err := ring.SealTickets(t.Context(), time.Second, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	changed := []byte(good[0])
	changed[40] ^= 1
	deadline := time.Now().Add(patience)
	for {
		opened, err := ring.OpenTickets(t.Context(), good[0], string(changed), "", short[0])
		if err != nil {
			t.Fatal(err)
		}
		if opened[0].Err != nil || !errors.Is(opened[1].Err, agentfeed.ErrTicket) || !errors.Is(opened[2].Err, agentfeed.ErrTicket) {
			t.Fatalf("OpenTickets = %+v", opened)
		}
		if errors.Is(opened[3].Err, agentfeed.ErrTicketExpired) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a ticket of one second is still good: %+v", opened[3])
		}
		time.Sleep(20 * time.Millisecond) // between two looks at a condition
	}
}

// TestTicketLimits: what is too much is refused before anything is sealed.
func TestTicketLimits(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	ring := ticketRing(t, server, "web-1", "seal")
	for name, err := range map[string]error{
		"no tickets":   second(ring.SealTickets(t.Context(), 0)),
		"65 tickets":   second(ring.SealTickets(t.Context(), 0, make([][]byte, 65)...)),
		"long payload": second(ring.SealTickets(t.Context(), 0, make([]byte, 8193))),
		"long age":     second(ring.SealTickets(t.Context(), 9*time.Hour, []byte("x"))),
		"long body":    second(ring.OpenTickets(t.Context(), strings.Repeat("A", 600<<10))),
	} {
		if !refusedAs(err, "bad-request") {
			t.Errorf("%s: %v, want bad-request", name, err)
		}
	}
	if _, err := ring.SealTickets(t.Context(), time.Millisecond, []byte("x")); err == nil {
		t.Error("tickets of a millisecond")
	}
	server.Stop()
	if _, err := ring.SealTickets(t.Context(), 0, []byte("x")); err == nil || refusedAs(err, "bad-request") {
		t.Errorf("without a server: %v", err)
	}
}
