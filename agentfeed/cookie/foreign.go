package cookie

import (
	"time"

	"github.com/keytide/keytide/keystore"
)

// An Opener opens tokens of a format other than kt1, which do not say which key
// sealed them. Its methods must be safe for concurrent use, and must neither keep
// nor change what they are given.
type Opener interface {
	// Match reports whether the token could be one of the format, without a key. It
	// should be cheap and narrow: for what it lets through, every key is tried.
	Match(token []byte) bool
	// Open opens the token with one key. It is called with the ring's keys that open
	// tokens of the codec's purpose, in the order current, old (newest first), future,
	// static, until one succeeds. dst is as in Codec.Open.
	Open(dst, token []byte, key keystore.Material) (Foreign, error)
}

// Foreign is what an Opener found in a token.
type Foreign struct {
	Payload []byte
	Issued  time.Time     // zero if the format does not say: it counts from now on
	MaxAge  time.Duration // zero if the format does not say: the codec's own
}

// openForeign opens what is no native token of a key of ours, or refuses it for the
// reason that holds without a fallback.
func (c *Codec) openForeign(v *view, dst, text []byte, why Reason) (Opened, error) {
	if c.fallback == nil || len(text) > MaxToken || !c.fallback.Match(text) {
		return Opened{}, refusal(why)
	}
	for _, k := range v.openers {
		f, err := c.fallback.Open(dst, text, k.material)
		if err != nil {
			continue
		}
		now := c.clock.now()
		if f.Issued.IsZero() {
			f.Issued = time.Unix(now, 0).UTC()
		}
		if f.MaxAge <= 0 {
			f.MaxAge = time.Duration(c.maxAge) * time.Second
		}
		// Whole seconds, as a reseal will write them: a part of one is rounded up.
		age := int64((f.MaxAge + time.Second - 1) / time.Second)
		if why := whyNot(f.Issued.Unix(), age, now); why != 0 {
			return Opened{}, refusal(why)
		}
		return Opened{
			Payload: f.Payload, KID: k.kid, Issued: f.Issued,
			MaxAge: time.Duration(age) * time.Second, Reseal: v.seals != nil, Foreign: true,
		}, nil
	}
	return Opened{}, refusal(Unauthentic)
}
