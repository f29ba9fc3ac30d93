package server

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/keytide/keytide/keystore/adminapi"
)

// expiryDays are how many days before the end of a certificate its alarm begins, and
// before which it is said again.
var expiryDays = []int{30, 7, 1}

const day = 24 * time.Hour

// endsWithin returns the least of expiryDays that is left until a certificate's end, and
// 0 where it has ended. It reports false while more than the most is left.
func endsWithin(notAfter, now time.Time) (days int, near bool) {
	left := notAfter.Sub(now)
	if left <= 0 {
		return 0, true
	}
	for _, d := range expiryDays {
		if left <= time.Duration(d)*day {
			days, near = d, true
		}
	}
	return days, near
}

// An ending is a certificate whose end stops something unless a person puts a new one in
// its place.
type ending struct {
	what     string // it is, and in which file
	notAfter time.Time
	then     string // what stops
	mend     string
}

func (e ending) text(days int) string {
	when := fmt.Sprintf("ends at %s, in %d days or less: then %s", e.notAfter.UTC().Format(time.RFC3339), days, e.then)
	if days == 0 {
		when = fmt.Sprintf("ended at %s: %s", e.notAfter.UTC().Format(time.RFC3339), e.then)
	}
	return fmt.Sprintf("%s %s. %s", e.what, when, e.mend)
}

// endings are the certificates of this server's part in a core: its own, and those of
// the core's authority. Nobody renews them by itself, because the authority's key is kept
// away from the servers.
func (s *site) endings() []ending {
	core := s.cfg.core()
	if core == nil {
		return nil
	}
	var all []ending
	for _, c := range s.certificates {
		if c.listener != "core" {
			continue
		}
		all = append(all, ending{
			what: "the certificate of this core server (" + core.Cert + ")", notAfter: c.pair.Load().Leaf.NotAfter,
			then: "no other server of the core lets it in, and no client trusts it",
			mend: "Put one there that the core's authority signed; it is read within a minute",
		})
	}
	if end, ok := firstEnd(core.CA); ok {
		all = append(all, ending{
			what: "the certificate of the core's authority (" + core.CA + ")", notAfter: end,
			then: "no server of the core lets another in",
			mend: "Make a new authority and have every server trust both, before any server's certificate is made anew",
		})
	}
	return all
}

// firstEnd is when the first of a file's certificates ends.
func firstEnd(path string) (end time.Time, ok bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return end, false // a start does not go by without it
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err == nil && (!ok || cert.NotAfter.Before(end)) {
			end, ok = cert.NotAfter, true
		}
	}
	return end, ok
}

// expiring are the alarms of certificates whose end is near, or past.
func (s *site) expiring() (alarms []adminapi.Alarm) {
	for _, e := range s.endings() {
		if days, near := endsWithin(e.notAfter, now()); near {
			alarms = append(alarms, adminapi.Alarm{
				Ledger: "core", Kind: "certificate", Text: e.text(days), Since: e.notAfter.Add(-time.Duration(expiryDays[0]) * day).UTC(),
			})
		}
	}
	return alarms
}

// An expiryLog says of each certificate once that its end is nearer than each of
// expiryDays. The renewal's goroutine alone uses it.
type expiryLog map[string]int

func (said expiryLog) look(log *slog.Logger, all []ending, now time.Time) {
	for _, e := range all {
		days, near := endsWithin(e.notAfter, now)
		if before, known := said[e.what]; near && (!known || days != before) {
			log.Error("a certificate ends", "why", e.text(days))
		}
		delete(said, e.what)
		if near {
			said[e.what] = days
		}
	}
}
