package keystore

import "time"

// This file carries out what publish.go decides. It changes r, which is the caller's
// own copy.

func (r *Ring) publish(c Change, ref EventRef) error {
	for _, k := range c.Made {
		if k.Role != Static && k.Role != SessionTicket {
			return invalidf("publishes a %s key", k.Role)
		}
		key := k.key(c.Version)
		if k.OpenOnly {
			key.Retired, key.RetiredAt, key.Session = ref.N, ref.At, c.Overlap
		} else {
			key.Pending, key.Published, key.Overlap = true, ref.N, c.Overlap
		}
		r.Keys = append(r.Keys, key)
	}
	r.order()
	return nil
}

func (r *Ring) activate(c Change, ref EventRef) error {
	for _, kid := range c.Activated {
		at := -1
		for i := range r.Keys {
			if r.Keys[i].KID == kid && r.Keys[i].Pending {
				at = i
			}
		}
		if at < 0 {
			return invalidf("key %s is not pending", kid)
		}
		next := &r.Keys[at]
		for i := range r.Keys {
			if k := &r.Keys[i]; k.Role == next.Role && k.seals() {
				k.Retired, k.RetiredAt, k.Session = ref.N, ref.At, next.Overlap
			}
		}
		next.Pending, next.Published, next.Overlap = false, 0, 0
	}
	r.order()
	if err := r.beginMode(c, ref); err != nil {
		return err
	}
	r.allowSessions()
	return nil
}

func (r *Ring) beginMode(c Change, ref EventRef) error {
	switch {
	case c.Mode == 0:
		return nil
	case c.Mode != r.NewMode.Next:
		return invalidf("%s mode is not published", c.Mode)
	case c.Mode == ModeStatic:
		r.NewMode = NewMode{}
	default:
		r.NewMode = NewMode{Left: ref.N, LeftAt: ref.At, Session: r.NewMode.Overlap}
	}
	r.Mode = c.Mode
	return nil
}

// setMode publishes another mode; the present one takes that back, or ends the overlap
// of static mode.
func (r *Ring) setMode(c Change, ref EventRef) error {
	switch m := &r.NewMode; {
	case c.Mode != ModeDynamic && c.Mode != ModeStatic:
		return invalidf("unknown mode %d", uint8(c.Mode))
	case c.Mode != r.Mode && m.Next == 0:
		m.Next, m.Published, m.Overlap = c.Mode, ref.N, c.Overlap
	case c.Mode == r.Mode && m.Next != 0:
		m.Next, m.Published, m.Overlap = 0, 0, 0
	case c.Mode == r.Mode && m.Left != 0:
		m.Left, m.LeftAt, m.Session = 0, time.Time{}, 0
	default:
		return invalidf("the ring is in %s mode", r.Mode)
	}
	return nil
}

// seals reports whether the key is the one of its role that seals, or will when its
// ring does with that role.
func (k *Key) seals() bool { return !k.Pending && k.Retired == 0 }

// stands is where keys of one role stand: the one that seals, former ones, pending.
func (k *Key) stands() int {
	switch {
	case k.Pending:
		return 2
	case k.Retired != 0:
		return 1
	}
	return 0
}

// lengthen keeps what only opens for as long as sessions may live under a policy that
// lets them live longer than the present one does: a late agent, or a session that is
// resealed, may count on it. An overlap that was forced to be shorter stays.
func (r *Ring) lengthen(maxSession time.Duration) {
	present := r.Policy.MaxSession
	longer := func(d *time.Duration) {
		if *d >= present && *d < maxSession {
			*d = maxSession
		}
	}
	for i := range r.Keys {
		if k := &r.Keys[i]; k.Role == Static || k.Role == SessionTicket {
			if k.Retired != 0 {
				longer(&k.Session)
			}
			if k.Pending {
				longer(&k.Overlap)
			}
		}
	}
	if r.NewMode.Left != 0 {
		longer(&r.NewMode.Session)
	}
	if r.NewMode.Next == ModeDynamic {
		longer(&r.NewMode.Overlap)
	}
}
