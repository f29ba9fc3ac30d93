package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// bareArg makes this program the bare server instead of the bench.
const bareArg = "bare-server"

// bareSize is what a bare server sends: as many bytes as the event of a rollover of a
// ring with four keys.
const bareSize = 1200

// serveBare is the bare operation beside a policy server: it completes handshakes of
// TLS, keeps connections, and writes as many bytes to each as a rollover does, at each
// line that it reads.
func serveBare(in io.Reader, out io.Writer) error {
	cert, ca, err := bareCertificate()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	debug.SetGCPercent(40) // as a policy server does
	s := &bareServer{config: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}}
	go s.accept(listener)
	fmt.Fprintf(out, "%s", ca)
	fmt.Fprintf(out, "bare ready %s\n", listener.Addr())
	for lines := bufio.NewScanner(in); lines.Scan(); {
		s.send()
	}
	return nil
}

type bareServer struct {
	config *tls.Config

	mu    sync.Mutex // guards conns
	conns []*tls.Conn
}

func (s *bareServer) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			secure := tls.Server(conn, s.config)
			if _, err := secure.Write(make([]byte, bareSize)); err != nil { // the handshake comes first
				conn.Close()
				return
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.conns = append(s.conns, secure)
		}()
	}
}

func (s *bareServer) send() {
	s.mu.Lock()
	conns := s.conns
	s.mu.Unlock()
	message := make([]byte, bareSize)
	var next atomic.Int64
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for i := next.Add(1); i <= int64(len(conns)); i = next.Add(1) {
				conns[i-1].Write(message)
			}
		})
	}
	workers.Wait()
}

func bareCertificate() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bare"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
}

// A bare is a bare server in a process of its own.
type bare struct {
	*child
	address, ca string
}

func startBare(ctx context.Context) (*bare, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c, _, err := startChild(ctx, "-----BEGIN", program, bareArg)
	if err != nil {
		return nil, err
	}
	b := &bare{child: c, ca: c.lines.Text() + "\n"}
	for c.lines.Scan() {
		if _, err := fmt.Sscanf(c.lines.Text(), "bare ready %s", &b.address); err == nil {
			return b, nil
		}
		b.ca += c.lines.Text() + "\n"
	}
	c.kill()
	return nil, fmt.Errorf("the bare server ended: %s", c.stderr.String())
}

func (b *bare) fleet() (*fleet, error) {
	config, err := trusting(b.ca)
	return &fleet{address: b.address, tls: config, size: bareSize}, err
}

func (b *bare) send() error {
	_, err := io.WriteString(b.stdin, "send\n")
	return err
}
