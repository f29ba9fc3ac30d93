package events

// An effectCheck is what an event's effects must say for its payload to be whole.
// The zero effectCheck wants nothing.
type effectCheck struct {
	want []wantedEffect
}

type wantedEffect struct {
	key     string
	deleted bool
}

func (c *effectCheck) put(key string) { c.want = append(c.want, wantedEffect{key, false}) }
func (c *effectCheck) del(key string) { c.want = append(c.want, wantedEffect{key, true}) }

// check reports ErrPayload for the first effect that is missing, or does the
// opposite.
func (c *effectCheck) check(v *view) error {
	for _, want := range c.want {
		if !v.hasEffect(want) {
			return unfit("effects do not %s %s", verb(want.deleted), want.key)
		}
	}
	return nil
}

func verb(deleted bool) string {
	if deleted {
		return "delete"
	}
	return "put"
}

func (v *view) hasEffect(want wantedEffect) bool {
	r := reader{rest: v.effects}
	for range v.effectCount {
		key, _, deleted := r.effect()
		if string(key) == want.key {
			return deleted == want.deleted
		}
	}
	return false
}
