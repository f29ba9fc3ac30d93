// Package bundle is the form in which keys travel from one key store to another: a
// JSON Web Encryption (RFC 7516) around a JSON Web Signature (RFC 7515) around a JSON
// Web Key Set (RFC 7517), so that any JOSE implementation can open or make one.
//
// A bundle is closed for a passphrase or for a recipient's public key, and signed by
// the policy server that exported it. Its contents are bounded, and checked before
// they are used: a key whose id is not derived from its bytes, or a member that is
// there twice, refuses the whole bundle. What is imported, and how, is not decided
// here. SPEC.md has the bytes.
package bundle
