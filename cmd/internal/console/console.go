package console

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"log/slog"
	"net/http"
	"time"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// A Reader is what the page shows: a part of the admin API's service. It is safe
// for concurrent use and never waits for the network.
type Reader interface {
	Status(ctx context.Context) (adminapi.Status, error)
	Rings(ctx context.Context) (adminapi.Rings, error)
	Preview(ctx context.Context, name keystore.RingName, req adminapi.Rollover) (adminapi.Preview, error)
	Reach(ctx context.Context, name keystore.RingName, n keystore.N) (adminapi.Reach, error)
	History(ctx context.Context, name keystore.RingName, span adminhttp.Span) (adminapi.History, error)
}

// Config is what the console needs. All fields must be set.
type Config struct {
	Reader   Reader
	Tokens   adminhttp.Tokens    // what a browser may sign in with
	Refusals *adminhttp.Refusals // where wrong tokens are counted
	Server   string              // the id of the policy server that answers
	Logger   *slog.Logger        // audits who signs in and who is refused
}

// maxForm bounds a form, in bytes. readLimit bounds the reading of a page's data:
// the first look at a long history takes a while.
const (
	maxForm   = 4 << 10
	readLimit = 30 * time.Second
)

//go:embed assets templates
var files embed.FS

// policy allows this server's own script, style sheet and icon, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

type console struct {
	Config
	templates *template.Template
	build     string // of the assets, in their addresses
	sessions  sessions
	limiter   limiter
	archive   archive
}

// Mount puts the console on mux: the page at / alone, and what belongs to it below
// /console/.
func Mount(mux *http.ServeMux, cfg Config) {
	c := &console{Config: cfg, templates: template.Must(template.ParseFS(files, "templates/*.html")), archive: newArchive()}
	hash := sha256.New()
	own := http.NewServeMux()
	own.HandleFunc("GET /{$}", c.page)
	own.HandleFunc("GET /console/live", c.live)
	own.HandleFunc("POST /console/sign-in", c.signIn)
	own.HandleFunc("POST /console/sign-out", c.signOut)
	for name, kind := range map[string]string{
		"console.css": "text/css; charset=utf-8", "console.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml",
	} {
		content, err := files.ReadFile("assets/" + name)
		if err != nil {
			panic(err) // the program was built without its files
		}
		own.HandleFunc("GET /console/"+name, asset(content, kind))
	}
	for _, name := range []string{"console.css", "console.js", "icon.svg"} {
		content, _ := files.ReadFile("assets/" + name)
		hash.Write(content)
	}
	c.build = hex.EncodeToString(hash.Sum(nil)[:8])
	handler := guarded(http.NewCrossOriginProtection().Handler(own))
	mux.Handle("/{$}", handler)
	mux.Handle("/console/", handler)
}

// asset answers with a file whose address changes when it does.
func asset(content []byte, kind string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		w.Write(content)
	}
}

// guarded sets what every answer carries.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// write answers with a template. The page is made whole before its first byte is
// sent, so that what fails is not shown by half.
func (c *console) write(w http.ResponseWriter, status int, name string, data any) {
	page, err := render(c.templates, name, data)
	if err != nil {
		c.Logger.Error("the console's page was not made", "err", err)
		http.Error(w, "the console's page was not made; the server's log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	w.Write(page)
}
