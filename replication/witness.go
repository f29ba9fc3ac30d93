package replication

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// witnesses is how many servers put their record the moment that they have an event on
// the disk. The receipt of a change waits for a word of another region; all others give
// theirs when recordGap is over, or thousands of servers would answer each event.
const witnesses = 2

// tellApplied has the own record put: at once if this server is a witness of the newest
// event that the part shows, else when recordGap allows.
func (m *Member) tellApplied(p *part) {
	if len(p.records) > 0 {
		ev, err := events.Decode(p.records[len(p.records)-1])
		if err == nil && isWitness(m.id.Server, ev.Server, ev.N, m.Servers(), m.cfg) {
			wake(m.wakeWitness)
			return
		}
	}
	wake(m.wakeSelf)
}

// isWitness reports whether self is one of the fresh servers outside the writer's
// region that come first for event n: by a hash, so that the work is spread. Servers
// may see it differently for a moment; that costs a record or recordGap.
func isWitness(self, writer string, n keystore.N, servers []ServerView, cfg MemberConfig) bool {
	var home string
	for _, v := range servers {
		if v.Record.ID == writer {
			home = v.Record.Region
		}
	}
	before, counted := 0, false
	for _, v := range servers {
		if v.Record.Region == home || v.Record.State != events.Fresh || v.Age >= 2*cfg.RecordPeriod {
			continue
		}
		if v.Record.ID == self {
			counted = true
		} else if bytes.Compare(witnessRank(v.Record.ID, n), witnessRank(self, n)) < 0 {
			before++
		}
	}
	return counted && before < witnesses
}

func witnessRank(server string, n keystore.N) []byte {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(server), uint64(n)))
	return sum[:]
}
