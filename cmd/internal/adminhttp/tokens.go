package adminhttp

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"

	"github.com/keytide/keytide/keystore"
)

// tokenPrefix marks an admin token, so that searches for leaked secrets find it.
const tokenPrefix = "keytide_admin_"

// NewToken makes an admin token: 32 random bytes in base64url behind a prefix.
func NewToken() string {
	var secret [32]byte
	rand.Read(secret[:])
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(secret[:])
}

// Tokens are the admin tokens that a server accepts, by their SHA-256 alone. The
// tokens are random, so no slower hash is needed.
type Tokens struct{ entries []tokenEntry }

type tokenEntry struct {
	name string // the actor in the history
	hash [sha256.Size]byte
}

// TokenLine returns the line of a token file for one token: "NAME sha256:HEX".
func TokenLine(name, token string) string {
	hash := sha256.Sum256([]byte(token))
	return name + " sha256:" + hex.EncodeToString(hash[:]) + "\n"
}

// ParseTokens reads a token file: one TokenLine a line, empty lines and lines
// beginning with # aside. It reports every fault, by line.
func ParseTokens(file []byte) (Tokens, error) {
	var tokens Tokens
	var faults []string
	lines := bufio.NewScanner(bytes.NewReader(file))
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		entry, err := parseTokenLine(line)
		if err != nil {
			faults = append(faults, fmt.Sprintf("line %d: %v", number, err))
			continue
		}
		tokens.entries = append(tokens.entries, entry)
	}
	if err := lines.Err(); err != nil {
		faults = append(faults, err.Error())
	}
	if len(faults) == 0 && len(tokens.entries) == 0 {
		faults = append(faults, "holds no token")
	}
	if len(faults) > 0 {
		return Tokens{}, fmt.Errorf("%w: %s", keystore.ErrInvalid, strings.Join(faults, "; "))
	}
	return tokens, nil
}

// parseTokenLine never shows the line: it could hold a token by mistake.
func parseTokenLine(line string) (tokenEntry, error) {
	name, digits, ok := strings.Cut(line, " sha256:")
	if !ok {
		return tokenEntry{}, fmt.Errorf("want NAME sha256:HEX, the hash of a token and not the token")
	}
	if err := keystore.CheckName(name); err != nil {
		return tokenEntry{}, fmt.Errorf("the name %w", err)
	}
	hash, err := hex.DecodeString(digits)
	if err != nil || len(hash) != sha256.Size {
		return tokenEntry{}, fmt.Errorf("token %s: want 64 hexadecimal digits", name)
	}
	return tokenEntry{name: name, hash: [sha256.Size]byte(hash)}, nil
}

// Actor returns whose token it is. It looks at every entry in constant time.
func (t Tokens) Actor(token string) (string, bool) {
	hash := sha256.Sum256([]byte(token))
	found := -1
	for i := range t.entries {
		if subtle.ConstantTimeCompare(hash[:], t.entries[i].hash[:]) == 1 {
			found = i
		}
	}
	if found < 0 {
		return "", false
	}
	return t.entries[found].name, true
}

type actorKey struct{}

func actorOf(ctx context.Context) string {
	actor, _ := ctx.Value(actorKey{}).(string)
	return actor
}

// authenticated lets requests below /v1/ pass with a token alone, and puts the
// token's name into their context.
func (a *api) authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if !strings.HasPrefix(r.URL.Path, "/v1/") {
			next.ServeHTTP(w, r)
			return
		}
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if r.URL.Path == joinPath && ok && token != "" {
			// The invitation's: the service knows it, by its hash in the ledger.
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), invitationKey{}, token)))
			return
		}
		actor, known := a.Tokens.Actor(token)
		if !ok || !known {
			a.Refusals.Note(a.Logger, r, refusal(token, ok))
			w.Header().Set("WWW-Authenticate", `Bearer realm="keytide"`)
			writeProblem(w, explain(r.Context(), a.Logger, unauthorized(ok)).Problem)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), actorKey{}, actor)))
	})
}

func refusal(token string, ok bool) Refusal {
	if !ok || token == "" {
		return NoToken
	}
	return UnknownToken
}

func unauthorized(hadToken bool) error {
	if hadToken {
		return fmt.Errorf("%w: this server does not know the token", ErrUnauthorized)
	}
	return fmt.Errorf("%w: the request carries no bearer token", ErrUnauthorized)
}
