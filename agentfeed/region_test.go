package agentfeed

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// locate gives servers of a pipeNet regions, as a host file does, and the agent its own.
func locate(region string, of map[string]string) func(*Client) {
	return func(c *Client) { c.host.Region, c.hostRegions = region, of }
}

// TestOwnRegionComesFirst: whatever the hashes say, and within the region as they say.
func TestOwnRegionComesFirst(t *testing.T) {
	var servers []string
	regions := make(map[string]string)
	for i := range 12 {
		url := fmt.Sprintf("http://ps-%d", i)
		servers, regions[url] = append(servers, url), []string{"eu", "us", "ap"}[i%3]
	}
	first := make(map[string]int)
	for i := range 200 {
		c := &Client{host: HostFile{Host: fmt.Sprintf("web-%d", i), Servers: servers}}
		plain, _ := c.known()
		locate("us", regions)(c)
		got, _ := c.known()
		for j, url := range got {
			if (regions[url] == "us") != (j < 4) {
				t.Fatalf("order %v, want the four of us first", got)
			}
		}
		inOrder := func(region string) (of []string) {
			for _, url := range plain {
				if (regions[url] == "us") == (region == "us") {
					of = append(of, url)
				}
			}
			return of
		}
		if !slices.Equal(got, slices.Concat(inOrder("us"), inOrder(""))) {
			t.Fatalf("order %v, want within a region as in %v", got, plain)
		}
		first[got[0]]++
	}
	if len(first) != 4 {
		t.Errorf("200 hosts begin at %v, want them spread over the four of their region", first)
	}
	c := &Client{host: HostFile{Host: "web-1", Region: "us", Servers: servers}, hostRegions: regions}
	c.located([]string{"http://ps-0/"}, []string{"us"})
	if got, _ := c.known(); slices.Index(got, "http://ps-0") > 4 {
		t.Errorf("order %v: the state's word on a region does not stand before the host file's", got)
	}
	c.located(servers, []string{"us"})
	if len(c.regions) != 0 {
		t.Errorf("regions %v of a list of another length", c.regions)
	}
}

// TestAgentComesHome: it goes to another region while its own has no server, stays fresh,
// and comes back when one is there that is not behind.
func TestAgentComesHome(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n, near, far := newPipeNet(), newSource(t), newSource(t)
		stopNear, stopFar := n.serve("near", newHub(t, near)), n.serve("far", newHub(t, far))
		client, end := n.editedClient(t, "", locate("eu", map[string]string{"http://near": "eu", "http://far": "us"}), "near", "far")
		at := func(want string) {
			t.Helper()
			synctest.Wait()
			if got := client.Status(); got.URL != want || got.State != StateFresh {
				t.Errorf("Status = %+v, want fresh from %s", got, want)
			}
		}
		time.Sleep(time.Second)
		at("http://near")
		stopNear()
		time.Sleep(time.Minute)
		at("http://far")
		near.freeze(true) // a server of its region is back, but cut off from its core
		stopNear = n.serve("near", newHub(t, near))
		time.Sleep(20 * time.Minute)
		at("http://far")
		near.freeze(false)
		time.Sleep(7 * time.Minute)
		at("http://near")
		time.Sleep(time.Hour)
		at("http://near")
		stopNear()
		stopFar()
		end()
	})
}

func TestRegionsAreOneForEachServer(t *testing.T) {
	file := HostFile{Servers: []string{"https://a", "https://b"}}
	for regions, want := range map[string]string{"": "", "eu us": "", "eu": "are 1 for 2", "eu us ap": "are 3 for 2", "eu EU": "has 'E'"} {
		file.Regions = strings.Fields(regions)
		err := checkRegions(file.Servers, file.Regions)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("regions %q: %v, want %q", regions, err, want)
		}
	}
}
