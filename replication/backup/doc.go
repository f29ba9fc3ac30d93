// Package backup is the file format of a key store's backups: the events of its
// ledgers with the values that live, as one policy server's replica has them.
//
// A backup holds what the bus holds, and no more: events in clear, key material as
// ciphertext under the key store key, and that key's unlock slots. Whoever has a backup
// and an unlock secret has the keys; a backup alone opens nothing.
//
// It promises that what Verify accepts is what members signed, whole and in order, and
// that a file which was cut short or changed in any bit is refused. It does not know
// replicas or buckets: callers bring the events, and carry them where they belong.
// SPEC.md has the bytes.
package backup
