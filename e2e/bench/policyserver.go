package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/oklog/ulid/v2"
)

// agentsPerHost leaves room below the 100 streams that a policy server lets one trusted
// host have: they are not dealt out evenly.
const agentsPerHost = 90

// A policyServer is keytide dev, built from this source, in a process of its own.
type policyServer struct {
	*child
	dir, binary        string
	adminAddr, feedAdr string
	hosts              []*hostFile
	admin              *http.Client
	token              string
	version            uint64 // of the ring
}

func startPolicyServer(ctx context.Context) (_ *policyServer, err error) {
	s := new(policyServer)
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.dir, err = os.MkdirTemp("", "keytide-bench-"); err != nil {
		return nil, err
	}
	s.binary = filepath.Join(s.dir, "keytide")
	build := exec.CommandContext(ctx, "go", "build", "-o", s.binary, "github.com/keytide/keytide/cmd/keytide")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building keytide: %w\n%s", err, out)
	}
	for _, address := range []*string{&s.adminAddr, &s.feedAdr} {
		if *address, err = freeAddress(); err != nil {
			return nil, err
		}
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	if err := s.connectAdmin(); err != nil {
		return nil, err
	}
	// Four keys, as a ring has that rolls over seldom, and rollovers at any time.
	return s, s.keytide(ctx, "ring", "set", "sso", "--min-interval", "0s", "--retain", "1", "--force", "--yes", "--reason", "bench")
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// start starts the process, again over the same directory.
func (s *policyServer) start(ctx context.Context) (err error) {
	s.child, _, err = startChild(ctx, "keytide ready", s.binary, "dev", "--dir", filepath.Join(s.dir, "store"),
		"--listen", s.adminAddr, "--feed-listen", s.feedAdr)
	return err
}

func (s *policyServer) close() {
	if s.child != nil {
		s.kill()
	}
	os.RemoveAll(s.dir)
}

// keytide runs an administration command.
func (s *policyServer) keytide(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, s.binary, append(args, "--client", filepath.Join(s.dir, "store", "client.yaml"))...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("keytide %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// connectAdmin makes a client of the admin API: a rollover's time must not have the
// start of a program in it.
func (s *policyServer) connectAdmin() error {
	token, err := os.ReadFile(filepath.Join(s.dir, "store", "admin.token"))
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(filepath.Join(s.dir, "store", "tls", "ca.pem"))
	if err != nil {
		return err
	}
	config, err := trusting(string(ca))
	s.token = strings.TrimSpace(string(token))
	s.admin = &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	return err
}

// register makes sure of enough trusted hosts for so many agents.
func (s *policyServer) register(ctx context.Context, agents int) error {
	have, need := len(s.hosts), (agents+agentsPerHost-1)/agentsPerHost
	if need <= have {
		return nil
	}
	s.hosts = append(s.hosts, make([]*hostFile, need-have)...)
	next := make(chan int)
	var workers sync.WaitGroup
	faults := make(chan error, need)
	for range 2 {
		workers.Go(func() {
			for i := range next {
				name := fmt.Sprintf("bench-%d", i)
				file := filepath.Join(s.dir, name+".yaml")
				err := s.keytide(ctx, "host", "register", name, "--ring", "sso", "--out", file, "--yes", "--reason", "bench")
				if err == nil {
					s.hosts[i], err = readHostFile(file)
				}
				faults <- err
			}
		})
	}
	for i := have; i < need; i++ {
		next <- i
	}
	close(next)
	workers.Wait()
	close(faults)
	var all error
	for err := range faults {
		all = errors.Join(all, err)
	}
	return all
}

// fleet is one of agents of this server.
func (s *policyServer) fleet() (*fleet, error) {
	config, err := trusting(s.hosts[0].CA)
	return &fleet{address: s.feedAdr, tls: config, hosts: s.hosts}, err
}

// rollover rolls the ring over; version is the ring's then.
func (s *policyServer) rollover(ctx context.Context) error {
	var rolled struct {
		Version uint64 `json:"version"`
	}
	err := s.call(ctx, http.MethodPost, "/v1/rings/sso/rollover", map[string]any{"request": ulid.Make().String(), "reason": "bench"}, &rolled)
	if err == nil {
		s.version = rolled.Version
	}
	return err
}

// connected is how many agents the server says are connected.
func (s *policyServer) connected(ctx context.Context) (int, error) {
	var status struct {
		Servers []struct {
			Agents int `json:"agents"`
		} `json:"servers"`
	}
	err := s.call(ctx, http.MethodGet, "/v1/status", nil, &status)
	if err == nil && len(status.Servers) != 1 {
		err = fmt.Errorf("status: %d servers", len(status.Servers))
	}
	if err != nil {
		return 0, err
	}
	return status.Servers[0].Agents, nil
}

// call makes a call of the admin API.
func (s *policyServer) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, "https://"+s.adminAddr+path, body)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+s.token)
	request.Header.Set("Content-Type", "application/json")
	response, err := s.admin.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return errors.Join(fmt.Errorf("%s: %s %s", path, response.Status, answer), err)
	}
	return json.Unmarshal(answer, out)
}
