package agentfeed

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keytide/keytide/keystore"
)

const (
	// homeward is about how often an agent that is fed from another region looks for a
	// server of its own.
	homeward = 5 * time.Minute
	// level is by how much the proof of a server of the own region may be older than
	// the one held for a move to it.
	level = 5 * time.Second
)

var errHome = errors.New("a server of the agent's own region is back")

// checkRegions reports what is wrong with the regions of servers: there are none, or
// one for each.
func checkRegions(servers, regions []string) error {
	if len(regions) != 0 && len(regions) != len(servers) {
		return fmt.Errorf("are %d for %d servers: want one for each, in their order", len(regions), len(servers))
	}
	for _, r := range regions {
		if err := keystore.CheckName(r); err != nil {
			return err
		}
	}
	return nil
}

// regionsOf gives regions by the servers' URLs; none if they are not valid.
func regionsOf(servers, regions []string) map[string]string {
	of := make(map[string]string, len(regions))
	if checkRegions(servers, regions) != nil {
		return of
	}
	for i, r := range regions {
		of[trimmed(servers[i])] = r
	}
	return of
}

func trimmed(url string) string { return strings.TrimSuffix(url, "/") }

// known returns the servers that the host file or the newest state names, in the
// order in which this host asks them, and the CA bundle of the state.
func (c *Client) known() (servers []string, ca string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := slices.Concat(c.servers, c.host.Servers)
	for i, s := range all {
		all[i] = trimmed(s)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	// The own region first. Within one, rendezvous hashing: hosts spread evenly over the
	// servers, and each comes back to the same ones.
	slices.SortStableFunc(all, func(a, b string) int {
		return cmp.Or(cmp.Compare(c.distance(a), c.distance(b)), cmp.Compare(score(c.host.Host, a), score(c.host.Host, b)))
	})
	return all, c.ca
}

func score(host, server string) uint64 {
	sum := sha256.Sum256([]byte(host + "|" + server))
	return binary.BigEndian.Uint64(sum[:])
}

// distance is 0 for servers of the agent's own region and 1 for others; for all 0
// where it has none. It needs mu.
func (c *Client) distance(url string) int {
	region, ok := c.regions[url]
	if !ok {
		region = c.hostRegions[url]
	}
	if c.host.Region == "" || region == c.host.Region {
		return 0
	}
	return 1
}

// home returns the servers of the agent's own region, in their order, if the server at
// url is of another.
func (c *Client) home(url string) []string {
	servers, _ := c.known()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.distance(url) == 0 {
		return nil
	}
	return slices.DeleteFunc(servers, func(s string) bool { return c.distance(s) != 0 })
}

// located notes the regions of a state. It needs mu.
func (c *Client) located(servers, regions []string) {
	if next := regionsOf(servers, regions); !maps.Equal(next, c.regions) {
		c.regions = next
	}
}

// lookHome asks the servers of the agent's own region, and returns the first that is
// not behind. What they tell is taken over.
func (s *session) lookHome(ctx context.Context, known map[string]*server) (better string) {
	for _, url := range s.client.home(s.server.url) {
		if ctx.Err() != nil {
			return ""
		}
		if known[url] == nil {
			known[url] = &server{url: url}
		}
		asOf, err := s.glance(ctx, known[url])
		if err == nil && s.client.provedAt().Sub(asOf) <= level {
			return url
		}
		s.client.log.Debug("no way home", "url", url, "err", err)
	}
	return ""
}
