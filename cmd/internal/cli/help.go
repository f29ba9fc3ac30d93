package cli

import "github.com/spf13/cobra"

// A page is a command's manual, below its one line. Lines have 80 columns at most;
// the examples' commands are parsed by a test.
type page struct{ long, example string }

// pages are the manuals by command path. Every command has one.
var pages = map[string]page{
	"keytide": {
		long: `Keytide makes, rolls over and delivers the keys with which web agents seal
session cookies.

Two commands serve: dev for trying things out, server for production. All
others speak to a server's admin API over HTTPS, with what the client profile
says: the servers' addresses, their CA, and the file of the administrator's
token.

Data goes to standard output, talk to standard error. With -o json the fields
are stable. A change prints the event that it made; --reason puts a reason into
the history. What is dangerous asks first, and wants --yes without a terminal.

Exit codes: 0 done, 1 failed, 2 used wrongly, 3 refused because unsafe.

Files and variables:
  $KEYTIDE_CLIENT                the client profile, unless --client names one
  ~/.config/keytide/client.yaml  the client profile, unless either does`,
		example: `  keytide dev
  keytide --client keytide-dev/client.yaml status
  keytide rollover sso --reason "weekly"`,
	},
	"keytide dev": {
		long: `Run a policy server with all that it needs in one directory: keys,
certificates, a ring named sso, and a client profile. For development: its
unlock key lies beside its data, and keytide server refuses the store.

It prints one line that begins with "keytide ready" once it serves. The first
interrupt stops it in order, a second one at once. What it has lasts in its
directory: the next start goes on where this one ended.

With --regions 3 it runs a policy server in each of the regions eu, us and ap,
each with its share of a core of three, in this one process: eu at the ports
of --listen and --feed-listen, us and ap at the next two. It makes the store of
three at its first start; a store of one stays one. Besides client.yaml, which
lists all three, DIR has a profile of each region alone, such as ap.yaml.
keytide dev cut and keytide dev heal cut one off, and join it again.`,
		example: `  keytide dev
  keytide dev --regions 3 --dir /tmp/three
  keytide dev --dir /tmp/try --listen 127.0.0.1:0 --feed-listen 127.0.0.1:0
  keytide dev --nats-listen 127.0.0.1:4222   # to look at the ledger with nats`,
	},
	"keytide dev cut": {
		long: `Cut a region of a development store that runs off from the others: everything
that passes between them, be it between the core's servers or from a policy
server to another region's core. What happens within the region goes on.

--how hold, the default, is a cable that is pulled: nothing moves, and nothing
closes, until heal lets it flow on. reset ends connections and refuses new
ones. hold-forward holds only what leaves the region, hold-back only what comes
to it. A cut ends with heal, or with keytide dev.`,
		example: `  keytide dev cut ap
  keytide dev cut ap --how reset --dir /tmp/try`,
	},
	"keytide dev heal": {
		long: `Join a region that was cut off with the others again. What was held on the way
arrives, late.`,
		example: `  keytide dev heal ap`,
	},
	"keytide server": {
		long: `Run a policy server: hold a replica of the key store, feed its keys to agents,
and serve the admin API. keytide core init writes a first configuration.

The configuration is strict: every fault of it is told at once, each with its
place. Certificates are looked at each minute: the generated one is renewed 60
days before its end, and new files of one's own are taken, without a restart.

The first SIGINT or SIGTERM stops it in order, a second one at once.`,
		example: `  keytide server --config /etc/keytide/keytide.yaml --check
  keytide server --config /etc/keytide/keytide.yaml`,
	},
	"keytide server invite": {
		long: `Let another policy server join this key store, once and for a limited time. It
writes an invitation: whom to ask, whom to trust, which ledgers these must be,
and a token, of which the key store keeps the hash alone. The file has mode
0600; whoever has it before the server does can join in its place.

The new server asks the server that answers this command, at its admin
listener; --url names other addresses, tried first. An invitation that is not
needed is ended by keytide server forget.`,
		example: `  keytide server invite ps-2 --region us --out ps-2.invite
  keytide server invite ps-2 --region us --ttl 24h \
    --url https://ps-1.example.com:7480`,
	},
	"keytide server join": {
		long: `Make this machine a policy server, by an invitation. It makes keys of its own,
asks the inviting server by TLS to be made a member, and writes a directory
with certificates, an admin token, a client profile and a configuration.

The key store key comes sealed to this server's key. It is kept under an unlock
key of this server's own, so that the server also starts while it is cut off.
If anything fails on the way, run it again: what was sent is sent again.`,
		example: `  keytide server join --invite ps-2.invite --dir /srv/keytide
  keytide server join --invite ps-2.invite --dir /srv/keytide \
    --feed-listen 0.0.0.0:7443`,
	},
	"keytide doctor": {
		long: `Examine the key store: every server of the client profile reads its replica,
the bucket, its own core server's files, disk, certificates and clock, and says
what it has heard of the others. What they found is put together, and their
histories are compared.

Each finding has a stable code, a severity (info, warning, critical), what it
is about and what it means, and the command or the steps that mend it. Exit
code 0: nothing above info. 1: something is.

--mend puts right what somebody wrote into the buckets past the servers, as an
event that was written over: each entry is replaced by what a server's verified
replica has, if it has not changed meanwhile. It lists them and asks first. A
void event says so in the history. It mends nothing else.

Servers examine themselves all the time as well, and what they find is among
the alarms of keytide status. That does not read the whole ledger each time.`,
		example: `  keytide doctor
  keytide doctor -o json
  keytide doctor --mend --reason "the old bus user was in other hands"`,
	},
	"keytide server exclude": {
		long: `Let rollovers no longer wait for a policy server, because it is cut off for
longer than a rollover may be held. It says what that costs and asks first;
--dry-run says it alone.

The server stays a member. Its exclusion ends by itself as soon as it is fresh
again. Until then its agents open what others seal for one rollover more than
it has seen, and are refused after that.`,
		example: `  keytide server exclude ps-3 --dry-run
  keytide server exclude ps-3 --reason "the site is without power until Tuesday"`,
	},
	"keytide server forget": {
		long: `End a policy server for good, because its machine is lost or was taken down.
It says what that costs and asks first; --dry-run says it alone. For a server
that is invited and has not joined, it ends the invitation.

What it signed stays valid; what it signs from then on is refused, and once it
learns of it, it feeds nothing. It does not take the keys from its disk: if
others have its machine, the keys have to be replaced. The id comes back by a
new invitation, with a new key.`,
		example: `  keytide server forget ps-3 --dry-run
  keytide server forget ps-3 --reason "its machine was lost"`,
	},
	"keytide core": {
		long:    `Make the core of a key store: the NATS servers that hold its ledgers.`,
		example: `  keytide core init --dir /srv/keytide --store main --region eu --server ps-1`,
	},
	"keytide core init": {
		long: `Make a key store of one site: both ledgers, the unlock key, certificates, an
admin token, the configuration of its policy server, and a client profile.

With a --server for each of 3 or 5, make a core that holds the ledgers in as
many regions: a directory for each server, to be copied to its machine, with its
certificates, nkey and configuration. A change needs more than half of them, so
three bear the loss of any one, and five of any two. Each is a policy server
too. The first --server founds the ledgers, at the first start of all. HOST is
how the others find the machine, at the ports 7422 (policy servers), 7423 (the
core's other servers), 7480 (admin API) and 7443 (agents); clients=, routes=,
listen=, routes_listen=, admin=, feed= and metrics=HOST:PORT say otherwise.

Whoever has the unlock key and the data has every key, and without it nobody
has any: keep it apart from the data and from its backups. A store is never
made over another.`,
		example: `  keytide core init --dir /srv/keytide --store main --region eu --server ps-1
  keytide core init --dir /srv/keytide --store main --region eu --server ps-1 \
    --passphrase-file /etc/keytide/passphrase --feed-listen 0.0.0.0:7443
  keytide core init --dir new-core --store main \
    --server eu-1,region=eu,host=10.0.0.1 \
    --server us-1,region=us,host=10.1.0.1 \
    --server ap-1,region=ap,host=10.2.0.1`,
	},
	"keytide status": {
		long: `Show the policy servers, the agents that are connected to each, the version of
every ring, and who is behind.

A server is fresh while it can prove that it is up to date: the newest beacon
is under 4 s old. One that is stale, forked or halted says why, and serves what
it has. A ring's next rollover is held by the servers that have not confirmed
its present version. Alarms stand until what they are about has ended, and are
shown for a day.

With --watch it goes on until it is interrupted, and then exits with 0: on a
terminal as a page, elsewhere as one line for each change, with -o json as one
document a line for each change.`,
		example: `  keytide status
  keytide status --region ap
  keytide status --watch
  keytide status --watch -o json >> status.jsonl`,
	},
	"keytide ring": {
		long: `A ring is the keys that one group of agents shares: one current key, which
seals, old ones, which open, a future one, which seals after the next rollover,
a static key for what outlasts rollovers, and a key for TLS session tickets.`,
		example: `  keytide ring list
  keytide ring show sso`,
	},
	"keytide ring list": {
		long:    `List the rings with their versions and what changed them last.`,
		example: "  keytide ring list\n  keytide ring list -o json",
	},
	"keytide ring show": {
		long: `Show a ring's keys by role and its policy. A key is shown by its id alone: no
command ever prints the bytes of one.`,
		example: "  keytide ring show sso\n  keytide ring show sso -o json",
	},
	"keytide ring create": {
		long: `Create a ring with new keys, at version 1. Hosts get it once they are
registered for it.

Retention: with auto an old key stays until max session and 5 minutes after
every server has stopped to seal with it. With a number, that many old keys
stay; what would end sessions before their time is refused, with a policy that
works.`,
		example: `  keytide ring create web --reason "the second site"
  keytide ring create web --max-session 30m --min-interval 10m
  keytide ring create hr --weekly mon@02:30 --tz Europe/Berlin
  keytide ring create web --retain 1 --force  # may log users out`,
	},
	"keytide ring set": {
		long: `Change a ring's policy: the fields that are given. It changes neither the keys
nor the version. A longer max session holds for the sessions from now on, a
shorter one does not end those that there are.

A schedule rolls the ring over by itself: one of --every, --daily, --weekly and
--cron, each by the clock of --tz. A time that a clock change skips comes right
after it, one that comes twice counts once. What would fall into a --blackout
comes at its end. Schedules keep to the minimum interval, of an hour unless
--min-interval says otherwise. While a server has not confirmed the version
before, a scheduled rollover is held, and goes on by itself; one that nobody
answers within 24 hours, or an hour more than --max-hold, is skipped.
With --guard-agents web-1 a rollover waits until all agents of that host have
reported the version before, too; they do so within a minute. An agent whose
outputs fail has not. Scheduled rollovers wait at most --max-hold for agents.
The hosts must be registered; one that is revoked is waited for no more.`,
		example: `  keytide ring set sso --max-session 12h --reason "longer shifts"
  keytide ring set sso --daily 02:30,14:30 --tz America/New_York
  keytide ring set sso --cron "0 3 1,15 * *" --blackout 2026-12-20..2027-01-06
  keytide ring set sso --every 30m --min-interval 30m --max-session 1h
  keytide ring set sso --retain 1 --force   # as SiteMinder; may log users out`,
	},
	"keytide ring delete": {
		long: `End a ring: all its keys are destroyed, and its agents lose it within a second.
Every cookie and session ticket that they sealed is refused from then on. It
asks first, and is refused while trusted hosts are granted the ring (exit code
3).

Its history stays. A ring of the same name that is made later has new keys, and
goes on counting versions; hosts that were granted the name get it.`,
		example: `  keytide ring delete web --reason "the site is gone"
  keytide ring delete web --force --yes -o json`,
	},
	"keytide schedule": {
		long:    `Look at when rings roll over by themselves.`,
		example: "  keytide schedule preview sso",
	},
	"keytide schedule preview": {
		long: `List the times at which a ring will roll over by its schedule, in UTC and on the
clock of the schedule's zone. The first is the one that the ring's last event
committed, unless --from says where to begin.`,
		example: `  keytide schedule preview sso -n 5
  keytide schedule preview sso --from 2027-03-27T00:00:00Z -o json`,
	},
	"keytide rollover": {
		long: `Roll a ring over: the future key becomes current, current becomes old, and a
new future key is made. Cookies that are sealed under the former keys open on.

It is refused (exit code 3) within the ring's minimum interval, so that a
double click makes one rollover, and while a server has not confirmed the
version before, whose agents would refuse the cookies of others. --force does
it all the same, and says first what that means.

--fresh is for a future key that others may know: it makes a new current key,
too, and destroys the future key, with which nothing was sealed. The former
current key opens on. Agents refuse what the new key sealed until they have it,
a moment later.

--emergency is for keys that others know: it makes new ones and destroys every
older dynamic key at once, and with --with static,ticket those, too. Everybody
is logged out. It waits for nobody and asks for the ring's name. It is an open
incident in keytide status until every server and connected agent has it.

--undo makes the key current again that was before the last rollover, as long
as that is held. What the other key sealed in between opens on; the future key
stays.`,
		example: `  keytide rollover sso --dry-run
  keytide rollover sso --fresh --reason "a backup was lost"
  keytide rollover sso --emergency --with static --reason "break-in" --wait
  keytide rollover sso --undo --reason "the wrong ring"
  keytide rollover sso --reason "weekly" --wait
  keytide rollover sso --force --yes -o json`,
	},
	"keytide history": {
		long: `List every event that changed a ring, oldest first: when, which version it
made, what it was, by whom and why. Times are RFC 3339, or how long ago.`,
		example: `  keytide history sso
  keytide history sso --since 48h -o json
  keytide history sso --since 2026-11-01T00:00:00Z --until 2026-12-01T00:00:00Z`,
	},
	"keytide replay": {
		long: `Show a ring as it was at a version, or at a time, from the signed events.`,
		example: `  keytide replay sso --version 1
  keytide replay sso --at 2026-11-22T08:00:00Z
  keytide replay sso --at 90m`,
	},
	"keytide audit": {
		long: `Check what the ledgers say of themselves, and print all of it.`,
		example: `  keytide audit verify
  keytide audit export --format csv`,
	},
	"keytide audit verify": {
		long: `Recompute the whole chain of both ledgers from the pinned first event on: every
event's place, hash and signature, and every value's hash. It fails (exit code
1) when anything is not what was written, and names the first event that is
bad.

With --from-backup it checks a backup file and needs no server. Increments
follow their whole backup, in order. That the backup is of this key store shows
the genesis, which keytide backup prints: compare it with the configuration's.`,
		example: `  keytide audit verify
  keytide audit verify -o json
  keytide audit verify --from-backup monday.ktb --from-backup tuesday.ktb`,
	},
	"keytide audit export": {
		long: `Print every event of both ledgers, one a line, oldest first: when, by whom, why,
what it changed, its hash and that of the event before. No key bytes are in it.
The format is lines of JSON, or CSV with a heading; fields are only ever added.
It fails (exit code 1) where it breaks off: what was printed is then a part.`,
		example: `  keytide audit export
  keytide audit export --format csv --since 720h`,
	},
	"keytide backup": {
		long: `Write a backup of the key store and its policy store: every event, and the keys
as they are stored, encrypted under the key store key. It comes from one
server's replica; the store goes on meanwhile. With --since it has only what
came after an earlier backup, which may be an increment itself.

The file is read back before it gets its name, has mode 0600, and never
replaces another. It opens with an unlock secret of the key store key, which is
not in it: keep the two apart.`,
		example: `  keytide backup --out monday.ktb
  keytide backup --since monday.ktb --out tuesday.ktb`,
	},
	"keytide restore": {
		long: `Begin the next epoch of a key store and its policy store, after the core was
lost or turned back. Everything that the replica or backup has is kept, down to
every event, so that history, versions and what is pinned go on. The buckets of
the old epoch are sealed: nobody writes to them any more.

It works on the directory of a server of the core, which must not run, while a
majority of the core's other servers do. It refuses while the core answers and
has everything. It compares with this server's own replica, with each --compare,
and with every server of the client profile that answers, and lists each event
that would be lost; then it wants to be told in words how many.

Start the server afterwards. The others find the epoch, prove it and go on with
it by themselves; what one of them has more stays in a file of its own. Agents
go on meanwhile. It may die at any step, and be run again.`,
		example: `  keytide restore --dir eu-1 --from-replica ap-1-copy --dry-run
  keytide restore --config keytide.yaml --from-replica keys.db \
    --from-replica hosts.db --compare us-1-copy --reason "all disks lost"
  keytide restore --config keytide.yaml --from-backup monday.ktb \
    --from-backup tuesday.ktb`,
	},
	"keytide host": {
		long: `A trusted host is a machine, or a group of them, whose agents get rings. It is
known by a name and a shared secret. An administrator registers it, or its agent
does with a registration token.`,
		example: `  keytide host register web-1 --ring sso --out web-1.yaml
  keytide host token --ring sso --out web.token
  keytide host list`,
	},
	"keytide host register": {
		long: `Register a trusted host and write its host file: the servers, the CA and the
host's shared secret, all that its agent needs. The file has mode 0600. The
secret is shown to nobody, and is in no other answer: if the file is lost,
revoke the host and register it again.

With --tickets open or seal its programs may have a policy server open, or seal
and open, session tickets of its rings.`,
		example: `  keytide host register web-1 --ring sso
  keytide host register web-1 --ring sso --ring web --out /root/web-1.yaml
  keytide host register web-1 --ring sso --label env=prod --allow-roll`,
	},
	"keytide host token": {
		long: `Make a registration token: with it, keytide-agent register makes trusted hosts
by itself, as images and autoscaling groups need it. Hosts get the rings, labels
and rights that the token says. The token is written to a file of mode 0600 and
shown nowhere else; the server knows what checks it, not the token itself.

It ends after --uses hosts, when --expires is over, or when it is revoked. With
--ephemeral its hosts end by themselves when no server has seen them for so
long; their names may then be registered again. A name that an administrator
has revoked is not registered by any token.`,
		example: `  keytide host token --ring sso --out web.token
  keytide host token --ring sso --uses 200 --expires 720h --ephemeral 24h \
    --label env=prod --address 10.0.0.0/8 --out web.token --reason "web fleet"`,
	},
	"keytide host token list": {
		long: `List the registration tokens: how often each was used, and whether it is still
valid.`,
		example: "  keytide host token list\n  keytide host token list -o json",
	},
	"keytide host token revoke": {
		long: `End a registration token: it registers no host any more, on any server that has
heard of it. The hosts that it has registered stay.`,
		example: `  keytide host token revoke 1f0c9a4be2d85573 --reason "image withdrawn"`,
	},
	"keytide host roll": {
		long: `Give hosts new shared secrets: those that are named, those with a label, or all.

The new secret travels in the sealed state, an agent has it on disk before it
uses it, and the former one stays valid until every agent of the host that was
seen in the last seven days has shown the new one. No order of crashes and cuts
leaves an agent without a valid secret. A host is left out, with the reason, if
one of its agents could not write a new secret, if none was seen lately, or if
its last rollover is still under way.

Against a stolen secret revoke the host: who has the former one gets the new one
as its agents do.`,
		example: `  keytide host roll web-1 web-2 --reason "former employee"
  keytide host roll --label env=prod
  keytide host roll --all -o json`,
	},
	"keytide host policy": {
		long: `Show, or set, at what age shared secrets roll over by themselves: for hosts that
are registered with --allow-roll. A secret ends up to a tenth earlier than the
policy says, so that hosts are spread. The shortest age is an hour; a month has
30 days.`,
		example: `  keytide host policy
  keytide host policy --secret-every 30d --reason "audit"
  keytide host policy --secret-every off`,
	},
	"keytide host list": {
		long: `List the trusted hosts, how many agents of each are connected to this server,
and when they were last seen: by this server, or else to the day. A host is
stale when nobody has seen it for seven days, and cloned when its secret is used
by several copies of its host file, or from several addresses at once.`,
		example: "  keytide host list\n  keytide host list -o json",
	},
	"keytide host show": {
		long: `Show a trusted host: its rings, its secrets by their ids, and the keys that its
agents may know. For one that is revoked, those are the keys that there were
until then and that are not destroyed, and the rollovers are named that take
them out of use.`,
		example: "  keytide host show web-1\n  keytide host show web-1 -o json",
	},
	"keytide host revoke": {
		long: `End a trusted host: its secrets are destroyed, and its agents are cut off
within a second. It asks first.

Agents that are cut off keep the keys that they have. If the host was lost or
broken into, roll its rings over with --fresh, as the answer says: then no key
that it knew seals, now or next. What the old keys sealed opens until their
retention is over; with --emergency nothing does, and everybody is logged out.`,
		example: `  keytide host revoke web-1 --reason "retired"
  keytide host revoke web-1 --yes -o json
  keytide host revoke web-1 web-2
  keytide host revoke --label env=test --reason "torn down"`,
	},
	"keytide cookie": {
		long:    `Look at cookie tokens, without opening them.`,
		example: "  keytide cookie explain -",
	},
	"keytide cookie explain": {
		long: `Say which key sealed a token: its role now and in which versions of which ring,
until when it opens, whether the token should have been sealed anew, and which
hosts may know the key. The content is not opened and not shown.

A token is a secret, for whoever has it is logged in. It is not sent to the
server nor logged: only the key's id, which anybody can read in it, is.
Arguments are seen by other users of the machine and kept by the shell: give it
on standard input, by the name "-". A whole NAME=VALUE does as well.

It fails (exit code 1) if the key is not known, or is destroyed; then it says
by which event. What is no token at all is misuse (exit code 2).`,
		example: `  keytide cookie explain -
  keytide cookie explain - -o json < token.txt`,
	},
	"keytide version": {
		long: `Print the program's version, and the cryptographic module that it runs with:
whether FIPS 140-3 is off, on or enforced, and the module's version. What that
means: deploy/FIPS.md.`,
		example: "  keytide version\n  keytide version -o json",
	},
}

// addPages gives a command and those below it their manuals.
func addPages(cmd *cobra.Command) {
	for _, pages := range []map[string]page{pages, keyPages, rekeyPages} {
		addPagesOf(pages, cmd)
	}
}

func addPagesOf(pages map[string]page, cmd *cobra.Command) {
	if p, ok := pages[cmd.CommandPath()]; ok {
		cmd.Long, cmd.Example = p.long, p.example
	}
	for _, sub := range cmd.Commands() {
		addPagesOf(pages, sub)
	}
}
