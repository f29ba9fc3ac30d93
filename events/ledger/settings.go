package ledger

import (
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/events"
)

const (
	maxMsgSize      = 256 << 10
	maxConsumers    = 8192 // a server's default of 1,000 is too few for 1,000 replicators made anew at once
	defaultMaxBytes = 1 << 30
)

// stream returns the settings of a ledger's stream (events/SPEC.md, section 6).
func (c Config) stream() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:               events.StreamName(c.Bucket),
		Subjects:           []string{events.Subjects(c.Bucket)},
		Storage:            jetstream.FileStorage,
		Retention:          jetstream.LimitsPolicy,
		Discard:            jetstream.DiscardNew,
		Replicas:           max(c.Replicas, 1),
		MaxMsgs:            -1,
		MaxBytes:           c.maxBytes(),
		MaxMsgsPerSubject:  1,
		MaxMsgSize:         maxMsgSize,
		MaxConsumers:       maxConsumers,
		AllowRollup:        false,
		DenyDelete:         true,
		DenyPurge:          true,
		AllowAtomicPublish: true,
		AllowDirect:        true,
	}
}

func (c Config) maxBytes() int64 {
	if c.MaxBytes == 0 {
		return defaultMaxBytes
	}
	return c.MaxBytes
}

// A SettingsError names each setting of a bucket that could lose events, or keep a
// ledger from working. It is events.ErrSettings.
type SettingsError struct {
	Bucket string
	Faults []string // such as "allow_rollup is true; want false"
}

func (e *SettingsError) Error() string {
	return fmt.Sprintf("bucket %s: %v: %s", e.Bucket, events.ErrSettings, strings.Join(e.Faults, "; "))
}

func (e *SettingsError) Unwrap() error { return events.ErrSettings }

// settingsFaults compares a stream with what a ledger's must be. Replicas, MaxBytes
// and placement are the administrator's.
func settingsFaults(bucket string, got jetstream.StreamConfig) []string {
	want := Config{Bucket: bucket}.stream()
	var faults []string
	check := func(name string, got, want any) {
		if got != want {
			faults = append(faults, fmt.Sprintf("%s is %v; want %v", name, got, want))
		}
	}
	check("subjects", strings.Join(got.Subjects, " "), want.Subjects[0])
	check("storage", got.Storage, want.Storage)
	check("retention", got.Retention, want.Retention)
	check("discard", got.Discard, want.Discard)
	check("max_msgs_per_subject", got.MaxMsgsPerSubject, want.MaxMsgsPerSubject)
	check("max_msgs", got.MaxMsgs, want.MaxMsgs)
	check("max_age", got.MaxAge, want.MaxAge)
	check("no_ack", got.NoAck, false)
	check("allow_rollup", got.AllowRollup, false)
	check("deny_delete", got.DenyDelete, true)
	check("deny_purge", got.DenyPurge, true)
	check("allow_atomic", got.AllowAtomicPublish, true)
	check("allow_direct", got.AllowDirect, true)
	check("allow_msg_ttl", got.AllowMsgTTL, false)
	check("allow_msg_counter", got.AllowMsgCounter, false)
	check("allow_msg_schedules", got.AllowMsgSchedules, false)
	check("persist_mode", got.PersistMode, jetstream.DefaultPersistMode)
	check("mirror", got.Mirror != nil, false)
	check("sources", len(got.Sources), 0)
	check("republish", got.RePublish != nil, false)
	check("subject_transform", got.SubjectTransform != nil, false)
	if got.MaxMsgSize > 0 && got.MaxMsgSize < maxMsgSize {
		check("max_msg_size", got.MaxMsgSize, maxMsgSize)
	}
	return faults
}
