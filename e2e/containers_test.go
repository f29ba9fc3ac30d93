package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// containers is a core of three regions, each in a container of its own from an image
// made from scratch, with its own address.
type containers struct {
	tb   testing.TB
	name string // of the image and the network; containers' names begin with it
}

var containerRegions = []string{"eu", "us", "ap"}

// docker runs one command of the engine's client.
func docker(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

func (c *containers) docker(args ...string) string {
	c.tb.Helper()
	out, err := docker(args...)
	if err != nil {
		c.tb.Fatal(err)
	}
	return out
}

func startContainers(tb testing.TB) *containers {
	tb.Helper()
	if _, err := docker("version"); err != nil {
		tb.Fatalf("this test needs a running Docker Engine: %v", err)
	}
	c := &containers{tb: tb, name: "keytide-test-" + strings.ToLower(rand.Text()[:8])}
	c.build()
	tb.Cleanup(func() { docker("rmi", "-f", c.name) })
	core := c.init()
	subnet := fmt.Sprintf("10.%d.%d", 64+os.Getpid()%128, os.Getpid()/128%256)
	c.docker("network", "create", "--subnet", subnet+".0/24", c.name)
	tb.Cleanup(func() { docker("network", "rm", c.name) })
	for i, region := range containerRegions {
		tb.Cleanup(func() {
			if tb.Failed() {
				out, _ := exec.Command("docker", "logs", "--tail", "40", c.container(region)).CombinedOutput()
				tb.Logf("%s:\n%s", region, out)
			}
			docker("rm", "-f", c.container(region))
		})
		c.docker("run", "-d", "--name", c.container(region), "--read-only", "--cap-drop", "ALL",
			"--network", c.name, "--ip", fmt.Sprintf("%s.%d", subnet, 10+i), "--network-alias", region+"-1",
			"-v", filepath.Join(core, region+"-1")+":/var/lib/keytide", "-v", filepath.Join(core, "admin")+":/admin:ro",
			c.name, "server", "--config", "keytide.yaml")
	}
	return c
}

func (c *containers) container(region string) string { return c.name + "-" + region }

// build makes the image of the program under test.
func (c *containers) build() {
	c.tb.Helper()
	dir := c.tb.TempDir()
	program, err := os.ReadFile(filepath.Join(binaries, "keytide"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "keytide"), program, 0o755)
	}
	if err != nil {
		c.tb.Fatal(err)
	}
	c.docker("build", "-q", "-t", c.name, "--build-arg", "PROGRAM=keytide", "-f", "../deploy/container/Dockerfile", dir)
}

// init makes the core's directories, with a client profile for each server.
func (c *containers) init() string {
	c.tb.Helper()
	core := filepath.Join(c.tb.TempDir(), "core")
	args := []string{"core", "init", "--dir", core, "--store", "main"}
	for _, region := range containerRegions {
		args = append(args, "--server", fmt.Sprintf("%[1]s-1,region=%[1]s,host=%[1]s-1", region))
	}
	if out, err := exec.Command(filepath.Join(binaries, "keytide"), args...).CombinedOutput(); err != nil {
		c.tb.Fatalf("keytide core init: %v: %s", err, out)
	}
	for _, region := range containerRegions {
		profile := fmt.Sprintf("servers: [\"https://%s-1:7480\"]\nca_file: ca.pem\ntoken_file: admin.token\n", region)
		if err := os.WriteFile(filepath.Join(core, "admin", region+".yaml"), []byte(profile), 0o600); err != nil {
			c.tb.Fatal(err)
		}
	}
	err := filepath.WalkDir(core, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, 65532, 65532)) // the image's user
	})
	if err != nil {
		c.tb.Fatalf("giving the directories to the image's user needs root: %v", err)
	}
	return core
}

// keytide runs an administration command in a region's container, at its own server.
func (c *containers) keytide(region string, args ...string) (string, error) {
	return docker(append([]string{"exec", c.container(region), "/program", "--client", "/admin/" + region + ".yaml"}, args...)...)
}

// even reports what is missing until every region says that all are fresh at one event.
func (c *containers) even() error {
	var n any
	for _, region := range containerRegions {
		out, err := c.keytide(region, "status", "-o", "json")
		if err != nil {
			return err
		}
		status := decode[adminapi.Status](c.tb, []byte(out))
		if n == nil {
			n = status.N
		}
		if len(status.Servers) != len(containerRegions) || status.N != n {
			return fmt.Errorf("%s is at event %d with %d servers, another at %d", region, status.N, len(status.Servers), n)
		}
		for _, s := range status.Servers {
			if s.State != "fresh" || s.N != status.N {
				return fmt.Errorf("%s says: %s is %s at event %d of %d", region, s.ID, s.State, s.N, status.N)
			}
		}
	}
	return nil
}

// version is that of ring sso as a region shows it; 0: it does not.
func (c *containers) version(region string) keystore.Version {
	out, err := c.keytide(region, "ring", "show", "sso", "-o", "json")
	if err != nil {
		return 0
	}
	return decode[adminapi.Ring](c.tb, []byte(out)).Version
}

// TestRegionsInContainers: three regions with addresses of their own; one is unplugged
// as a cable is, misses a rollover, knows that it may, holds up the next one, and has it
// after it is plugged in again.
func TestRegionsInContainers(t *testing.T) {
	c := startContainers(t)
	eventually(t, "all regions are even", c.even)
	must := func(region string, args ...string) string {
		t.Helper()
		out, err := c.keytide(region, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	must("us", "ring", "create", "sso", "--min-interval", "0s", "--yes")
	eventually(t, "all regions are even", c.even)

	address := strings.TrimSpace(c.docker("inspect", "-f", `{{(index .NetworkSettings.Networks "`+c.name+`").IPAddress}}`, c.container("ap")))
	c.docker("network", "disconnect", c.name, c.container("ap"))
	eventually(t, "the region that is cut off says that it is stale", func() error {
		out, err := exec.Command("docker", "logs", c.container("ap")).CombinedOutput()
		if err == nil && !strings.Contains(string(out), "replica is not fresh") {
			err = errors.New("not yet")
		}
		return err
	})
	// Where the region that is cut off led the core, the others elect a leader first, and
	// the outcome of what was sent before may be unknown: so the ring tells.
	eventually(t, "the others roll over", func() error {
		_, err := c.keytide("eu", "rollover", "sso", "--yes")
		if err != nil && c.version("eu") == 2 {
			err = nil
		}
		return err
	})
	_, err := c.keytide("us", "rollover", "sso", "--yes")
	if err == nil || !strings.Contains(err.Error(), "server ap-1 in region ap is 1 event behind") {
		t.Errorf("a second rollover: %v, want it held, and by whom", err)
	}

	c.docker("network", "connect", "--ip", address, "--alias", "ap-1", c.name, c.container("ap"))
	eventually(t, "all regions are even again", c.even)
	must("ap", "rollover", "sso", "--yes")
	eventually(t, "all regions are even", c.even)
	for _, region := range containerRegions {
		if out := must(region, "audit", "verify", "-o", "json"); !decode[adminapi.Verification](t, []byte(out)).OK {
			t.Errorf("%s: %s", region, out)
		}
		if version := c.version(region); version != 3 {
			t.Errorf("%s has version %d, want 3", region, version)
		}
	}
}
