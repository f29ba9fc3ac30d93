package cli

// keyPages are the manuals of the commands about static keys, session ticket keys and
// bundles.
var keyPages = map[string]page{
	"keytide static": {
		long: `The static key seals what must outlast rollovers: saved credentials, user
tracking, and in static mode sessions. A new one opens at once everywhere, and
seals once every policy server has confirmed it. The former one still opens for
the overlap and is destroyed after it.`,
		example: "  keytide static generate sso\n  keytide static set sso --key-file /root/static.key",
	},
	"keytide static generate": {
		long: `Have the server make a new static key of 32 random bytes. The former key opens
for 30 days more, or for --overlap, counted from when every policy server has
stopped to seal with it. In static mode an overlap below max session would log
users out: it is refused without --force.`,
		example: `  keytide static generate sso --reason "yearly"
  keytide static generate sso --overlap 2160h -o json`,
	},
	"keytide static set": {
		long: `Enter a static key that was made elsewhere: 32 bytes in base64 or hexadecimal,
from a file that others cannot read, or from standard input. A key is never an
argument.

It is refused, with the reason, if it is of another length, all zero, repeated,
counted or text, or if any ring has it or ever had it: a destroyed key never
comes back.`,
		example: `  keytide static set sso --key-file static.key
  keytide static set sso -o json < static.key`,
	},
	"keytide ticket": {
		long: `The session ticket key seals what trusted hosts with that right ask a policy
server to seal. It never leaves policy servers. A new one opens at once, and
seals once every policy server has confirmed it; the former one opens for the
overlap.`,
		example: "  keytide ticket generate sso\n  keytide ticket set sso --key-file /root/ticket.key",
	},
	"keytide ticket generate": {
		long: `Have the server make a new session ticket key of 32 random bytes. The former
key opens tickets for max session more, or for --overlap.`,
		example: `  keytide ticket generate sso --reason "monthly"
  keytide ticket generate sso --overlap 48h -o json`,
	},
	"keytide ticket set": {
		long: `Enter a session ticket key that was made elsewhere, as static set does.`,
		example: `  keytide ticket set sso --key-file ticket.key
  keytide ticket set sso < ticket.key`,
	},
	"keytide export": {
		long: `Write a ring's static key, session ticket key, or both, to a bundle: a file that
any JOSE implementation can open (keystore/bundle/SPEC.md), closed with a
passphrase or for a recipient, and signed by the server. Former keys go with
them, as keys that only open. Keys in a bundle can be used by whoever opens it:
to share with another company, make a ring of its own.

Tell the importing side the fingerprint that is printed by another way than the
bundle goes. Where there is no passphrase file, one is made, of 125 bits.`,
		example: `  keytide export --ring sso --what static,ticket --passphrase-file phrase \
      --out sso.bundle
  keytide export --ring sso --what static --recipient partner.jwk \
      --out sso.bundle -o json`,
	},
	"keytide import": {
		long: `Take the keys of a bundle over into a ring. The bundle is opened here; its
passphrase or private key goes nowhere. Keys that are new open at once, and seal
once every policy server has confirmed them, but for those that only open. A key
that the ring has is left as it is, so importing again changes nothing. A key
that was destroyed, or that another ring has, is refused.

Say with --from who must have signed it: the fingerprint that the exporting side
has told you.`,
		example: `  keytide import sso.bundle --passphrase-file phrase --dry-run
  keytide import sso.bundle --passphrase-file phrase \
      --from Q1B76K-D7n-q5V2LHnm3oKPQHBkxYaj_VOGzjDAueVY
  keytide import sso.bundle --recipient-key me.private.jwk -o json`,
	},
	"keytide recipient": {
		long:    `Make a key pair that bundles can be closed for.`,
		example: "  keytide recipient create --out me.private.jwk",
	},
	"keytide recipient create": {
		long: `Make a P-256 key pair: the private key goes to a file that others cannot read,
the public key, a JWK, is printed. Whoever exports closes the bundle for it, and
nobody but the owner of the private key opens that.`,
		example: `  keytide recipient create --out me.private.jwk
  keytide recipient create --out me.private.jwk -o json`,
	},
}
