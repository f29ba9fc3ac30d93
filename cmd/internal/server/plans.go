package server

import (
	"sync"
	"time"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/schedule"
)

// plans compiles schedules, each once. It is safe for concurrent use.
type plans struct {
	mu       sync.Mutex // guards compiled
	compiled map[keystore.Schedule]keystore.Plan
}

// A plan knows its shortest gap, which takes long to find.
type plan struct {
	*schedule.Plan
	shortest time.Duration
}

func (p plan) Shortest() time.Duration { return p.shortest }

const maxPlans = 4096 // compiled ones; more are compiled anew

// of returns the plan of a policy's schedule: nil where it has none. The error wraps
// keystore.ErrInvalid.
func (p *plans) of(policy keystore.Policy) (keystore.Plan, error) {
	if policy.Schedule.IsManual() {
		return nil, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if made, ok := p.compiled[policy.Schedule]; ok {
		return made, nil
	}
	compiled, err := schedule.Compile(policy.Schedule)
	if err != nil {
		return nil, err
	}
	if p.compiled == nil || len(p.compiled) >= maxPlans {
		p.compiled = make(map[keystore.Schedule]keystore.Plan)
	}
	made := plan{compiled, compiled.Shortest()}
	p.compiled[policy.Schedule] = made
	return made, nil
}
