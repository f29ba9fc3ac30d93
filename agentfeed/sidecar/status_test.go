package sidecar_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/feedtest"
	"github.com/keytide/keytide/agentfeed/sidecar"
)

func TestStatusExits(t *testing.T) {
	failed := []sidecar.OutputReport{{Name: "web", Action: &sidecar.ActionReport{Result: sidecar.ActionFailed}}}
	for _, c := range []struct {
		report sidecar.Report
		want   int
	}{
		{sidecar.Report{Running: true, State: agentfeed.StateFresh}, 0},
		{sidecar.Report{State: agentfeed.StateFresh}, 1},
		{sidecar.Report{Running: true, State: "of a later agent"}, 1},
		{sidecar.Report{Running: true, State: agentfeed.StateCached}, 4},
		{sidecar.Report{Running: true, State: agentfeed.StateStale, Outputs: failed}, 5},
		{sidecar.Report{Running: true, State: agentfeed.StateExpired}, 6},
		{sidecar.Report{Running: true, State: agentfeed.StateWaiting}, 7},
		{sidecar.Report{Running: true, State: agentfeed.StateFresh, Outputs: failed}, 8},
		{sidecar.Report{Running: true, State: agentfeed.StateFresh, Outputs: []sidecar.OutputReport{{Error: "no space"}}}, 8},
	} {
		if got := sidecar.Exit(c.report); got != c.want {
			t.Errorf("%+v: exit %d, want %d", c.report, got, c.want)
		}
	}
}

// ask runs keytide-agent status.
func ask(t *testing.T, config string) (code int, r sidecar.Report, table string) {
	t.Helper()
	a := start(t, "status", "--config", config, "-o", "json")
	code = a.wait()
	if a.out.String() == "" {
		return code, r, a.talk.String()
	}
	if err := json.Unmarshal([]byte(a.out.String()), &r); err != nil {
		t.Fatalf("%v: %s", err, a.out.String())
	}
	a = start(t, "status", "--config", config)
	a.wait()
	return code, r, a.out.String()
}

func TestStatus(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	config, dir := writeConfig(t, server.WriteHostFile("web-1"), twoFiles)
	if code, _, talk := ask(t, config); code != 1 || !strings.Contains(talk, "no agent has left a status") || !strings.Contains(talk, "hint:  start it") {
		t.Errorf("before it runs: exit %d: %s", code, talk)
	}
	a := start(t, "run", "--config", config)
	var got sidecar.Report
	var table string
	until(t, "it is fresh and has written", func() (ok bool) {
		var code int
		code, got, table = ask(t, config)
		return code == 0 && got.AsOf != nil && got.Outputs[0].WrittenAt != nil
	})
	got.AsOf, got.Outputs[0].WrittenAt = nil, nil
	want := sidecar.Report{Running: true, State: agentfeed.StateFresh, Position: got.Position, Server: "feedtest", URL: server.URL(), Transport: agentfeed.TransportStream,
		Rings: []sidecar.RingReport{{Name: "sso", Epoch: 1, Version: 1}}, Outputs: []sidecar.OutputReport{{Name: "web"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	form := regexp.MustCompile(`^fresh, current \d+s ago, from policy server feedtest \(https://\S+, stream\)\n\nRING  VERSION\nsso   1\.1\n\nOUTPUT  WRITTEN +ACTION\nweb     \d+s ago\n$`)
	if !form.MatchString(table) {
		t.Errorf("table:\n%s", table)
	}
	a.end()
	if code, r, table := ask(t, config); code != 1 || r.Running || !strings.HasPrefix(table, "not running; it was fresh") {
		t.Errorf("after its end: exit %d: %s", code, table)
	}
	server.Stop()
	start(t, "run", "--config", config)
	until(t, "it starts from its cache", func() bool { code, _, _ := ask(t, config); return code == 4 })
	if text, mode := readFile(t, filepath.Join(dir, "state/status.json")); mode != 0o600 || strings.Contains(text, `"k"`) {
		t.Errorf("status.json has mode %v: %s", mode, text)
	}
}

func TestMetrics(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	set := server.Rollover("sso")
	config, dir := writeConfig(t, server.WriteHostFile("web-1"), `metrics: {listen: "127.0.0.1:0"}
outputs:
  - name: web
    files: [{path: ring.json, format: json}]
    action: {exec: ["false"], debounce: 1ms}
`)
	a := start(t, "run", "--config", config)
	address := regexp.MustCompile(`address=(127\.0\.0\.1:\d+)`)
	until(t, "it serves", func() bool { return address.MatchString(a.talk.String()) })
	base := "http://" + address.FindStringSubmatch(a.talk.String())[1]
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) (int, string) {
		response, err := client.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(text)
	}
	until(t, "it is ready", func() bool { code, _ := get("/readyz"); return code == 200 })
	var page string
	until(t, "the action has failed", func() bool {
		_, page = get("/metrics")
		return regexp.MustCompile(`(?m)^keytide_agent_action_failures_total\{output="web"\} [1-9]`).MatchString(page)
	})
	for _, line := range []string{
		`keytide_agent_state{state="fresh"} 1`, `keytide_agent_state{state="stale"} 0`, "keytide_agent_connected 1",
		`keytide_agent_ring_version{ring="sso"} 2`, `keytide_agent_ring_epoch{ring="sso"} 1`,
		`keytide_agent_output_failed{output="web"} 0`, `keytide_agent_action_owed{output="web"} 1`,
		"# TYPE keytide_agent_action_runs_total counter",
	} {
		if !strings.Contains("\n"+page, "\n"+line+"\n") {
			t.Errorf("no line %q in\n%s", line, page)
		}
	}
	// Each line is what Prometheus reads.
	line := regexp.MustCompile(`^(# (HELP|TYPE) keytide_agent_\w+ .+|keytide_agent_\w+(\{\w+="[^"]*"\})? \d+(\.\d+)?)$`)
	for _, l := range strings.Split(strings.TrimSuffix(page, "\n"), "\n") {
		if !line.MatchString(l) {
			t.Errorf("line %q", l)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "ring.json"))
	if err != nil || parse(t, string(text)).Rings[0].Version != uint64(set.Version) {
		t.Errorf("the file is not there while the action fails: %v", err)
	}
	if code := a.end(); code != 0 {
		t.Errorf("exit %d: %s", code, a.talk.String())
	}
}
