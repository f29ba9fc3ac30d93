// Package agentfeed delivers the key rings of a trusted host to an application.
//
// A Client keeps one stream to one of the policy servers, and always holds the
// newest rings that it was given:
//
//	client, err := agentfeed.New(agentfeed.Config{HostFile: "web-1.yaml"})
//	if err != nil { … }
//	defer client.Close()
//	if err := client.WaitReady(ctx); err != nil { … }
//	keys := client.Ring("sso").Snapshot() // hold it for one request
//
// It promises that what Snapshot returns never blocks, is never partly updated and
// never goes back to an older version; that it goes on with the last rings when all
// servers are gone, and says how old they are (it stops sealing only where the
// policy sets a limit to that); and that only a holder of the host's shared secret
// can change what it holds: neither a proxy that ends TLS nor a recorded answer can.
// Where a proxy lets no stream through it polls. SPEC.md has the bytes.
//
// With Config.CacheFile it starts from its last rings while no server can be
// reached; without, keys never touch a disk. Package feedtest has servers that fail
// as the real ones do, for the tests of an application.
//
// What is done with the keys: package cookie keeps sessions in cookies that every
// agent opens, over rollovers; TLSListener shares TLS session tickets among instances.
// A server, and the proxies before it, can be checked with package conformance.
//
// It imports the standard library and this module's keystore only.
package agentfeed
