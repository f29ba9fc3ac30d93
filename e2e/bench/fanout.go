package main

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	fanoutAgents = 10_000 // those that the goals speak of
	fanoutRounds = 9

	fanoutGoal      = 300.0    // ms
	fanoutCPUGoal   = 30.0     // µs
	idleGoal        = 16 << 10 // bytes
	reconnectGoal   = 8.0      // s
	reconnectMemory = 250      // MB
	floodTime       = 20 * time.Second
)

// fanoutRows measure a policy server with so many agents of each count. deadPercent of
// them, if it is not zero, read nothing any more while the ring rolls over as fast as
// it can.
func fanoutRows(counts []int, deadPercent int) []Row {
	var rows []Row
	for _, agents := range counts {
		suffix := ""
		if agents != fanoutAgents {
			suffix = "_" + thousands(agents)
		}
		names := []string{"fanout_" + thousands(agents) + "_p99", "fanout_cpu" + suffix, "idle_agent_bytes" + suffix, "reconnect_" + thousands(agents)}
		if deadPercent > 0 {
			names = append(names, "dead_readers_p99"+suffix)
		}
		rows = append(rows, Row{Names: names, Measure: func(ctx context.Context) ([]Result, error) {
			return measureFanout(ctx, agents, deadPercent)
		}})
	}
	return rows
}

func thousands(n int) string {
	if n%1000 == 0 {
		return strconv.Itoa(n/1000) + "k"
	}
	return strconv.Itoa(n)
}

// parseCounts reads the numbers of agents to measure with.
func parseCounts(text string) ([]int, error) {
	var counts []int
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil || n < 1 || n > 1_000_000 || slices.Contains(counts, n) {
			return nil, fmt.Errorf("--agents %q: want different numbers from 1 to 1000000, such as 1000,10000", text)
		}
		counts = append(counts, n)
	}
	return counts, nil
}

// A load is what one server, ours or the bare one, was seen to do.
type load struct {
	agents    int
	latencies [][]float64 // ms, sorted, of each round
	cpu       float64     // µs of the server for each agent and round
	agentCPU  float64     // µs of this process, likewise
	idle      float64     // bytes resident an idle agent
	connected time.Duration
	peak      int64
	retries   int64
}

func measureFanout(ctx context.Context, agents, deadPercent int) ([]Result, error) {
	if err := allowFiles(filesNeeded(agents + agents*deadPercent/100)); err != nil {
		return nil, err
	}
	// What the agents' garbage costs is not the server's fault.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	ours, flood, err := loadOurs(ctx, agents, deadPercent)
	if err != nil {
		return nil, err
	}
	bare, err := loadBare(ctx, agents)
	if err != nil {
		return nil, err
	}
	results := []Result{ours.fanout(bare), ours.processor(bare), ours.memory(bare), ours.reconnect(bare)}
	if flood != nil {
		results = append(results, flood.result(ours))
	}
	return results, nil
}

func loadOurs(ctx context.Context, agents, deadPercent int) (*load, *flood, error) {
	s, err := startPolicyServer(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer s.close()
	if err := s.register(ctx, agents+agents*deadPercent/100); err != nil {
		return nil, nil, err
	}
	f, err := s.fleet()
	if err != nil {
		return nil, nil, err
	}
	defer f.hangUp()
	if err := s.rollover(ctx); err != nil { // tells the version
		return nil, nil, err
	}
	l := &load{agents: agents}
	send := func() (uint64, func() error) { return s.version + 1, func() error { return s.rollover(ctx) } }
	if err := l.take(ctx, s.child, f, send); err != nil {
		return nil, nil, err
	}
	// All come back at once to a server that has just been started anew.
	f.ending.Store(true)
	s.kill()
	f.hangUp()
	if err := s.start(ctx); err != nil {
		return nil, nil, err
	}
	if l.connected, err = f.connect(ctx, agents); err != nil {
		return nil, nil, err
	}
	l.retries = f.retries.Load()
	if _, l.peak, err = s.memory(); err != nil || deadPercent == 0 {
		return l, nil, err
	}
	fl, err := s.flood(ctx, f, agents*deadPercent/100)
	return l, fl, err
}

func loadBare(ctx context.Context, agents int) (*load, error) {
	b, err := startBare(ctx)
	if err != nil {
		return nil, err
	}
	defer b.kill()
	f, err := b.fleet()
	if err != nil {
		return nil, err
	}
	defer f.hangUp()
	l := &load{agents: agents}
	sent := uint64(1) // each follower counts from the first after the one it began with
	send := func() (uint64, func() error) {
		sent++
		return sent, b.send
	}
	if err := l.take(ctx, b.child, f, send); err != nil {
		return nil, err
	}
	f.ending.Store(true)
	b.kill()
	f.hangUp()
	again, err := startBare(ctx)
	if err != nil {
		return nil, err
	}
	defer again.kill()
	next, err := again.fleet()
	if err != nil {
		return nil, err
	}
	defer next.hangUp()
	if l.connected, err = next.connect(ctx, agents); err == nil {
		_, l.peak, err = again.memory()
	}
	return l, err
}

// take connects all agents and measures rounds and what idle agents cost.
func (l *load) take(ctx context.Context, server *child, f *fleet, send func() (uint64, func() error)) error {
	before, err := server.resident(ctx)
	if err != nil {
		return err
	}
	if _, err := f.connect(ctx, l.agents); err != nil {
		return err
	}
	idle, err := busyness(ctx, server)
	if err != nil {
		return err
	}
	began, err := server.cpu()
	if err != nil {
		return err
	}
	start, ownBegan := time.Now(), ownCPU()
	for range fanoutRounds {
		version, do := send()
		latencies, err := f.measure(ctx, l.agents, version, do)
		if err != nil {
			return err
		}
		l.latencies = append(l.latencies, latencies)
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
	used, err := server.cpu()
	if err != nil {
		return err
	}
	used -= began + time.Duration(idle*float64(time.Since(start)))
	l.cpu = micros(used) / float64(fanoutRounds*l.agents)
	l.agentCPU = micros(ownCPU()-ownBegan) / float64(fanoutRounds*l.agents)
	after, err := server.resident(ctx)
	l.idle = float64(after-before) / float64(l.agents)
	return err
}

// busyness is which part of one processor the server takes while nothing happens.
func busyness(ctx context.Context, server *child) (float64, error) {
	const watched = 4 * time.Second
	if err := pause(ctx, 3*time.Second); err != nil { // the connecting settles
		return 0, err
	}
	before, err := server.cpu()
	if err != nil {
		return 0, err
	}
	if err := pause(ctx, watched); err != nil {
		return 0, err
	}
	after, err := server.cpu()
	return float64(after-before) / float64(watched), err
}

// percentiles is the median of the rounds' p-th percentiles.
func (l *load) percentiles(p int) float64 {
	var of []float64
	for _, round := range l.latencies {
		of = append(of, percentile(round, p))
	}
	return median(of)
}

func (l *load) fanout(bare *load) Result {
	r := besides(l.percentiles(99), bare.percentiles(99), "ms", fmt.Sprintf("p99 <= %.0f ms", fanoutGoal), fanoutGoal)
	r.Samples = fanoutRounds * l.agents
	r.Note = fmt.Sprintf("%d agents; from the command to the state opened at each agent, on the same processors; median of %d rollovers' p99; p50 %.0f ms, last agent %.0f ms, worst round's last %.0f ms; bare: as many bytes written over TLS, p50 %.0f ms",
		l.agents, fanoutRounds, l.percentiles(50), l.percentiles(100), slices.MaxFunc(l.latencies, byLast)[l.agents-1], bare.percentiles(50))
	return r
}

func byLast(a, b []float64) int { return int(a[len(a)-1] - b[len(b)-1]) }

func (l *load) processor(bare *load) Result {
	r := besides(l.cpu, bare.cpu, "µs", fmt.Sprintf("<= %.0f µs of the server's CPU an agent and rollover", fanoutCPUGoal), fanoutCPUGoal)
	r.Samples = fanoutRounds * l.agents
	r.Note = fmt.Sprintf("%d agents, %d rollovers; what the server takes when idle is not counted; the agents themselves took %.0f µs each of the same processors (bare: %.0f µs)",
		l.agents, fanoutRounds, l.agentCPU, bare.agentCPU)
	return r
}

func (l *load) memory(bare *load) Result {
	r := besides(l.idle, bare.idle, "bytes", fmt.Sprintf("<= %d bytes resident an agent", idleGoal), idleGoal)
	r.Samples = l.agents
	r.Note = fmt.Sprintf("%d agents that are idle after %d rollovers; without the kernel's own", l.agents, fanoutRounds)
	return r
}

func (l *load) reconnect(bare *load) Result {
	r := besides(l.connected.Seconds(), bare.connected.Seconds(), "s", fmt.Sprintf("<= %.0f s, none lost, peak <= %d MB resident", reconnectGoal, reconnectMemory), reconnectGoal)
	r.Met = r.Met && l.peak <= reconnectMemory<<20
	r.Samples = l.agents
	r.Note = fmt.Sprintf("%d agents at once, none lost, %d attempts more than agents; peak %d MB (bare: %d MB), the whole policy server with its bus",
		l.agents, l.retries, l.peak>>20, bare.peak>>20)
	return r
}

func besides(value, baseline float64, unit, goal string, most float64) Result {
	return Result{Value: value, Unit: unit, Baseline: baseline, Ratio: value / baseline, Goal: goal, Met: value <= most}
}

// A flood is what happened while some agents read nothing and the ring rolled over as
// fast as it could.
type flood struct {
	dead, alive, rollovers, left int
	receipts                     []float64 // ms, of the agents that read
	peak                         int64
}

func (s *policyServer) flood(ctx context.Context, f *fleet, dead int) (*flood, error) {
	f.mu.Lock()
	alive := len(f.conns)
	f.mu.Unlock()
	if err := f.stuck(ctx, dead); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	asked := make(map[uint64]time.Time)
	f.mu.Lock()
	f.asked = func(version uint64) time.Time {
		mu.Lock()
		defer mu.Unlock()
		return asked[version]
	}
	f.mu.Unlock()
	result := &flood{dead: dead, alive: alive}
	for end := time.Now().Add(floodTime); time.Now().Before(end); result.rollovers++ {
		mu.Lock()
		asked[s.version+1] = time.Now()
		mu.Unlock()
		if err := s.rollover(ctx); err != nil {
			return nil, err
		}
	}
	// The newest must reach all that read.
	if _, err := f.measure(ctx, alive, s.version+1, func() error { return s.rollover(ctx) }); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked, result.receipts = nil, f.receipts
	var err error
	if _, result.peak, err = s.memory(); err != nil {
		return nil, err
	}
	result.left, err = s.connected(ctx)
	return result, err
}

func (fl *flood) result(quiet *load) Result {
	r := besides(percentile(fl.receipts, 99), quiet.percentiles(99), "ms", "p99 <= 1000 ms of the agents that read; the others are cut", 1000)
	r.Samples = len(fl.receipts)
	r.Met = r.Met && fl.left <= fl.alive
	r.Note = fmt.Sprintf("%d of %d agents read nothing during %d rollovers in %v; %d streams are left; p50 %.0f ms; peak %d MB; the baseline is one rollover without them",
		fl.dead, fl.dead+fl.alive, fl.rollovers, floodTime, fl.left, percentile(fl.receipts, 50), fl.peak>>20)
	return r
}
