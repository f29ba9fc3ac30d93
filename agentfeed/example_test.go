package agentfeed_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/feedtest"
)

// An exampleTB lets an example, which has no testing.T, run a feedtest.Server.
type exampleTB struct {
	testing.TB
	cleanups []func()
}

func (tb *exampleTB) Helper()                           {}
func (tb *exampleTB) Cleanup(f func())                  { tb.cleanups = append(tb.cleanups, f) }
func (tb *exampleTB) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }
func (tb *exampleTB) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func (tb *exampleTB) TempDir() string {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// exampleFeed stands for a policy server with the ring sso.
func exampleFeed() (feed *feedtest.Server, stop func()) {
	tb := new(exampleTB)
	feed = feedtest.NewServer(tb, "sso")
	return feed, func() {
		for i := len(tb.cleanups) - 1; i >= 0; i-- {
			tb.cleanups[i]()
		}
	}
}

// must ends the example: a program would return the error.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// An application makes a client of the host file that `keytide host register` wrote,
// waits for its first keys once, and afterwards asks for a snapshot whenever it needs
// keys: that costs nothing and always answers.
func Example() {
	feed, stop := exampleFeed()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	client, err := agentfeed.New(agentfeed.Config{HostFile: feed.WriteHostFile("web-1")})
	must(err)
	defer client.Close()
	must(client.WaitReady(ctx))

	keys := client.Ring("sso").Snapshot() // hold it for one request
	sealing, _ := keys.Sealing()
	fmt.Printf("ring %s, version %d: sealing with the %s key\n", keys.Ring, keys.Version, sealing.Role)
	for _, k := range keys.Keys {
		fmt.Println("opens:", k.Role, k.Material) // key bytes are never printed
	}
	fmt.Println("state:", client.Status().State)
	// Output:
	// ring sso, version 1: sealing with the current key
	// opens: current [key material]
	// opens: future [key material]
	// opens: static [key material]
	// state: fresh
}

// Updates is for what must act when a ring rolls over, such as to write a file.
func ExampleRing_Updates() {
	feed, stop := exampleFeed()
	defer stop()
	client, err := agentfeed.New(feed.Config())
	must(err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	must(client.WaitReady(ctx))

	for keys := range client.Ring("sso").Updates(ctx) {
		fmt.Println("version", keys.Version)
		if keys.Version == 3 {
			break
		}
		feed.Rollover("sso")
	}
	// Output:
	// version 1
	// version 2
	// version 3
}

// Two instances share their session tickets: a browser that has talked to one resumes
// at the other.
func ExampleTLSListener() {
	feed, stop := exampleFeed()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	certificate, roots := ticketCertificate(new(exampleTB)) // the same at all instances

	var urls []string
	for range 2 {
		client, err := agentfeed.New(feed.Config())
		must(err)
		defer client.Close()
		must(client.WaitReady(ctx))

		listener, err := net.Listen("tcp", "127.0.0.1:0")
		must(err)
		server := &http.Server{Handler: http.NotFoundHandler()}
		defer server.Close()
		go server.Serve(agentfeed.TLSListener(listener, &tls.Config{
			Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2", "http/1.1"},
		}, client.Ring("sso")))
		urls = append(urls, "https://"+listener.Addr().String())
	}

	browser := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
		RootCAs: roots, ServerName: "127.0.0.1", ClientSessionCache: tls.NewLRUClientSessionCache(1)}}}
	for _, url := range urls {
		resp, err := browser.Get(url)
		must(err)
		_, err = io.Copy(io.Discard, resp.Body)
		must(err)
		must(resp.Body.Close())
		fmt.Println("resumed:", resp.TLS.DidResume)
	}
	// Output:
	// resumed: false
	// resumed: true
}
