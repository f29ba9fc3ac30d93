package wire

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/keytide/keytide/keystore"
)

// A Position names a state of the feed: how far the key store and the policy store
// have come. Its text is "<keys epoch>.<keys n>-<hosts epoch>.<hosts n>".
type Position struct {
	Keys, Hosts Mark
}

// A Mark is a place in one ledger.
type Mark struct {
	Epoch keystore.Epoch
	N     keystore.N
}

var errPosition = errors.New(`want a position such as "1.42-1.7"`)

// ParsePosition reads the text of a position; each has one text only.
func ParsePosition(s string) (Position, error) {
	keys, hosts, ok := strings.Cut(s, "-")
	if !ok || len(s) > 100 {
		return Position{}, errPosition
	}
	k, err1 := parseMark(keys)
	h, err2 := parseMark(hosts)
	p := Position{Keys: k, Hosts: h}
	if err1 != nil || err2 != nil || p.String() != s {
		return Position{}, errPosition
	}
	return p, nil
}

func parseMark(s string) (Mark, error) {
	epoch, n, ok := strings.Cut(s, ".")
	if !ok {
		return Mark{}, errPosition
	}
	e, err1 := strconv.ParseUint(epoch, 10, 64)
	i, err2 := strconv.ParseUint(n, 10, 64)
	return Mark{keystore.Epoch(e), keystore.N(i)}, errors.Join(err1, err2)
}

func (p Position) String() string {
	return fmt.Sprintf("%d.%d-%d.%d", p.Keys.Epoch, p.Keys.N, p.Hosts.Epoch, p.Hosts.N)
}

// Before reports whether either half of p is lower than that of held: a state at p
// must not replace one at held.
func (p Position) Before(held Position) bool {
	return p.Keys.compare(held.Keys) < 0 || p.Hosts.compare(held.Hosts) < 0
}

func (m Mark) compare(o Mark) int {
	return cmp.Or(cmp.Compare(m.Epoch, o.Epoch), cmp.Compare(m.N, o.N))
}
