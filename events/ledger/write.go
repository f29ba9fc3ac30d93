package ledger

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/events"
)

const (
	batchIDHeader     = "Nats-Batch-Id"
	batchSeqHeader    = "Nats-Batch-Sequence"
	batchCommitHeader = "Nats-Batch-Commit"

	kvOperationHeader = "KV-Operation"
	kvDelete          = "DEL"
	kvPurge           = "PURGE" // a deletion by another tool; without its roll-up the stream takes it
)

// Append stores a batch: the event, its puts in order, the head last, in one atomic
// publish without a round trip before the commit. See events.Log.
func (l *Ledger) Append(ctx context.Context, b Batch) (Revision, error) {
	if err := b.Check(); err != nil {
		return 0, err
	}
	if err := l.check(); err != nil {
		return 0, fmt.Errorf("event %d: %w", b.N, err)
	}
	for attempt := 0; ; attempt++ {
		rev, err := l.publishBatch(ctx, l.messages(b))
		if err == nil {
			return rev, nil
		}
		if !isBusy(err) || !wait(ctx, attempt) {
			return 0, fmt.Errorf("event %d: %w", b.N, err)
		}
	}
}

// messages lays the batch out.
func (l *Ledger) messages(b Batch) []*nats.Msg {
	msgs := make([]*nats.Msg, 0, len(b.Puts)+2)
	msgs = append(msgs, l.message(events.LogKey(b.N), b.Record, b.Over))
	for _, p := range b.Puts {
		msgs = append(msgs, l.put(p))
	}
	return append(msgs, l.message(events.HeadKey, b.Head.Encode(), b.HeadRevision))
}

func (l *Ledger) message(key string, value []byte, expect Revision) *nats.Msg {
	return &nats.Msg{
		Subject: events.Subject(l.bucket, key), Data: value,
		Header: nats.Header{jetstream.ExpectedLastSubjSeqHeader: {formatRevision(expect)}},
	}
}

func formatRevision(r Revision) string { return strconv.FormatUint(uint64(r), 10) }

// Lay stores what a bucket that has not begun begins with, in order. It knows no events: it
// takes what a batch may not have. Each put must find what it expects; up to MaxBatch of
// them are stored whole or not at all, and what was stored before an error stays. Errors
// are those of Append.
func (l *Ledger) Lay(ctx context.Context, puts []Put) error {
	for len(puts) > 0 {
		some, size := 0, 0
		var msgs []*nats.Msg
		for ; some < min(len(puts), events.MaxBatch) && (some == 0 || size+len(puts[some].Value) <= layBytes); some++ {
			p := puts[some]
			if _, err := events.ParseKey(p.Key); err != nil {
				return err
			}
			size += len(p.Value)
			msgs = append(msgs, l.put(p))
		}
		if err := l.check(); err != nil {
			return err
		}
		if _, err := l.publishBatch(ctx, msgs); err != nil {
			return fmt.Errorf("laying out %s to %s: %w", puts[0].Key, puts[some-1].Key, err)
		}
		puts = puts[some:]
	}
	return nil
}

// layBytes bounds a batch of Lay: the store holds it in memory until it is whole.
const layBytes = 1 << 20

// put lays one put out.
func (l *Ledger) put(p Put) *nats.Msg {
	msg := l.message(p.Key, p.Value, p.Expect)
	if p.Delete {
		msg.Header[kvOperationHeader] = []string{kvDelete}
	}
	return msg
}

// publishBatch sends a batch under an id of its own. Nothing of it is stored before
// its last message has arrived, so a fault before that is ErrUnavailable.
func (l *Ledger) publishBatch(ctx context.Context, msgs []*nats.Msg) (Revision, error) {
	id := rand.Text()
	last := len(msgs) - 1
	for i, msg := range msgs {
		msg.Header[batchIDHeader] = []string{id}
		msg.Header[batchSeqHeader] = []string{strconv.Itoa(i + 1)}
		if i == last {
			break
		}
		if err := l.nc.PublishMsg(msg); err != nil {
			return 0, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
		}
	}
	msgs[last].Header[batchCommitHeader] = []string{"1"}
	return l.request(ctx, msgs[last])
}

// PutBeacon stores the beacon if the head is at revision head. See events.Log.
func (l *Ledger) PutBeacon(ctx context.Context, value []byte, head Revision) error {
	msg := &nats.Msg{
		Subject: events.Subject(l.bucket, events.BeaconKey), Data: value,
		Header: nats.Header{
			jetstream.ExpectedLastSubjSeqHeader:     {formatRevision(head)},
			jetstream.ExpectedLastSubjSeqSubjHeader: {events.Subject(l.bucket, events.HeadKey)},
		},
	}
	if _, err := l.request(ctx, msg); err != nil {
		return fmt.Errorf("beacon: %w", err)
	}
	return nil
}

// PutBack stores what an event has put before. See events.Log.
func (l *Ledger) PutBack(ctx context.Context, p Put) error {
	if _, err := events.ParseKey(p.Key); err != nil {
		return err
	}
	if _, err := l.request(ctx, l.put(p)); err != nil {
		return fmt.Errorf("key %s: %w", p.Key, err)
	}
	return nil
}

// PutRecord stores a policy server's own record. See events.Log.
func (l *Ledger) PutRecord(ctx context.Context, server string, value []byte) error {
	key := events.ServerKey(server)
	if _, err := events.ParseKey(key); err != nil {
		return err
	}
	if _, err := l.request(ctx, &nats.Msg{Subject: events.Subject(l.bucket, key), Data: value}); err != nil {
		return fmt.Errorf("record of server %s: %w", server, err)
	}
	return nil
}

// request publishes a message and waits for the word of the store.
func (l *Ledger) request(ctx context.Context, msg *nats.Msg) (Revision, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	if err := l.check(); err != nil {
		return 0, err
	}
	ctx, stop := l.untilBroken(ctx)
	defer stop()
	reply, err := l.nc.RequestMsgWithContext(ctx, msg)
	if errors.Is(err, context.Canceled) {
		err = context.Cause(ctx)
	}
	if denied := l.denied(msg.Subject); err != nil && denied != nil {
		return 0, fmt.Errorf("%w: %w", events.ErrUnavailable, denied)
	}
	if err != nil {
		return 0, sendError(err)
	}
	var ack struct {
		Error *jetstream.APIError `json:"error"`
		*jetstream.PubAck
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return 0, fmt.Errorf("%w: answer: %w", events.ErrUnknown, err)
	}
	if ack.Error != nil {
		return 0, storeError(ack.Error)
	}
	if ack.PubAck == nil || ack.Stream != l.stream || ack.Sequence == 0 {
		return 0, fmt.Errorf("%w: the answer is not of stream %s", events.ErrUnknown, l.stream)
	}
	return Revision(ack.Sequence), nil
}

// denied returns the server's word that this client may not send to a subject; nil
// if it said nothing of it. It drops such a message, and answers nothing: whoever
// waits for an answer waits in vain.
func (l *Ledger) denied(subject string) error {
	err := l.nc.LastError()
	if errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(err.Error(), `"`+subject+`"`) {
		return err
	}
	return nil
}

// untilBroken returns a context that ends when the connection breaks: an answer that
// was due then never comes, and the client would go on waiting for it. stop waits
// for what untilBroken started.
func (l *Ledger) untilBroken(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	broken := l.nc.StatusChanged(nats.DISCONNECTED, nats.RECONNECTING, nats.CLOSED)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case status := <-broken:
			cancel(fmt.Errorf("connection is %s", status))
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-watched
		l.nc.RemoveStatusListener(broken)
	}
}

// unsent are the errors by which the client refuses a message before any of its
// bytes are on their way. A connection that is closed while an answer is due gives
// ErrConnectionClosed too, so that one is not among them.
var unsent = []error{
	nats.ErrReconnectBufExceeded, nats.ErrConnectionDraining, nats.ErrMaxPayload,
	nats.ErrHeadersNotSupported, nats.ErrBadSubject,
}

// sendError says what is known of a message for which no answer came.
func sendError(err error) error {
	if errors.Is(err, nats.ErrNoResponders) {
		return fmt.Errorf("%w: %w", events.ErrNoLeader, err)
	}
	for _, e := range unsent {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", events.ErrUnavailable, err)
		}
	}
	return fmt.Errorf("%w: %w", events.ErrUnknown, err)
}

// JetStream's error codes (nats-server, server/errors.json) by which it surely has
// not stored a message. Any other may come after some of it was stored.
const (
	codeWrongSequence     = 10071
	codeWrongSequenceBusy = 10164 // not compared: another write of that key is under way
	codeNoLeader          = 10008 // JetStream temporarily unavailable
)

var refusals = map[jetstream.ErrorCode]bool{
	10002: true, // account's resource limits
	10023: true, // server's resource limits
	10047: true, // storage limits
	10054: true, // message too large
	10060: true, // other stream than expected
	10076: true, // JetStream not enabled
	10097: true, // header too large
	10109: true, // stream is sealed
	10166: true, // message TTL not allowed
	10174: true, // atomic publish is off
	10175: true, // batch sequence missing
	10176: true, // batch is incomplete
	10177: true, // header not allowed in a batch
	10179: true, // batch id
	10199: true, // batch too large
	10200: true, // batch commit
	10210: true, // too many batches under way
}

// storeError says what an answer that is an error means.
func storeError(err *jetstream.APIError) error {
	switch {
	case err.ErrorCode == codeWrongSequence:
		return fmt.Errorf("%w: %w", events.ErrConflict, err)
	case err.ErrorCode == codeWrongSequenceBusy:
		return &busyError{err}
	case err.ErrorCode == codeNoLeader:
		return fmt.Errorf("%w: %w", events.ErrNoLeader, err)
	case refusals[err.ErrorCode], err.Description == jetstreamFull:
		return fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", events.ErrUnknown, err)
}

// jetstreamFull is how a stream with a limit refuses what would exceed it (code
// 10077, which stands for faults of the disk as well).
const jetstreamFull = "maximum bytes exceeded"

// A busyError is the refusal of a write because another write of one of its keys,
// or of the key that it is conditional on, was under way: the beacon is conditional
// on the head, so it gets in the way of a batch now and then. Nothing was compared.
type busyError struct{ err error }

func (e *busyError) Error() string   { return fmt.Sprintf("%v: %v", events.ErrConflict, e.err) }
func (e *busyError) Unwrap() []error { return []error{events.ErrConflict, e.err} }

func isBusy(err error) bool {
	var busy *busyError
	return errors.As(err, &busy)
}

// A batch that was refused as busy is surely not stored, so it is sent again: up to
// six times, 5 ms to 160 ms apart, which outlasts a commit between continents.
const (
	busyRetries = 6
	busyWait    = 5 * time.Millisecond
)

func wait(ctx context.Context, attempt int) bool {
	if attempt >= busyRetries {
		return false
	}
	return pause(ctx, busyWait<<attempt)
}

// pause waits, or reports that ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
