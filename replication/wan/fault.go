package wan

import (
	"fmt"
	"strings"
)

// A Fault says what is wrong with a link. It is a set; the zero value is a link that
// works.
type Fault uint8

const (
	HoldForward Fault = 1 << 0                 // what goes to the target is held
	HoldBack    Fault = 1 << 1                 // what comes from the target is held
	Reset       Fault = 1 << 2                 // connections are reset, new ones refused; holds make no difference then
	Hold              = HoldForward | HoldBack // nothing moves either way
)

// String names what the set holds.
func (f Fault) String() string {
	if f == 0 {
		return "none"
	}
	var names []string
	for _, one := range faultNames {
		if f&one.fault == one.fault {
			names = append(names, one.name)
			f &^= one.fault
		}
	}
	return strings.Join(names, "+")
}

// faultNames has what stands for more first.
var faultNames = []struct {
	fault Fault
	name  string
}{{Reset, "reset"}, {Hold, "hold"}, {HoldForward, "hold-forward"}, {HoldBack, "hold-back"}}

// ParseFault reads what String writes of a single fault, or of none.
func ParseFault(name string) (Fault, error) {
	for _, one := range faultNames {
		if one.name == name {
			return one.fault, nil
		}
	}
	if name == Fault(0).String() {
		return 0, nil
	}
	return 0, fmt.Errorf("wan: fault %q: want reset, hold, hold-forward, hold-back or none", name)
}

// turned is the fault as the other end of a link sees it.
func (f Fault) turned() Fault {
	turned := f &^ Hold
	if f&HoldForward != 0 {
		turned |= HoldBack
	}
	if f&HoldBack != 0 {
		turned |= HoldForward
	}
	return turned
}
