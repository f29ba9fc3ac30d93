package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/keytide/keytide/replication/wan"
)

var (
	longCuts = flag.Bool("cuts.long", false, "cut every kind of region off, for 5 s and 30 s again and again and once for 5 min, and hold the times against the goals")
	cutRuns  = flag.Int("cuts.runs", 20, "how often -cuts.long repeats each of the shorter cuts")
)

const (
	staleGoal = 5 * time.Second // from the cut, every run
	freshGoal = time.Second     // from the heal, of 99 in 100 runs of the shorter cuts
)

// A cell of the matrix of cuts: who is cut off, how, and for how long.
type cell struct {
	who   string // edge, minority or leader
	fault wan.Fault
	lasts time.Duration
}

func (c cell) String() string { return fmt.Sprintf("%s %v %v", c.who, c.fault, c.lasts) }

// A cutTime is what was measured of one cut: from the cut until the region says that it
// is stale, from the heal until it is fresh again and has what was committed meanwhile.
type cutTime struct{ stale, fresh time.Duration }

// TestCuts cuts regions off, 40 ms from each other one way, while the ring rolls over:
// an edge policy server, a core region that follows, and the one whose server leads the
// ledger of keys. Nothing is missed, every region ends with the same events, and the cut
// one knew that it was stale. The whole matrix, with its times and goals, takes hours:
//
//	go test ./e2e -run TestCuts -timeout 6h -v -cuts.long [-cuts.runs 20]
func TestCuts(t *testing.T) {
	d := deploy(t)
	d.sites["eu"].keytide(t, "ring", "create", "sso", "--min-interval", "0s", "--reason", "rollovers in quick succession", "--yes")
	d.awaitEven(t)
	apps := map[string]string{}
	for _, region := range allRegions {
		apps[region] = startWebapp(t, d.sites[region].output, d.sites[region].host(t, "web-"+region))
	}
	times := map[cell][]cutTime{}
	cells, runs := []cell{{"minority", wan.Hold, 5 * time.Second}, {"edge", wan.Reset, 0}}, 1
	if *longCuts {
		cells, runs = nil, *cutRuns
		for _, lasts := range []time.Duration{5 * time.Second, 30 * time.Second, 5 * time.Minute} {
			for _, who := range []string{"edge", "minority", "leader"} {
				cells = append(cells, cell{who, wan.Reset, lasts}, cell{who, wan.Hold, lasts})
			}
		}
	}
	for _, c := range cells {
		for run := range runs {
			if run > 0 && c.lasts >= time.Minute {
				break
			}
			got := d.cutOff(t, c, apps)
			t.Logf("%v: stale %.2f s after the cut, fresh and caught up %.2f s after the heal", c, got.stale.Seconds(), got.fresh.Seconds())
			times[c] = append(times[c], got)
		}
	}
	report(t, cells, times)
}

// cutOff begins and ends with regions that are even.
func (d *deployment) cutOff(t *testing.T, c cell, apps map[string]string) (took cutTime) {
	t.Helper()
	cut := d.choose(t, c.who)
	at := allRegions[(slices.Index(allRegions, cut)+1)%3] // of the core, and not cut
	before := d.sites[at].ring(t)
	began := time.Now()
	must(t, d.net.Cut(cut, c.fault))
	rolled := make(chan struct{})
	go func() {
		defer close(rolled)
		d.rollOnce(t, at, before.Version)
	}()
	eventually(t, cut+" says that it is stale", func() error { return d.says(cut, "stale", 0) })
	took.stale = time.Since(began)
	if c.who != "leader" {
		<-rolled // where the leader is cut off, the others may elect another after the heal only
		d.awaitHeldBy(t, at, cut+"-1")
		if _, err := d.sites[at].try("rollover", "sso", "--reason", "one too many", "--yes"); !refused(err) || !strings.Contains(err.Error(), cut+"-1") {
			t.Errorf("a second rollover in the cut: %v, want it refused, and %s-1 named", err, cut)
		}
	}
	if got := d.sites[cut].ring(t); got.Version != before.Version {
		t.Errorf("%s is at version %d: it is not cut off", cut, got.Version)
	}
	<-time.After(time.Until(began.Add(c.lasts)))
	last, err := d.status(at)
	must(t, err)
	must(t, d.net.Heal(cut))
	healed := time.Now()
	eventually(t, cut+" is fresh and caught up", func() error { return d.says(cut, "fresh", last.N) })
	took.fresh = time.Since(healed)
	<-rolled
	d.awaitEven(t)
	d.awaitHeldBy(t, at)
	want := d.sites[at].ring(t)
	if want.Version != before.Version+1 {
		t.Errorf("version %d before the cut, %d after it: want one rollover", before.Version, want.Version)
	}
	for _, region := range allRegions {
		if got := d.sites[region].ring(t); got.Version != want.Version || got.current() != want.current() {
			t.Errorf("%s has version %d with %s, %s has version %d with %s", region, got.Version, got.current(), at, want.Version, want.current())
		}
		awaitVersion(t, want.Version, apps[region])
	}
	return took
}

// rollOnce rolls over at a region. Elections may be under way, and then nothing is
// stored, or nobody knows; so the ring tells.
func (d *deployment) rollOnce(t *testing.T, at string, version uint64) {
	for end := time.Now().Add(2 * patience); ; {
		_, err := d.sites[at].try("rollover", "sso", "--reason", "in the cut", "--yes")
		if err == nil {
			return
		}
		var ring ringView
		if out, shown := d.sites[at].try("ring", "show", "sso", "-o", "json"); shown == nil && json.Unmarshal(out, &ring) == nil && ring.Version > version {
			return
		}
		if time.Now().After(end) {
			t.Errorf("no rollover at %s: %v", at, err)
			return
		}
	}
}

// choose is the region that a cell cuts off.
func (d *deployment) choose(t *testing.T, who string) (region string) {
	t.Helper()
	if who == "edge" {
		return "sa"
	}
	eventually(t, "a core server leads", func() error {
		leader := ""
		for _, r := range coreRegions {
			if status, err := d.status(r); err != nil {
				return err
			} else if status.Core.Leads {
				leader = r
			}
		}
		for _, r := range coreRegions {
			if leader != "" && (r == leader) == (who == "leader") {
				region = r
			}
		}
		if region == "" {
			return errors.New("none says so")
		}
		return nil
	})
	return region
}

type cutStatus struct {
	N    uint64 `json:"n"`
	Core struct {
		Leads bool `json:"leads"`
	} `json:"core"`
	Servers []struct {
		ID    string `json:"id"`
		State string `json:"state"`
		N     uint64 `json:"n"`
	} `json:"servers"`
}

// status asks a region's server without a process of its own, which takes longer than
// what is measured here.
func (d *deployment) status(region string) (status cutStatus, err error) {
	s := d.sites[region]
	if s.client == nil {
		if err := s.openClient(); err != nil {
			return status, err
		}
	}
	req, err := http.NewRequest(http.MethodGet, "https://"+s.admin+"/v1/status", nil)
	if err != nil {
		return status, err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	resp, err := s.client.Do(req)
	if err != nil {
		return status, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return status, fmt.Errorf("status of %s: %s", region, resp.Status)
	}
	return status, json.NewDecoder(resp.Body).Decode(&status)
}

// openClient reads the profile of an administrator at the site.
func (s *site) openClient() error {
	text, err := os.ReadFile(filepath.Join(s.dir, "client.yaml"))
	if err != nil {
		return err
	}
	var profile struct {
		CA    string `yaml:"ca_file"`
		Token string `yaml:"token_file"`
	}
	if err := yaml.Unmarshal(text, &profile); err != nil {
		return err
	}
	for _, file := range []*string{&profile.CA, &profile.Token} {
		if !filepath.IsAbs(*file) {
			*file = filepath.Join(s.dir, *file)
		}
	}
	ca, err := os.ReadFile(profile.CA)
	if err != nil {
		return err
	}
	token, err := os.ReadFile(profile.Token)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	s.token = strings.TrimSpace(string(token))
	s.client = &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	return nil
}

// says reports whether a region's server says of itself that it is in a state and has
// event n.
func (d *deployment) says(region, state string, n uint64) error {
	status, err := d.status(region)
	if err != nil {
		return err
	}
	for _, s := range status.Servers {
		if s.ID == region+"-1" {
			if s.State != state || status.N < n {
				return fmt.Errorf("%s is %s at event %d, want %s at %d", s.ID, s.State, status.N, state, n)
			}
			return nil
		}
	}
	return fmt.Errorf("%s-1 is not in its own status", region)
}

// report prints every cell's times. Only the long form holds them against the goals:
// one or two runs beside other tests prove nothing.
func report(t *testing.T, cells []cell, times map[cell][]cutTime) {
	t.Helper()
	var table strings.Builder
	fmt.Fprintf(&table, "%-26s %4s  %-24s %s\n", "", "runs", "stale (s)", "fresh and caught up (s)")
	fmt.Fprintf(&table, "%-26s %4s  %-24s %s\n", "", "", "median    p99    max", "median    p99    max")
	for _, c := range cells {
		var stale, fresh []time.Duration
		for _, one := range times[c] {
			stale, fresh = append(stale, one.stale), append(fresh, one.fresh)
		}
		fmt.Fprintf(&table, "%-26s %4d  %6.2f %6.2f %6.2f     %6.2f %6.2f %6.2f\n", c, len(stale),
			quantile(stale, 0.5), quantile(stale, 0.99), quantile(stale, 1), quantile(fresh, 0.5), quantile(fresh, 0.99), quantile(fresh, 1))
		if !*longCuts {
			continue
		}
		if worst := quantile(stale, 1); worst > staleGoal.Seconds() {
			t.Errorf("%v: stale known %.2f s after the cut, want %v in every run", c, worst, staleGoal)
		}
		if p99 := quantile(fresh, 0.99); p99 > freshGoal.Seconds() {
			t.Errorf("%v: fresh and caught up %.2f s after the heal (p99), want %v", c, p99, freshGoal)
		}
	}
	t.Logf("\n%s", &table)
}

// quantile is in seconds; of few values, the one above.
func quantile(all []time.Duration, q float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)].Seconds()
}
