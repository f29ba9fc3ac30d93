package adminapi

// RollHosts asks for a rollover of the shared secrets of some hosts. A call does a part
// of them: the same with After set to the answer's Next goes on.
type RollHosts struct {
	Intent
	Names  []string          `json:"names,omitempty" doc:"of these hosts"`
	Labels map[string]string `json:"labels,omitempty" doc:"of the hosts that have all of these labels"`
	All    bool              `json:"all,omitempty" doc:"of all hosts"`
	After  string            `json:"after,omitempty" doc:"of those after this one, by name"`
}

// HostsRolled answers a call of RollHosts.
type HostsRolled struct {
	Rolled  int           `json:"rolled"`  // hosts to which a new secret is offered from now on
	Skipped []HostSkipped `json:"skipped"` // hosts whose secret is not rolled over
	Next    string        `json:"next"`    // for After; empty: that was all
	Left    int           `json:"left"`    // hosts after that
	N       uint64        `json:"n"`       // the last event; 0: there was none
	ID      string        `json:"id"`
}

// HostSkipped says why a host was left out.
type HostSkipped struct {
	Host string `json:"host"`
	Why  string `json:"why"`
}

// SecretPolicy is the policy for shared secrets.
type SecretPolicy struct {
	SecretEvery string `json:"secret_every"` // such as 30d; off: never by age
	Hosts       int    `json:"hosts"`        // that are registered to allow it
	Rolling     int    `json:"rolling"`      // hosts with a rollover under way
	LastEvent   *Event `json:"last_event"`   // null: the policy was never set
}

// SetSecretPolicy asks for a change of the policy for shared secrets.
type SetSecretPolicy struct {
	Intent
	SecretEvery string `json:"secret_every" doc:"hours, days, weeks or months, such as 12h, 30d, 2w or 3mo, or off"`
}

// SecretPolicyChanged answers a change of the policy for shared secrets.
type SecretPolicyChanged struct {
	Receipt
	SecretPolicy
}
