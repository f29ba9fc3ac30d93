// Package sidecar is the program keytide-agent: it keeps a trusted host's rings in
// files for web servers and applications that do not use the SDK.
//
// A file that it writes is whole at every moment and after a crash, has its mode
// from before it has content, and is not touched while it would not change. Files of
// one output are rendered together or not at all, and one action follows their
// change, however often it takes. When no policy server can be reached the files stay
// as they are. Key bytes go into these files, sealed into the cache, and nowhere
// else: not to the terminal, not to the log, not to an action. SPEC.md has the bytes.
package sidecar
