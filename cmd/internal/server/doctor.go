package server

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/doctor"
	"github.com/keytide/keytide/replication"
)

// Doctor implements adminhttp.Doctor: it looks at everything that this server sees.
func (s *service) Doctor(ctx context.Context) (adminapi.Diagnosis, error) {
	o := s.checkup.site.observe(ctx, true)
	o.Core.Store = s.checkup.whole(ctx)
	if err := ctx.Err(); err != nil {
		return adminapi.Diagnosis{}, err
	}
	return adminapi.Diagnosis{Findings: doctor.Examine(o), Observation: o}, nil
}

// Mend implements adminhttp.Doctor. What it puts right it says in the history, by a void
// event: the entries themselves are as if nothing had happened.
func (s *service) Mend(ctx context.Context, actor string, req adminapi.Mend) (adminapi.Mended, error) {
	answer := adminapi.Mended{Mended: []doctor.Repair{}}
	if req.Request == "" {
		return answer, fmt.Errorf("%w: a request id is missing", keystore.ErrInvalid)
	}
	var keys []string
	for _, repair := range req.Repairs {
		m := s.keys
		if repair.Ledger == events.Hosts.String() {
			m = s.hosts
		} else if repair.Ledger != events.Keys.String() {
			return answer, fmt.Errorf("%w: ledger %q: want keys or hosts", keystore.ErrInvalid, repair.Ledger)
		}
		done, err := m.Mend(ctx, actor, req.Reason, repair)
		if err != nil {
			return answer, fmt.Errorf("%s %s: %w; put right before it: %d", repair.Ledger, repair.Key, err, len(answer.Mended))
		}
		if done {
			answer.Mended = append(answer.Mended, repair)
			keys = append(keys, repair.Ledger+" "+repair.Key)
		}
	}
	return answer, s.tellMended(ctx, actor, req, keys, &answer)
}

const tellMost = 512 // characters of an event's reason

func (s *service) tellMended(ctx context.Context, actor string, req adminapi.Mend, keys []string, answer *adminapi.Mended) error {
	reason := "mended " + strings.Join(keys, ", ")
	if req.Reason != "" {
		reason = req.Reason + ": " + reason
	}
	if len(reason) > tellMost {
		reason = reason[:tellMost-3] + "..."
	}
	receipt, err := s.keys.Commit(ctx, func(state *events.State) (replication.Proposal, error) {
		p := replication.Proposal{Type: events.TypeVoid, Payload: events.VoidPayload(), Actor: actor, Request: req.Request, Reason: reason}
		if len(keys) == 0 {
			return p, errNothingMended
		}
		return p, nil
	})
	if errors.Is(err, errNothingMended) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the entries are put right, and the history does not say so: %w", err)
	}
	answer.N, answer.ID = receipt.N, receipt.ID.String()
	return nil
}

var errNothingMended = errors.New("nothing had to be mended")
