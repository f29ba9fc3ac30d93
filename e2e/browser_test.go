package e2e

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// A browser is one tab of a real Chromium that trusts one site's certificate.
type browser struct {
	tb  testing.TB
	ctx context.Context

	mu     sync.Mutex // guards the field below
	faults []string   // errors and warnings of its console, violated policies included
}

func startBrowser(tb testing.TB, s *site) *browser {
	tb.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(tool(tb, "chromium")), chromedp.UserDataDir(tb.TempDir()),
		chromedp.Flag("ignore-certificate-errors-spki-list", publicKeyHash(tb, filepath.Join(s.dir, "tls", "server.pem"))),
	)
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox) // which Chromium wants of root
	}
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	tb.Cleanup(stop)
	ctx, _ := chromedp.NewContext(allocator)
	tb.Cleanup(func() { chromedp.Cancel(ctx) })
	b := &browser{tb: tb, ctx: ctx}
	if err := chromedp.Do(ctx); err != nil {
		tb.Fatalf("starting chromium: %v", err)
	}
	if err := chromedp.Listen(ctx, b.note); err != nil {
		tb.Fatal(err)
	}
	call(b, runtime.Enable, cdp.Empty{})
	call(b, cdplog.Enable, cdp.Empty{})
	return b
}

// publicKeyHash is a certificate's key as Chromium's list of exceptions wants it.
func publicKeyHash(tb testing.TB, file string) string {
	tb.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		tb.Fatalf("%s holds no certificate", file)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		tb.Fatal(err)
	}
	hash := sha256.Sum256(certificate.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(hash[:])
}

func (b *browser) note(event any) {
	fault := ""
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		fault = fmt.Sprintf("exception: %s", e.ExceptionDetails.Text)
	case *runtime.EventConsoleAPICalled:
		if e.Type == "error" || e.Type == "warning" || e.Type == "assert" {
			fault = fmt.Sprintf("console.%s", e.Type)
		}
	case *cdplog.EventEntryAdded:
		if e.Entry.Level == "error" || e.Entry.Level == "warning" {
			fault = fmt.Sprintf("%s: %s (%s)", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	}
	if fault == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = append(b.faults, fault)
}

// complaints returns what the browser's console has complained of so far.
func (b *browser) complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string{}, b.faults...)
}

// do runs actions, each within the test's patience.
func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.tb.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.tb.Fatal(err)
	}
}

// eval evaluates an expression in the page.
func eval[T any](b *browser, expression string) T {
	b.tb.Helper()
	v, err := try[T](b, expression)
	if err != nil {
		b.tb.Fatalf("%s: %v", expression, err)
	}
	return v
}

// try is eval while the page may be on its way to another.
func try[T any](b *browser, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](expression))
}

// until waits until an expression is true in the page.
func (b *browser) until(expression string) {
	b.tb.Helper()
	eventually(b.tb, expression, func() error {
		if is, err := try[bool](b, "Boolean("+expression+")"); is || err != nil {
			return err
		}
		words, err := try[string](b, `document.body?.innerText ?? ""`)
		return fmt.Errorf("the page says %q (%v)", words, err)
	})
}

// look gives the page a width and a colour scheme.
func (b *browser) look(width int64, scheme string) {
	b.tb.Helper()
	b.do(chromedp.EmulateViewport(width, 900))
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
}

// picture writes the whole page to a file.
func (b *browser) picture(file string) {
	b.tb.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(file, png, 0o644)
	}
	if err != nil {
		b.tb.Fatal(err)
	}
}

// call sends a command of the browser's protocol.
func call[P, R any](b *browser, command cdp.Command[P, R], params P) R {
	b.tb.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	r, err := chromedp.Call(ctx, command, params)
	if err != nil {
		b.tb.Fatalf("%s: %v", command.Method, err)
	}
	return r
}
