package adminapi

import (
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/doctor"
)

// Diagnosis is what one policy server found, and what it saw.
type Diagnosis struct {
	Findings    []doctor.Finding   `json:"findings"`
	Observation doctor.Observation `json:"observation"`
}

// Mend asks to put entries of the buckets right, as findings name them.
type Mend struct {
	Intent
	Repairs []doctor.Repair `json:"repairs" minItems:"1" maxItems:"256"`
}

// Mended says what was put right.
type Mended struct {
	Mended []doctor.Repair `json:"mended"` // those that were; others needed it no more
	// N and ID are of the event that says so in the history.
	N  keystore.N `json:"n"`
	ID string     `json:"id"`
}
