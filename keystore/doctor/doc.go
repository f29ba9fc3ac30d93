// Package doctor tells what is wrong with a key store from what its servers have seen.
//
// An Observation is what one policy server sees: its replicas, the buckets, the files
// of its own core server and the states of the others, its disk, certificates and
// clock, and what it has heard of the other servers. Examine makes findings of one
// observation, Compare of several beside each other. Each finding says what it means
// and the command, or the steps, by which it is mended.
//
// The package is pure: values go in, values come out. It reads no clock, disk or
// network, and knows nothing of NATS.
package doctor
