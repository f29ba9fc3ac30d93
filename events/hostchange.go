package events

import (
	"fmt"
	"slices"
	"strings"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/host"
	"github.com/keytide/keytide/keystore/ticket"
)

var hostKinds = map[Type]host.ChangeKind{
	TypeHostRegistered: host.Registered, TypeHostRevoked: host.Revoked, TypeHostsExpired: host.Expired,
	TypeHostsSeen: host.Seen, TypeSecretsOffered: host.Offered, TypeSecretsRetired: host.Retired,
}

// alone reports whether an event of this type is of one host, whose change is the
// whole payload.
func alone(t Type) bool { return t == TypeHostRegistered || t == TypeHostRevoked }

// MaxHosts is how many hosts one event can change: each puts its state and one key's
// material.
const MaxHosts = MaxEffects / 2

// maxSecrets bounds the secrets that a revocation destroys.
const maxSecrets = 8

// EncodeHostChange packs trusted hosts' changes of one kind as the payload of an
// event, and returns the event's type. Registrations and revocations are of one host;
// the others of any, each once. The error wraps keystore.ErrInvalid.
func EncodeHostChange(changes ...host.Change) (Type, []byte, error) {
	if len(changes) == 0 || len(changes) > MaxHosts {
		return 0, nil, invalid("an event of %d hosts; want 1 to %d", len(changes), MaxHosts)
	}
	kind := changes[0].Kind
	var t Type
	for candidate, k := range hostKinds {
		if k == kind {
			t = candidate
		}
	}
	if t == 0 {
		return 0, nil, invalid("host %s: no event for a change of kind %d", changes[0].Host, uint8(kind))
	}
	if alone(t) {
		if len(changes) > 1 {
			return 0, nil, invalid("%s: of one host, not of %d", t, len(changes))
		}
		var p packer
		p.hostChange(changes[0])
		payload, err := p.done()
		return t, payload, hostFault(changes[0], err)
	}
	changes = slices.Clone(changes)
	slices.SortFunc(changes, func(a, b host.Change) int { return strings.Compare(a.Host, b.Host) })
	var p packer
	top := p.begin()
	p.array("hosts", len(changes), MaxHosts)
	for _, c := range changes {
		if c.Kind != kind {
			p.fail("host %s: %s in an event of %s", c.Host, c.Kind, kind)
		}
		p.hostChange(c)
	}
	p.end(top)
	payload, err := p.done()
	return t, payload, err
}

func hostFault(c host.Change, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("host %s: %w", c.Host, err)
}

func (p *packer) hostChange(c host.Change) {
	top := p.begin()
	p.bool("allow_roll", c.AllowRoll)
	p.bool("crowded", c.Crowded)
	p.kids("destroyed", c.Destroyed, maxSecrets)
	p.duration("ephemeral", c.Ephemeral)
	p.name("host", c.Host)
	p.instances("instances", c.Instances)
	p.labels("labels", c.Labels)
	p.fixed("registration", c.Registration[:])
	p.rings("rings", c.Rings)
	if c.Secret != (host.Secret{}) {
		p.field("secret")
		p.secret(c.Secret)
	}
	p.uint("tickets", uint64(c.Tickets))
	p.fixed("token", c.Token[:])
	p.end(top)
}

func (p *packer) labels(key string, labels []host.Label) {
	p.array(key, len(labels), host.MaxLabels)
	for _, l := range labels {
		if _, err := host.ParseLabel(l.String()); err != nil {
			p.fail("%s: %w", key, err)
		}
		p.b = appendStr(p.b, l.String())
	}
}

func (p *packer) instances(key string, instances []host.Instance) {
	p.array(key, len(instances), host.MaxInstances)
	for _, i := range instances {
		outer := p.begin()
		p.uint("generation", i.Generation)
		p.fixed("id", i.ID[:])
		p.bool("keeps", i.Keeps)
		p.time("seen", i.Seen)
		p.end(outer)
	}
}

func (p *packer) rings(key string, rings []keystore.RingName) {
	p.array(key, len(rings), host.MaxRings)
	for _, name := range rings {
		if err := keystore.CheckName(string(name)); err != nil {
			p.fail("%s: %w", key, err)
		}
		p.b = appendStr(p.b, string(name))
	}
}

func (p *packer) secret(s host.Secret) {
	outer := p.begin()
	p.time("created", s.Created)
	p.uint("generation", s.Generation)
	p.fixed("kid", s.KID[:])
	p.end(outer)
}

// DecodeHostChanges takes the payload of an event of this type apart, as
// EncodeHostChange packs it. The error wraps ErrMalformed, or is an
// *UnknownTypeError.
func DecodeHostChanges(t Type, payload []byte) ([]host.Change, error) {
	kind := hostKinds[t]
	if kind == 0 {
		return nil, &UnknownTypeError{Type: t}
	}
	r := reader{b: payload}
	var changes []host.Change
	if f := r.fields(); alone(t) {
		changes = []host.Change{f.hostChange(kind)}
	} else {
		changes = f.hostChanges(kind)
	}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("%s: %w", t, err)
	}
	for i, c := range changes {
		if c.Host == "" || i > 0 && changes[i-1].Host >= c.Host {
			return nil, malformed("%s: a host has no name, or hosts are out of order", t)
		}
	}
	if len(changes) == 0 {
		return nil, malformed("%s: no hosts", t)
	}
	return changes, nil
}

func (f *fields) hostChanges(kind host.ChangeKind) (changes []host.Change) {
	for f.next() {
		if string(f.key) != "hosts" {
			f.r.skip()
			continue
		}
		changes = make([]host.Change, f.array(MaxHosts))
		for i := range changes {
			in := f.r.fields()
			changes[i] = in.hostChange(kind)
		}
	}
	return changes
}

func (f *fields) hostChange(kind host.ChangeKind) host.Change {
	c := host.Change{Kind: kind}
	for f.next() {
		switch string(f.key) {
		case "allow_roll":
			c.AllowRoll = f.bool()
		case "crowded":
			c.Crowded = f.bool()
		case "destroyed":
			c.Destroyed = f.kids(maxSecrets)
		case "ephemeral":
			c.Ephemeral = f.duration()
		case "host":
			c.Host = f.name()
		case "instances":
			c.Instances = f.instances()
		case "labels":
			c.Labels = f.labels()
		case "registration":
			f.fixed(c.Registration[:])
		case "rings":
			c.Rings = f.rings()
		case "secret":
			c.Secret = f.secret(f.open())
		case "tickets":
			c.Tickets = ticket.Right(f.uint(1<<8 - 1))
		case "token":
			f.fixed(c.Token[:])
		default:
			f.r.skip()
		}
	}
	return c
}

func (f *fields) labels() []host.Label {
	labels := make([]host.Label, f.array(host.MaxLabels))
	for i := range labels {
		l, err := host.ParseLabel(string(f.r.str(127)))
		if err != nil && f.r.err == nil {
			f.r.fail("%v", err)
		}
		labels[i] = l
	}
	return labels
}

func (f *fields) instances() []host.Instance {
	instances := make([]host.Instance, f.array(host.MaxInstances))
	for n := range instances {
		i := &instances[n]
		for in := f.r.fields(); in.next(); {
			switch string(in.key) {
			case "generation":
				i.Generation = in.uint(1<<64 - 1)
			case "id":
				in.fixed(i.ID[:])
			case "keeps":
				i.Keeps = in.bool()
			case "seen":
				i.Seen = in.time()
			default:
				in.r.skip()
			}
		}
	}
	return instances
}

func (f *fields) rings() []keystore.RingName {
	rings := make([]keystore.RingName, f.array(host.MaxRings))
	for i := range rings {
		name := f.r.str(maxServer)
		if f.r.err == nil && !isName(name) {
			f.r.fail("ring %q is not a name", string(name))
		}
		rings[i] = keystore.RingName(name)
	}
	return rings
}

func (f *fields) secret(in fields) host.Secret {
	var s host.Secret
	for in.next() {
		switch string(in.key) {
		case "created":
			s.Created = in.time()
		case "generation":
			s.Generation = in.uint(1<<64 - 1)
		case "kid":
			in.fixed(s.KID[:])
		default:
			in.r.skip()
		}
	}
	return s
}

// EncodeHost packs a trusted host's state, as host.<name> holds it. The error wraps
// keystore.ErrInvalid.
func EncodeHost(h host.Host) ([]byte, error) {
	var p packer
	top := p.begin()
	p.bool("allow_roll", h.AllowRoll)
	p.bool("crowded", h.Crowded)
	p.duration("ephemeral", h.Ephemeral)
	p.bool("expired", h.Expired)
	p.uint("generation", h.Generation)
	p.instances("instances", h.Instances)
	p.labels("labels", h.Labels)
	p.ref("last", h.Last)
	p.name("name", h.Name)
	p.time("registered", h.Registered)
	p.fixed("registration", h.Registration[:])
	p.bool("revoked", h.Revoked)
	p.rings("rings", h.Rings)
	p.array("secrets", len(h.Secrets), maxSecrets)
	for _, s := range h.Secrets {
		p.secret(s)
	}
	p.uint("tickets", uint64(h.Tickets))
	p.fixed("token", h.Token[:])
	p.end(top)
	return p.done()
}

// DecodeHost takes a trusted host's state apart. The error wraps ErrMalformed.
func DecodeHost(value []byte) (host.Host, error) {
	r := valueReader(value)
	var h host.Host
	for f := r.fields(); f.next(); {
		switch string(f.key) {
		case "allow_roll":
			h.AllowRoll = f.bool()
		case "crowded":
			h.Crowded = f.bool()
		case "ephemeral":
			h.Ephemeral = f.duration()
		case "expired":
			h.Expired = f.bool()
		case "generation":
			h.Generation = f.uint(1<<64 - 1)
		case "instances":
			h.Instances = f.instances()
		case "labels":
			h.Labels = f.labels()
		case "last":
			h.Last = f.ref()
		case "name":
			h.Name = f.name()
		case "registered":
			h.Registered = f.time()
		case "registration":
			f.fixed(h.Registration[:])
		case "revoked":
			h.Revoked = f.bool()
		case "rings":
			h.Rings = f.rings()
		case "secrets":
			h.Secrets = make([]host.Secret, f.array(maxSecrets))
			for i := range h.Secrets {
				h.Secrets[i] = f.secret(r.fields())
			}
		case "tickets":
			h.Tickets = ticket.Right(f.uint(1<<8 - 1))
		case "token":
			f.fixed(h.Token[:])
		default:
			r.skip()
		}
	}
	if err := r.end(); err != nil {
		return host.Host{}, fmt.Errorf("host: %w", err)
	}
	return h, nil
}
