package agentfeed

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

const (
	// reportSpread is the time over which agents say, at random, that they have applied
	// something: 10,000 of them are 170 a second.
	reportSpread = time.Minute
	reportPeriod = 5 * time.Minute // from one report to the next, give or take a fifth
	reportLimit  = 20 * time.Second
)

// A Failure is something that should follow the rings and does not.
type Failure struct {
	Output string // its name, a line of at most 64 bytes
	Error  string // why; at most 256 bytes are reported
}

// SetFailures says what does not follow the rings, for the reports to the policy
// servers: until there is nothing, this agent has confirmed no version to them.
func (c *Client) SetFailures(failures ...Failure) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Equal(c.failures, failures) {
		c.failures = slices.Clone(failures)
		c.notify()
	}
}

// A reporter tells the server that feeds what this agent has applied. One goroutine
// runs it.
type reporter struct {
	client *Client
	random *mathrand.Rand
	run    string // of this start of the agent
	told   string // what the last report that was taken said, but for the position
}

func newReporter(c *Client) *reporter {
	var run [8]byte
	rand.Read(run[:])
	run[0] |= 1 // it is not all zero
	return &reporter{client: c, random: mathrand.New(mathrand.NewPCG(mathrand.Uint64(), mathrand.Uint64())), run: hex.EncodeToString(run[:])}
}

// follow reports within reportSpread of each change, and every reportPeriod, until ctx
// ends. What changes meanwhile is in the same report.
func (r *reporter) follow(ctx context.Context) {
	spread := r.client.config.ReportWithin
	if spread == 0 {
		spread = reportSpread
	}
	next := time.Now().Add(reportPeriod)
	owed := false
	for {
		_, said, changed := r.client.reportNow(r.run)
		if said != r.told && said != "" && !owed {
			owed, next = true, time.Now().Add(between(0, spread, r.random))
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-changed:
			timer.Stop()
			continue
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		owed = false
		next = time.Now().Add(between(reportPeriod*4/5, reportPeriod*6/5, r.random))
		if wait, err := r.send(ctx); err != nil && ctx.Err() == nil {
			r.client.log.Debug("report not taken", "err", err)
			owed = true // again, but no sooner than this
			next = time.Now().Add(wait + between(spread/2, spread*3/2, r.random))
		}
	}
}

// send sends a report, if a server feeds this agent. It returns how long the server
// asked to wait.
func (r *reporter) send(ctx context.Context) (wait time.Duration, err error) {
	report, said, _ := r.client.reportNow(r.run)
	if said == "" {
		return 0, nil
	}
	body, err := report.Encode()
	if err != nil {
		return 0, err
	}
	status := r.client.Status()
	if status.URL == "" {
		return 0, nil
	}
	_, ca := r.client.known()
	call := post{
		client: r.client, http: r.client.ticketClient(ca), url: status.URL, target: wire.ReportTarget,
		covered: true, once: true, limit: reportLimit, most: maxProblem,
	}
	if _, err = call.do(ctx, func(keystore.Material, wire.Nonce) ([]byte, error) { return body, nil }); err == nil {
		r.told = said
	}
	return call.wait, err
}

// reportNow is what there is to say, a text of that which is to be said soon when it
// changes (empty: no server feeds this agent), and a channel that is closed when it may
// have changed.
func (c *Client) reportNow(run string) (report wire.Report, said string, changed <-chan struct{}) {
	status := c.Status()
	sets := c.Snapshot()
	c.mu.Lock()
	defer c.mu.Unlock()
	report = wire.Report{Run: run, V: status.Position, Agent: c.config.Agent, State: string(status.State), Transport: string(status.Transport)}
	if report.Agent == "" {
		report.Agent = "keytide-agentfeed"
	}
	for _, set := range sets {
		report.Rings = append(report.Rings, wire.ReportRing{Name: set.Ring, Epoch: set.Epoch, Version: set.Version})
	}
	for _, f := range c.failures {
		report.Failures = append(report.Failures, wire.ReportFailure(f))
	}
	if status.URL != "" && c.ready {
		said = fmt.Sprint(status.URL, report.Transport, report.Rings, report.Failures)
	}
	return report, said, c.changed
}
