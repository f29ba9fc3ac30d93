package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What one request ahead of the consumer brings at most. It is for what was missed in a
// short cut; a long history comes faster by the consumer.
const (
	aheadMessages = 512
	aheadBytes    = 1 << 20
)

// ahead hands over what stands in the stream from a revision on while the consumer is
// still being made: that takes several round trips between the servers of a core, and
// this takes one to whichever of them has the stream (a direct get, NATS ADR-31).
//
// It only ever hands over the messages that the consumer would hand over, in the same
// order; the consumer then skips them. That server may be behind the stream's leader, so
// nothing can be concluded from where it ends, nor from its silence: what it does not
// bring, the consumer does.
func (l *Ledger) ahead(ctx context.Context, from Revision, f *follower) {
	inbox := l.nc.NewInbox()
	sub, err := l.nc.SubscribeSync(inbox)
	if err != nil {
		return
	}
	defer sub.Unsubscribe()
	request, err := json.Marshal(map[string]any{"seq": from, "batch": aheadMessages, "max_bytes": aheadBytes})
	if err != nil {
		return
	}
	if err := l.nc.PublishRequest("$JS.API.DIRECT.GET."+l.stream, inbox, request); err != nil {
		return
	}
	for {
		msg, err := sub.NextMsgWithContext(ctx)
		if err != nil || !f.takeAhead(msg) {
			return
		}
	}
}

// takeAhead hands a message over, unless it was. It reports false at the end, or where
// something is odd: then the consumer goes on.
func (f *follower) takeAhead(msg *nats.Msg) bool {
	f.turn <- struct{}{}
	defer func() { <-f.turn }()
	sequence, err := strconv.ParseUint(msg.Header.Get(jetstream.SequenceHeader), 10, 64)
	if f.closed || err != nil {
		return false
	}
	if Revision(sequence) <= f.handed {
		return true
	}
	entry, err := aheadEntry(f.bucket, msg)
	if err != nil {
		return false
	}
	entry.Revision, f.handed = Revision(sequence), Revision(sequence)
	if err := f.each(entry); err != nil {
		f.closed = true
		f.end(err)
		return false
	}
	return true
}

func aheadEntry(bucket string, msg *nats.Msg) (Entry, error) {
	entry, err := newEntry(bucket, msg.Header.Get(jetstream.SubjectHeader), msg.Header, msg.Data)
	if err != nil {
		return Entry{}, err
	}
	if entry.Stored, err = time.Parse(time.RFC3339Nano, msg.Header.Get(jetstream.TimeStampHeaer)); err != nil {
		return Entry{}, fmt.Errorf("bucket %s: time of a message: %w", bucket, err)
	}
	entry.Pending, err = strconv.ParseUint(msg.Header.Get("Nats-Num-Pending"), 10, 64)
	return entry, err
}
