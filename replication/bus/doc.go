// Package bus embeds a NATS server and opens connections to NATS servers.
//
// Alone, the embedded server runs inside this process with one replica, and listens
// on no port unless it is told to: clients connect in memory. As a member of a core
// (Core) it holds buckets together with the core's two or four other servers:
// routes between them by mutual TLS, clients by TLS and nkeys, each user with the
// few subjects that it needs.
//
// What would lose data is not a setting: every write is fsynced before it is
// acknowledged, the store has a size limit (a full disk gives time-outs instead of
// errors), and the store directory is locked, because a NATS server does not notice
// a second one on its files.
//
// A Link is a client's connection, to a core or to a NATS that is there already. It
// never gives up, buffers nothing while it is cut off, and refuses a server that is
// too old.
//
// The package knows nothing of ledgers.
package bus
