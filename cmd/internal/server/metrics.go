package server

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/replication"
)

// A collector reads the metrics from what the server knows when it is asked.
type collector struct{ site *site }

var (
	metricEvent   = metric("keytide_ledger_event", "Newest event that this server has applied.", "ledger")
	metricFresh   = metric("keytide_ledger_fresh", "1 while this server can prove that it is up to date.", "ledger")
	metricAge     = metric("keytide_beacon_age_seconds", "Age of the newest beacon.", "ledger")
	metricAlarms  = metric("keytide_alarms", "Alarms that stand.", "ledger")
	metricAgents  = metric("keytide_agents_connected", "Agents' streams that are open.")
	metricBehind  = metric("keytide_agents_behind", "Agents that have not been given the newest state, do not report in time that they use it, or report outputs that fail.")
	metricTickets = metric("keytide_session_tickets_total", "Session tickets sealed, opened and refused here.", "result")
	metricRing    = metric("keytide_ring_version", "Version of the ring.", "ring")
	metricRefuse  = metric("keytide_admin_requests_refused_total", "Requests to the admin API that came without a good token.", "why")
	metricCert    = metric("keytide_certificate_not_after_seconds", "Unix time at which the listener's certificate ends.", "listener")
	metricHeld    = metric("keytide_ring_held", "Servers that hold the ring's next rollover.", "ring")
	metricSlot    = metric("keytide_ring_next_slot_seconds", "Unix time of the ring's next scheduled rollover; absent: it has no schedule.", "ring")
	metricHold    = metric("keytide_ring_hold_seconds", "How long the guard has held a slot that is due; 0: it holds none.", "ring")
	metricOpen    = metric("keytide_ring_incident_open", "1 while not everybody has confirmed an emergency rollover.", "ring")
)

func metric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		metricEvent, metricFresh, metricAge, metricAlarms, metricAgents, metricBehind, metricRing, metricHeld, metricRefuse,
		metricCert, metricSlot, metricHold, metricOpen, metricTickets,
	} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, m := range []*replication.Member{c.site.keys, c.site.hosts} {
		ledger := m.Replica().Pin().Kind.String()
		n, _ := m.Replica().Watch()
		fresh := m.Freshness()
		gauge(metricEvent, float64(n), ledger)
		gauge(metricFresh, flag(fresh.State == events.Fresh), ledger)
		gauge(metricAge, fresh.Age.Seconds(), ledger)
	}
	for ledger, count := range standing(c.site.service.alarms()) {
		gauge(metricAlarms, float64(count), ledger)
	}
	connected, behindCount := c.site.hub.Agents()
	gauge(metricAgents, float64(connected))
	gauge(metricBehind, float64(behindCount))
	tickets := c.site.hub.TicketCounts()
	for result, n := range map[string]uint64{"sealed": tickets.Sealed, "opened": tickets.Opened, "refused": tickets.Refused} {
		to <- prometheus.MustNewConstMetric(metricTickets, prometheus.CounterValue, float64(n), result)
	}
	var rings []keystore.Ring
	c.site.keys.Replica().Read(func(state *events.State) { rings = state.Rings() })
	for _, cert := range c.site.certificates {
		gauge(metricCert, float64(cert.pair.Load().Leaf.NotAfter.Unix()), cert.listener)
	}
	for _, why := range []adminhttp.Refusal{adminhttp.NoToken, adminhttp.UnknownToken} {
		to <- prometheus.MustNewConstMetric(metricRefuse, prometheus.CounterValue, float64(c.site.refusals.Count(why)), string(why))
	}
	confirmed := c.site.service.confirmations()
	for _, r := range rings {
		gauge(metricRing, float64(r.Version), string(r.Name))
		gauge(metricHeld, float64(len(behind(r, confirmed))), string(r.Name))
		if !r.NextSlot.IsZero() {
			gauge(metricSlot, float64(r.NextSlot.Unix()), string(r.Name))
		}
		held := time.Duration(0)
		if !r.Hold.IsZero() {
			held = max(time.Since(r.Hold.Since), 0)
		}
		gauge(metricHold, held.Seconds(), string(r.Name))
		gauge(metricOpen, flag(r.Incident.N != 0), string(r.Name))
	}
}

// standing counts the alarms that status shows and that stand, by where they are.
func standing(alarms []adminapi.Alarm) map[string]int {
	count := map[string]int{events.Keys.String(): 0, events.Hosts.String(): 0, "feed": 0, "core": 0, "doctor": 0}
	for _, a := range alarms {
		if a.Ended.IsZero() {
			count[a.Ledger]++
		}
	}
	return count
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// metrics serves /metrics, /healthz (the process lives) and /readyz (it serves
// agents; a stale server does too).
func (s *site) metrics() (http.Handler, error) {
	registry := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		collector{s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{Timeout: 10 * time.Second}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !s.ready.Load() {
			http.Error(w, "not serving", http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte("ok\n"))
	})
	return mux, nil
}
