package sidecar

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/keytide/keytide/agentfeed"
)

// The metrics are written by hand, in the Prometheus text format 0.0.4: a dozen
// numbers do not make up for a client library in an agent that is on every machine.

var states = []agentfeed.State{agentfeed.StateWaiting, agentfeed.StateCached, agentfeed.StateFresh, agentfeed.StateStale, agentfeed.StateExpired}

// A metricsPage is written metric by metric, all values of one after its heading.
type metricsPage struct{ bytes.Buffer }

func (p *metricsPage) metric(name, kind, help string) {
	fmt.Fprintf(p, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// value writes a value under labels, which come as names and values in turn. Their
// values are names and words, which need no escaping.
func (p *metricsPage) value(name string, v float64, labels ...string) {
	p.WriteString(name)
	for i := 0; i < len(labels); i += 2 {
		p.WriteByte("{,"[min(i, 1)])
		fmt.Fprintf(p, "%s=%q", labels[i], labels[i+1])
	}
	if len(labels) > 0 {
		p.WriteByte('}')
	}
	p.WriteByte(' ')
	p.WriteString(strconv.FormatFloat(v, 'f', -1, 64))
	p.WriteByte('\n')
}

func (p *metricsPage) flag(name string, is bool, labels ...string) {
	v := 0.0
	if is {
		v = 1
	}
	p.value(name, v, labels...)
}

func (p *metricsPage) time(name string, at *time.Time, labels ...string) {
	if at != nil {
		p.value(name, float64(at.UnixMilli())/1000, labels...)
	}
}

// write writes all that a report has.
func (p *metricsPage) write(r Report) {
	p.metric("keytide_agent_state", "gauge", "1 for the state that the agent is in.")
	for _, s := range states {
		p.flag("keytide_agent_state", r.State == s, "state", string(s))
	}
	p.metric("keytide_agent_connected", "gauge", "1 while a policy server feeds the agent.")
	p.flag("keytide_agent_connected", r.Server != "")
	p.metric("keytide_agent_as_of_timestamp_seconds", "gauge", "When the rings were last known to be current.")
	p.time("keytide_agent_as_of_timestamp_seconds", r.AsOf)
	p.metric("keytide_agent_ring_version", "gauge", "Version of the ring that the agent holds.")
	for _, ring := range r.Rings {
		p.value("keytide_agent_ring_version", float64(ring.Version), "ring", string(ring.Name))
	}
	p.metric("keytide_agent_ring_epoch", "gauge", "Epoch of the ring that the agent holds.")
	for _, ring := range r.Rings {
		p.value("keytide_agent_ring_epoch", float64(ring.Epoch), "ring", string(ring.Name))
	}
	p.outputs(r.Outputs)
}

func (p *metricsPage) outputs(all []OutputReport) {
	p.metric("keytide_agent_output_written_timestamp_seconds", "gauge", "When the output's files changed last.")
	for _, o := range all {
		p.time("keytide_agent_output_written_timestamp_seconds", o.WrittenAt, "output", o.Name)
	}
	p.metric("keytide_agent_output_failed", "gauge", "1 while the output's files cannot be brought up to date.")
	for _, o := range all {
		p.flag("keytide_agent_output_failed", o.Error != "", "output", o.Name)
	}
	of := func(fn func(name string, a ActionReport)) {
		for _, o := range all {
			if o.Action != nil {
				fn(o.Name, *o.Action)
			}
		}
	}
	p.metric("keytide_agent_action_owed", "gauge", "1 from a change of the files until the action has succeeded.")
	of(func(name string, a ActionReport) { p.flag("keytide_agent_action_owed", a.owed(), "output", name) })
	p.metric("keytide_agent_action_runs_total", "counter", "Runs of the action.")
	of(func(name string, a ActionReport) {
		p.value("keytide_agent_action_runs_total", float64(a.Runs), "output", name)
	})
	p.metric("keytide_agent_action_failures_total", "counter", "Runs of the action that failed.")
	of(func(name string, a ActionReport) {
		p.value("keytide_agent_action_failures_total", float64(a.Failures), "output", name)
	})
}

// handler serves /metrics, /healthz (the process lives) and /readyz (all files are
// there).
func (k *keeper) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		var page metricsPage
		page.write(k.board.report())
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		w.Write(page.Bytes())
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !k.begun.Load() {
			http.Error(w, "no files yet", http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte("ok\n"))
	})
	return mux
}

// serve answers on listener until ctx ends.
func (k *keeper) serve(ctx context.Context, listener net.Listener) {
	server := &http.Server{Handler: k.handler(), ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 1 << 14}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(listener); ctx.Err() == nil {
		k.log.Error("metrics are no longer served", "err", err)
	}
}
