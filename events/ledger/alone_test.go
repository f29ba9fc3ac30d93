package ledger

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// TestAlone: who leads a core and hears from no majority of it may be cut off.
func TestAlone(t *testing.T) {
	peers := func(active ...time.Duration) (all []*jetstream.PeerInfo) {
		for _, a := range active {
			all = append(all, &jetstream.PeerInfo{Active: a})
		}
		return all
	}
	const well, silent = time.Second, 3 * time.Second
	for _, c := range []struct {
		name    string
		cluster *jetstream.ClusterInfo
		want    bool
	}{
		{"one server", nil, false},
		{"one server of a cluster", &jetstream.ClusterInfo{Leader: "a"}, false},
		{"all are there", &jetstream.ClusterInfo{Leader: "a", Replicas: peers(well, well)}, false},
		{"one of three is away", &jetstream.ClusterInfo{Leader: "a", Replicas: peers(well, silent)}, false},
		{"two of three are away", &jetstream.ClusterInfo{Leader: "a", Replicas: peers(silent, silent)}, true},
		{"two of five are away", &jetstream.ClusterInfo{Leader: "a", Replicas: peers(well, well, silent, silent)}, false},
		{"three of five are away", &jetstream.ClusterInfo{Leader: "a", Replicas: peers(well, silent, silent, silent)}, true},
		{"offline", &jetstream.ClusterInfo{Leader: "a", Replicas: []*jetstream.PeerInfo{{Offline: true}, {Offline: true}}}, true},
		{"nobody leads", &jetstream.ClusterInfo{Replicas: peers(well, well)}, true},
	} {
		if got := alone(c.cluster); got != c.want {
			t.Errorf("%s: alone = %v, want %v", c.name, got, c.want)
		}
	}
}
