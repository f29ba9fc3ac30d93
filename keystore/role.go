package keystore

// A Role is what a key does in its ring. Stored: never renumber.
type Role uint8

const (
	Old           Role = 1 // opens only; was current before a rollover
	Current       Role = 2 // the one dynamic key that seals
	Future        Role = 3 // opens only; becomes current at the next rollover
	Static        Role = 4 // long-lived; seals what must outlast rollovers
	SessionTicket Role = 5 // seals session tickets; never leaves policy servers
)

var roleText = textTable[Role]{what: "role", names: map[Role]string{
	Old: "old", Current: "current", Future: "future", Static: "static", SessionTicket: "session_ticket",
}}

func (r Role) String() string               { return roleText.name(r) }
func (r Role) MarshalText() ([]byte, error) { return roleText.marshal(r) }
func (r *Role) UnmarshalText(b []byte) (err error) {
	*r, err = roleText.parse(string(b))
	return err
}

// A Mode is the way a ring seals sessions. Stored: never renumber.
type Mode uint8

const (
	ModeDynamic Mode = 1 // with the current key
	ModeStatic  Mode = 2 // with the static key
)

var modeText = textTable[Mode]{what: "mode", names: map[Mode]string{
	ModeDynamic: "dynamic", ModeStatic: "static",
}}

func (m Mode) String() string               { return modeText.name(m) }
func (m Mode) MarshalText() ([]byte, error) { return modeText.marshal(m) }
func (m *Mode) UnmarshalText(b []byte) (err error) {
	*m, err = modeText.parse(string(b))
	return err
}
