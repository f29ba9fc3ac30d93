package main

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// A hostFile is what an agent needs to know, as agentfeed/SPEC.md, section 8, has it.
// The load generator is written from that page alone: thousands of agents of the SDK
// in one process would measure the SDK.
type hostFile struct {
	Servers []string `yaml:"servers"`
	CA      string   `yaml:"ca"`
	Host    string   `yaml:"host"`
	KID     string   `yaml:"kid"`
	Secret  string   `yaml:"secret"`

	secret  []byte
	authKey []byte
}

func readHostFile(path string) (*hostFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	h := new(hostFile)
	if err := yaml.Unmarshal(data, h); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if h.secret, err = base64.RawURLEncoding.DecodeString(h.Secret); err != nil {
		return nil, fmt.Errorf("%s: secret: not base64url", path)
	}
	h.authKey, err = hkdf.Key(sha256.New, h.secret, nil, "keytide/v1 auth|"+h.Host, 32)
	return h, err
}

// request is the bytes of a request for a stream, and the nonce in it.
func (h *hostFile) request() ([]byte, []byte) {
	nonce := make([]byte, 16)
	rand.Read(nonce)
	text, ts := base64.RawURLEncoding.EncodeToString(nonce), fmt.Sprint(time.Now().Unix())
	mac := hmac.New(sha256.New, h.authKey)
	io.WriteString(mac, strings.Join([]string{"KEYTIDE1", "GET", "/v1/feed", h.Host, h.KID, ts, text}, "\n"))
	return fmt.Appendf(nil, "GET /v1/feed HTTP/1.1\r\nHost: feed\r\nAccept: text/event-stream\r\n"+
		"Authorization: KEYTIDE1-HMAC-SHA256 host=\"%s\", kid=\"%s\", ts=\"%s\", nonce=\"%s\", mac=\"%s\"\r\n\r\n",
		h.Host, h.KID, ts, text, base64.RawURLEncoding.EncodeToString(mac.Sum(nil))), nonce
}

// A feed is an open stream. It checks what an agent has to check of each event.
type feed struct {
	conn    *tls.Conn
	host    *hostFile
	nonce   []byte
	lines   *bufio.Reader
	aead    cipher.AEAD
	n       uint64
	version uint64 // of the ring
}

// dialFeed opens a stream over a connection that is open, and reads until the agent
// has its ring.
func dialFeed(conn *tls.Conn, h *hostFile) (*feed, error) {
	request, nonce := h.request()
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(conn, 1024)
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 300))
		return nil, fmt.Errorf("%s: %s", response.Status, body)
	}
	f := &feed{conn: conn, host: h, nonce: nonce, lines: bufio.NewReaderSize(response.Body, 1024)}
	for f.version == 0 {
		if err := f.next(); err != nil {
			return nil, err
		}
	}
	return f, nil
}

var errBye = errors.New("the server ends the stream")

// next reads one event, opens it and checks it.
func (f *feed) next() error {
	var name string
	var data []byte
	for {
		line, err := f.line()
		if err != nil {
			return err
		}
		if len(line) == 0 {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("event: ")); ok {
			name = string(value)
		} else if value, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
			data = bytes.Clone(value)
		}
	}
	switch name {
	case "hello":
		return f.hello(data)
	case "ring", "hb":
		return f.sealed(name, data)
	case "bye", "problem":
		return fmt.Errorf("%w: %s", errBye, data)
	}
	return nil
}

func (f *feed) line() ([]byte, error) {
	var whole []byte
	for {
		part, err := f.lines.ReadSlice('\n')
		if err == nil && whole == nil {
			return bytes.TrimSuffix(part, []byte("\n")), nil
		}
		whole = append(whole, part...)
		if err == nil {
			return bytes.TrimSuffix(whole, []byte("\n")), nil
		}
		if err != bufio.ErrBufferFull {
			return nil, err
		}
	}
}

func (f *feed) hello(data []byte) error {
	var hello struct {
		SN string `json:"sn"`
	}
	if err := json.Unmarshal(data, &hello); err != nil {
		return err
	}
	server, err := base64.RawURLEncoding.DecodeString(hello.SN)
	if err != nil {
		return err
	}
	key, err := hkdf.Key(sha256.New, f.host.secret, append(f.nonce, server...), "keytide/v1 seal|"+f.host.Host, 32)
	if err != nil {
		return err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	f.aead, err = cipher.NewGCM(block)
	return err
}

// A ringState is the part of a state that the agent checks.
type ringState struct {
	V     string `json:"v"`
	Rings []struct {
		Name    string `json:"name"`
		Version uint64 `json:"version"`
		Keys    []struct {
			KID   string `json:"kid"`
			Seals bool   `json:"seals"`
			K     string `json:"k"`
		} `json:"keys"`
	} `json:"rings"`
}

func (f *feed) sealed(name string, data []byte) error {
	var e struct {
		V  string `json:"v"`
		N  uint64 `json:"n"`
		CT string `json:"ct"`
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return err
	}
	ct, err := base64.RawURLEncoding.DecodeString(e.CT)
	if f.n++; err != nil || e.N != f.n || f.aead == nil || len(ct) < 12 {
		return fmt.Errorf("%s %d is not message %d: %v", name, e.N, f.n, err)
	}
	plain, err := f.aead.Open(nil, ct[:12], ct[12:], fmt.Appendf(nil, "keytide/v1|%s|%s|%s|%d", name, f.host.Host, e.V, e.N))
	if err != nil || name == "hb" {
		return err
	}
	var state ringState
	if err := json.Unmarshal(plain, &state); err != nil {
		return err
	}
	if state.V != e.V || len(state.Rings) != 1 || state.Rings[0].Version < f.version {
		return fmt.Errorf("a state at %s with %d rings after version %d", state.V, len(state.Rings), f.version)
	}
	sealing := 0
	for _, k := range state.Rings[0].Keys {
		raw, err := base64.RawURLEncoding.DecodeString(k.K)
		if err != nil {
			return err
		}
		kid, err := hkdf.Expand(sha256.New, raw, "kt1 kid", 8)
		if err != nil || hex.EncodeToString(kid) != k.KID {
			return fmt.Errorf("key %s has another key's bytes", k.KID)
		}
		if k.Seals {
			sealing++
		}
	}
	if sealing != 1 {
		return fmt.Errorf("%d keys seal", sealing)
	}
	f.version = state.Rings[0].Version
	return nil
}
