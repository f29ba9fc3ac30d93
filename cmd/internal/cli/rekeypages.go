package cli

// rekeyPages are the manuals of the commands about the key store key.
var rekeyPages = map[string]page{
	"keytide rekey": {
		long: `Replace the key store key, under which all key material is sealed, while
everything goes on. Every server takes the new one, sealed to its own key, and
keeps it under its own unlock key; when all have, what is new is sealed under
it, and what there is is sealed anew. Then the former one's unlock slots go.

It goes on by itself after any crash, at any server. It waits for servers that
are away until they are back or excluded, and for unlock slots that no server
opens. --status shows how far it is and for what it waits. A second one is
refused while one is under way.

What is erased: NATS, its disks, replicas and backups only ever hold
ciphertext. Old copies of them open for whoever has an unlock key that ever
opened the former key store key; erasure is the destruction of every one of
those. To keep the store and erase what it was, give each server another unlock
key as unlock.next in its configuration, rekey, make that the unlock key, and
destroy the former.

A server in wrong hands is forgotten first (keytide server forget): the new key
store key is sealed to members alone.`,
		example: `  keytide rekey --reason "yearly" --wait
  keytide rekey --yes -o json
  keytide rekey --status`,
	},
	"keytide slot": {
		long: `An unlock slot holds the key store key for one unlock key: a passphrase, a file
of 32 bytes, or a key at a key management service. Servers start by a slot that
their unlock key opens. The ledger has at most 16. Every server keeps one of its
own besides, in its directory, from its first start on: a slot that is removed
still starts the servers that have started by it.`,
		example: "  keytide slot list\n  keytide slot add --out /media/safe/passphrase --label safe",
	},
	"keytide slot list": {
		long: `List the unlock slots in the ledger: their kind, the region whose servers start
by them, and their label. A slot's id is the beginning of its hash.`,
		example: "  keytide slot list\n  keytide slot list -o json",
	},
	"keytide slot add": {
		long: `Add an unlock slot. By --out a passphrase is generated into a new file that
others cannot read; --passphrase-file and --unlock-file take what is there. The
unlock key is not sent: the server gets what opens this one slot alone. --kms is
for servers with key management services in them; this version has none.

Keep one slot where no server is, such as a passphrase in a safe: with it a
backup opens when all servers are lost.

During a rekey a slot is added to the next key store key. --replaces says which
slot of the former one it stands in for.`,
		example: `  keytide slot add --out safe.txt --label "the safe" --reason "two people"
  keytide slot add --unlock-file us.key --region us
  keytide slot add --passphrase-file p.txt --kdf pbkdf2-sha512 -o json`,
	},
	"keytide slot remove": {
		long: `Remove an unlock slot. Removing is not revocation: whoever opened it once may
have kept the key store key, and old backups still have the slot. To end what it
opened, rekey.

The last slot that serves a region with servers, and the last one of all, are
refused.`,
		example: "  keytide slot remove 5be2dd02dd1ddb1c --yes --reason \"eva has left\"",
	},
}
