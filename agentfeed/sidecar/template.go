package sidecar

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"text/template"
	"text/template/parse"
	"time"

	"github.com/keytide/keytide/agentfeed/sidecar/strictyaml"
	"github.com/keytide/keytide/keystore"
)

// What templates see of a ring and of a key.
type (
	ringView struct {
		Name    string
		Epoch   keystore.Epoch
		Version keystore.Version
		Mode    keystore.Mode
	}
	keyView struct {
		KID     keystore.KID
		Role    keystore.Role
		Created time.Time
		Pending bool
		Seals   bool

		ring     keystore.RingName
		material keystore.Material
	}

	// derivedBytes are bytes derived from a key.
	derivedBytes []byte
)

// guard is a function that is appended to each pipeline whose value a template
// prints: keys cannot be printed by mistake.
const guard = "_print"

var errBytes = errors.New("a key is not text: write b64, b64url, hex or raw before it")

// maxDerived is the most bytes that HKDF-SHA256 gives (RFC 5869, section 2.3).
const maxDerived = 255 * 32

// parseTemplate reads a template. Its errors, and those of its renderer, name file
// and line, and never show what a value was.
func parseTemplate(path string) (renderer, error) {
	text, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	if len(text) > strictyaml.MaxSize {
		return nil, fmt.Errorf("%s has more than %d bytes", path, strictyaml.MaxSize)
	}
	t, err := template.New(path).Option("missingkey=error").Funcs(functions(source{})).Parse(string(text))
	if err != nil {
		return nil, err
	}
	for _, part := range t.Templates() {
		if part.Tree != nil {
			guardPrints(part.Tree, part.Tree.Root)
		}
	}
	return func(w *bytes.Buffer, _ *File, s source) error {
		now, err := t.Clone()
		if err != nil {
			return err
		}
		return now.Funcs(functions(s)).Execute(io.Writer(w), map[string]any{
			"State": s.status.State, "Server": s.status.Server, "Rings": ringViews(s.sets),
		})
	}, nil
}

// guardPrints appends the guard to all pipelines below n whose value is printed.
func guardPrints(tree *parse.Tree, n parse.Node) {
	branch := func(b *parse.BranchNode) {
		guardPrints(tree, b.List)
		if b.ElseList != nil {
			guardPrints(tree, b.ElseList)
		}
	}
	switch n := n.(type) {
	case *parse.ListNode:
		for _, node := range n.Nodes {
			guardPrints(tree, node)
		}
	case *parse.ActionNode:
		if len(n.Pipe.Decl) == 0 {
			name := parse.NewIdentifier(guard).SetTree(tree).SetPos(n.Pos)
			n.Pipe.Cmds = append(n.Pipe.Cmds, &parse.CommandNode{NodeType: parse.NodeCommand, Pos: n.Pos, Args: []parse.Node{name}})
		}
	case *parse.IfNode:
		branch(&n.BranchNode)
	case *parse.RangeNode:
		branch(&n.BranchNode)
	case *parse.WithNode:
		branch(&n.BranchNode)
	}
}

// functions are what templates can call, on what s holds.
func functions(s source) template.FuncMap {
	return template.FuncMap{
		"ring": func(name string) (ringView, error) {
			set, err := s.ring(keystore.RingName(name))
			if err != nil {
				return ringView{}, err
			}
			return viewOf(set), nil
		},
		"keys":    func(name string) ([]keyView, error) { return s.keys(name, 0) },
		"old":     func(name string) ([]keyView, error) { return s.keys(name, keystore.Old) },
		"current": func(name string) (keyView, error) { return s.key(name, keystore.Current) },
		"future":  func(name string) (keyView, error) { return s.key(name, keystore.Future) },
		"static":  func(name string) (keyView, error) { return s.key(name, keystore.Static) },
		"hkdf":    deriveFor,
		"raw":     encoder(func(b []byte) string { return string(b) }),
		"hex":     encoder(hex.EncodeToString),
		"b64":     encoder(base64.StdEncoding.EncodeToString),
		"b64url":  encoder(base64.RawURLEncoding.EncodeToString),
		guard: func(v any) (any, error) {
			switch v.(type) {
			case keyView, []keyView, derivedBytes:
				return nil, errBytes
			}
			return v, nil
		},
	}
}

func ringViews(sets []*keystore.KeySet) []ringView {
	views := make([]ringView, 0, len(sets))
	for _, set := range sets {
		views = append(views, viewOf(set))
	}
	return views
}

func viewOf(set *keystore.KeySet) ringView {
	return ringView{string(set.Ring), set.Epoch, set.Version, set.Mode}
}

// keys gives a ring's keys with this role; with 0 all, the sealing key first.
func (s source) keys(name string, role keystore.Role) ([]keyView, error) {
	set, err := s.ring(keystore.RingName(name))
	if err != nil {
		return nil, err
	}
	var views []keyView
	for _, k := range set.Keys {
		if role == 0 || k.Role == role {
			views = append(views, keyView{k.KID, k.Role, k.Created, k.Pending, k.Seals, set.Ring, k.Material})
		}
	}
	return views, nil
}

func (s source) key(name string, role keystore.Role) (keyView, error) {
	views, err := s.keys(name, role)
	if err != nil {
		return keyView{}, err
	}
	if len(views) == 0 {
		return keyView{}, fmt.Errorf("the ring has no %s key", role)
	}
	return views[0], nil
}

// deriveFor derives size bytes from a key. The info keeps what different templates
// derive apart, from one another and from all that the agent derives itself.
func deriveFor(info string, size int, key keyView) (derivedBytes, error) {
	if size < 1 || size > maxDerived {
		return nil, fmt.Errorf("%d bytes: want 1 to %d", size, maxDerived)
	}
	return derive(key.material, "template|"+string(key.ring)+"|"+info, size)
}

// encoder makes a template's function of an encoding. It takes a key, derived bytes
// or text.
func encoder(encode func([]byte) string) func(any) (string, error) {
	return func(v any) (text string, err error) {
		switch v := v.(type) {
		case keyView:
			err = v.material.Use(func(secret []byte) error { text = encode(secret); return nil })
		case derivedBytes:
			text = encode(v)
		case string:
			text = encode([]byte(v))
		default:
			err = errors.New("want a key, derived bytes or text")
		}
		return text, err
	}
}
