package adminhttp

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// maxBody bounds a request's body, in bytes. The largest request there is, a
// host with some thousand rings, stays below it.
const maxBody = 64 << 10

// A request is given up after this time. A change whose event may have been sent
// by then is answered as unknown, and the same request finds it later.
const (
	readLimit   = 110 * time.Second // reading the whole log
	changeLimit = 20 * time.Second
)

// Config is what the handler needs. All fields must be set.
type Config struct {
	Service  Service
	Tokens   Tokens
	Refusals *Refusals // where requests without a good token are counted
	Version  string    // of the program, for the OpenAPI page
	Logger   *slog.Logger
}

// New returns the admin API's handler: /v1/… behind a bearer token, and the
// OpenAPI 3.1 description at /openapi.json. Everything else is a problem 404.
func New(cfg Config) http.Handler {
	mux := http.NewServeMux()
	conf := huma.DefaultConfig("Keytide admin API", cfg.Version)
	conf.DocsPath, conf.SchemasPath, conf.CreateHooks = "", "", nil
	conf.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	conf.NoFormatFallback = false
	conf.RejectUnknownQueryParameters = true
	conf.Transformers = []huma.Transformer{humaProblem}
	conf.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer"}}
	conf.Security = []map[string][]string{{"token": {}}}
	a := &api{Config: cfg, huma: humago.New(mux, conf)}
	a.rings()
	a.hosts()
	a.host()
	a.hostTokens()
	a.servers()
	a.hostSecrets()
	a.audit()
	a.doctor()
	a.published()
	a.rekeys()
	a.streams(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, adminapi.Problem{
			Type: adminapi.ProblemPrefix + "not-found", Title: "Not found", Status: http.StatusNotFound,
			Detail: "no such resource: " + r.Method + " " + r.URL.Path,
			Hint:   "the admin API is described at /openapi.json",
		})
	})
	return http.MaxBytesHandler(a.authenticated(mux), maxBody)
}

// schemaName keeps what a doctor sees apart from what the API calls by the same name.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if strings.HasSuffix(t.PkgPath(), "/keystore/doctor") {
		return "Doctor" + name
	}
	return name
}

type api struct {
	Config
	huma huma.API
}

// register adds one operation whose errors go through the problem table.
func register[I, O any](a *api, op huma.Operation, handle func(context.Context, *I) (O, error)) {
	type output struct{ Body O }
	op.MaxBodyBytes = maxBody
	limit := changeLimit
	if op.Method == http.MethodGet {
		limit = readLimit
	}
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*output, error) {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		body, err := handle(ctx, in)
		if err != nil {
			return nil, explain(ctx, a.Logger, err)
		}
		return &output{Body: body}, nil
	})
}

func operation(method, path, id, summary string) huma.Operation {
	return huma.Operation{Method: method, Path: path, OperationID: id, Summary: summary}
}

type none struct{}

// RingPath is the part of an operation's input that names the ring. It is exported
// because huma reads exported fields alone.
type RingPath struct {
	Ring string `path:"ring" doc:"the ring's name"`
}

func (p RingPath) name() (keystore.RingName, error) { return keystore.ParseRingName(p.Ring) }

// writeProblem answers with a problem outside of huma's operations.
func writeProblem(w http.ResponseWriter, p adminapi.Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p)
}
