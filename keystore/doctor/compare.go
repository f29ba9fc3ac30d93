package doctor

import (
	"fmt"
	"slices"
)

// Compare makes findings of what several servers see beside each other: replicas whose
// histories differ, and members of whom nobody was asked.
func Compare(all []Observation) []Finding {
	var found []Finding
	for i, a := range all {
		for _, b := range all[:i] {
			found = append(found, diverged(b, a)...)
		}
	}
	return sorted(append(found, unasked(all)...))
}

func diverged(a, b Observation) []Finding {
	var found []Finding
	for _, la := range a.Ledgers {
		for _, lb := range b.Ledgers {
			if la.Kind != lb.Kind || la.Epoch != lb.Epoch {
				continue
			}
			if n, differ := differAt(la.Marks, lb.Marks); differ {
				found = append(found, Finding{
					Code: Diverged, Severity: Critical, Subject: "ledger " + la.Kind, Mend: mendRestore,
					Text: fmt.Sprintf("servers %s and %s hold two histories: event %d, or one before it, is not the same", a.Server, b.Server, n),
				})
			}
		}
	}
	return found
}

// differAt returns the first mark that both have and that differs.
func differAt(a, b []Mark) (first uint64, differ bool) {
	for _, ma := range a {
		for _, mb := range b {
			if ma.N == mb.N && ma.Hash != mb.Hash && (!differ || uint64(ma.N) < first) {
				first, differ = uint64(ma.N), true
			}
		}
	}
	return first, differ
}

// unasked names members that do not see anything here: they are not in the profile, or
// did not answer.
func unasked(all []Observation) []Finding {
	asked := make(map[string]bool)
	for _, o := range all {
		asked[o.Server] = true
	}
	var names []string
	for _, o := range all {
		for _, s := range o.Servers {
			if !asked[s.ID] && s.State != "stopped" && !slices.Contains(names, s.ID) {
				names = append(names, s.ID)
			}
		}
	}
	var found []Finding
	for _, name := range names {
		found = append(found, Finding{
			Code: ServerUnasked, Severity: Info, Subject: name, Mend: "name its admin address in the client profile (servers)",
			Text: "this server was not asked: its replica, disk and core files are not part of this examination",
		})
	}
	return found
}
