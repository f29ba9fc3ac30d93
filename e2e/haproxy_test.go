package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// startHAProxy puts a real HAProxy before the site, which ends TLS with a certificate of
// its own and cuts what is idle for 30 s, as its own examples have it.
func startHAProxy(tb testing.TB, s *site, feedCA string) *front {
	tb.Helper()
	dir, address := tb.TempDir(), freeAddress(tb)
	h := &front{url: "https://" + address, address: address}
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "cert.key")
	h.ca = writeCertificate(tb, cert, key)
	private, err := os.ReadFile(key)
	if err != nil {
		tb.Fatal(err)
	}
	write(tb, filepath.Join(dir, "front.pem"), string(h.ca)+string(private))
	write(tb, filepath.Join(dir, "feed-ca.pem"), feedCA)
	config := filepath.Join(dir, "haproxy.cfg")
	write(tb, config, fmt.Sprintf(`defaults
	mode http
	timeout connect 5s
	timeout client 30s
	timeout server 30s
frontend front
	bind %[2]s ssl crt %[1]s/front.pem ssl-min-ver TLSv1.3
	default_backend feed
backend feed
	server feed %[3]s ssl verify required ca-file %[1]s/feed-ca.pem verifyhost localhost sni str(localhost) ssl-min-ver TLSv1.3
`, dir, address, s.feed))
	start(tb, s.output, "", tool(tb, "haproxy"), "-db", "-f", config)
	awaitListener(tb, address)
	return h
}

func awaitListener(tb testing.TB, address string) {
	tb.Helper()
	eventually(tb, "something listens at "+address, func() error {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// A connectProxy is an HTTP proxy that knows CONNECT alone, and one host by its name.
type connectProxy struct {
	url     string
	tunnels atomic.Int64 // opened so far
}

// startConnectProxy takes all connections to the host to address.
func startConnectProxy(tb testing.TB, host, address string) *connectProxy {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { listener.Close() })
	p := &connectProxy{url: "http://" + listener.Addr().String()}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go p.tunnel(conn, host, address)
		}
	}()
	return p
}

func (p *connectProxy) tunnel(conn net.Conn, host, address string) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	r, err := http.ReadRequest(in)
	if err != nil || r.Method != http.MethodConnect || !strings.HasPrefix(r.Host, host+":") {
		io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
		return
	}
	far, err := net.Dial("tcp", address)
	if err != nil {
		io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return
	}
	defer far.Close()
	p.tunnels.Add(1)
	io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	go func() {
		io.Copy(far, in)
		far.Close()
	}()
	io.Copy(conn, far)
}
