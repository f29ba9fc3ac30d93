package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func fakeRows(err error) []Row {
	return []Row{
		{Names: []string{"one", "two"}, Measure: func(context.Context) ([]Result, error) {
			return []Result{{Value: 1, Unit: "ns", Met: true}, {Value: 2, Unit: "ns", Baseline: 1, Ratio: 2}}, nil
		}},
		{Names: []string{"three"}, Measure: func(context.Context) ([]Result, error) { return []Result{{Value: 3}}, err }},
	}
}

func TestChoose(t *testing.T) {
	for _, test := range []struct {
		names string
		want  []string // nil: refused
	}{
		{"", []string{"one", "two", "three"}},
		{"two", []string{"two"}},
		{"three,one", []string{"one", "three"}},
		{"four", nil},
		{"one,four", nil},
	} {
		chosen, err := choose(fakeRows(nil), test.names)
		if (err == nil) != (test.want != nil) {
			t.Errorf("choose(%q): %v", test.names, err)
			continue
		}
		var got []string
		results, err := measure(t.Context(), chosen, &bytes.Buffer{})
		for _, r := range results {
			got = append(got, r.Name)
		}
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("measured %v, %v; want %v", got, err, test.want)
		}
	}
}

func TestARowThatFailsDoesNotHideTheOthers(t *testing.T) {
	broken := errors.New("broken")
	chosen, err := choose(fakeRows(broken), "")
	if err != nil {
		t.Fatal(err)
	}
	results, err := measure(t.Context(), chosen, &bytes.Buffer{})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "three") || len(results) != 2 {
		t.Errorf("measure = %d results, %v; want 2 and the row that broke", len(results), err)
	}
}

func TestWrite(t *testing.T) {
	want := Result{Name: "a", Value: 1.5, Unit: "ns", Baseline: 1, Ratio: 1.5, Goal: "ratio <= 1.1", Samples: 7, Note: "n"}
	var text bytes.Buffer
	if err := write(&text, []Result{want}, true); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Rows []Result `json:"rows"`
	}
	if err := json.Unmarshal(text.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Result{want}, got.Rows); diff != "" {
		t.Errorf("JSON differs (-want +got):\n%s", diff)
	}
	text.Reset()
	if err := write(&text, []Result{want}, false); err != nil || !strings.Contains(text.String(), "1.500") {
		t.Errorf("table %q, %v", text.String(), err)
	}
}

func TestMisuse(t *testing.T) {
	for _, args := range [][]string{{"--rows", "none"}, {"extra"}, {"--nope"}, {"--agents", "many"}, {"--agents", "10,10"}, {"--dead", "51"}} {
		if code := run(t.Context(), args, &bytes.Buffer{}, &bytes.Buffer{}); code != 2 {
			t.Errorf("%q: exit code %d, want 2", args, code)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	if code := run(ended, []string{"--rows", "cookie_unknown"}, &out, &bytes.Buffer{}); code != 1 || out.String() != "{\"rows\":[]}\n" {
		t.Errorf("interrupted: exit code %d, %q; want 1 and no rows", code, out.String())
	}
}

func TestRowNamesAreUnique(t *testing.T) {
	var seen []string
	for _, row := range table([]int{1000, 10_000, 12_345}, 1) {
		for _, name := range row.Names {
			if slices.Contains(seen, name) {
				t.Errorf("row %s is there twice", name)
			}
			seen = append(seen, name)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(test.values); got != test.want {
			t.Errorf("median(%v) = %v, want %v", test.values, got, test.want)
		}
	}
}
