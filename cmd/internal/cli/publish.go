package cli

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/secretfile"
)

// A keyKind is what keytide static and keytide ticket are about.
type keyKind struct {
	word, role, name string
}

var (
	staticKey = keyKind{"static", "static", "static key"}
	ticketKey = keyKind{"ticket", "session_ticket", "session ticket key"}
)

func (a *app) keyCommand(kind keyKind) *cobra.Command {
	cmd := &cobra.Command{Use: kind.word, Short: "Make or enter a ring's " + kind.name}
	cmd.AddCommand(a.keyGenerate(kind), a.keySet(kind))
	return cmd
}

func (a *app) keyGenerate(kind keyKind) *cobra.Command {
	cmd := &cobra.Command{Use: "generate NAME", Short: "Make a new " + kind.name, Args: oneName}
	p := a.newPublish(cmd, kind)
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, args []string) error {
		return p.run(ctx, client, args[0], "")
	})
	return cmd
}

func (a *app) keySet(kind keyKind) *cobra.Command {
	cmd := &cobra.Command{Use: "set NAME", Short: "Enter a " + kind.name + " of 32 bytes", Args: oneName}
	p := a.newPublish(cmd, kind)
	file := cmd.Flags().String("key-file", "-", "the `FILE` with the key in base64 or hexadecimal; \"-\": standard input")
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, args []string) error {
		key, err := a.enteredKey(*file)
		if err != nil {
			return err
		}
		return p.run(ctx, client, args[0], key)
	})
	return cmd
}

// A publish is one run of a command that publishes a key.
type publish struct {
	*app
	kind    keyKind
	cmd     *cobra.Command
	out     *output
	change  *change
	overlap overlapFlag
}

func (a *app) newPublish(cmd *cobra.Command, kind keyKind) *publish {
	return &publish{app: a, kind: kind, cmd: cmd, out: outputFlag(cmd), change: changeFlags(cmd), overlap: overlapFlags(cmd)}
}

func (p *publish) run(ctx context.Context, client *adminhttp.Client, name string, key adminapi.Secret) error {
	if err := p.overlap.confirm(p.app, p.change, name); err != nil {
		return err
	}
	done, err := client.PublishKey(ctx, name, adminapi.PublishKey{
		Intent: p.change.intent(), Role: p.kind.role, K: key, Overlap: p.overlap.given(), Force: *p.overlap.force,
	})
	if err != nil {
		return err
	}
	return p.out.print(p.Stdout, done, func(w io.Writer) {
		printEvent(w, done.N, done.ID)
		fmt.Fprintf(w, "key %s is published: it opens now, and seals once every policy\nserver has confirmed it\n\n", done.KID)
		printRing(w, done.Ring)
	})
}

// overlapFlag is --overlap and the --force that goes with it.
type overlapFlag struct {
	cmd   *cobra.Command
	text  *string
	force *bool
}

func overlapFlags(cmd *cobra.Command) overlapFlag {
	f := overlapFlag{cmd: cmd}
	f.text = cmd.Flags().String("overlap", "", "for how long what it takes the place of still opens (`DURATION`)")
	f.force = cmd.Flags().Bool("force", false, "take an overlap that may log users out")
	return f
}

func (f overlapFlag) given() *string {
	if !f.cmd.Flags().Changed("overlap") {
		return nil
	}
	return f.text
}

func (f overlapFlag) confirm(a *app, c *change, name string) error {
	if !*f.force {
		return nil
	}
	return c.confirm(a, name, "A forced overlap may end sessions and tickets before their time.")
}

const maxEntered = 4096

// enteredKey reads a key that somebody has made elsewhere. Its quality is looked at
// here as well as by the server: what is refused is not even sent.
func (a *app) enteredKey(path string) (adminapi.Secret, error) {
	var content []byte
	var err error
	if path == "-" {
		content, err = io.ReadAll(io.LimitReader(a.Stdin, maxEntered))
	} else {
		content, err = secretfile.Read(path)
	}
	if err != nil {
		return "", err
	}
	defer clear(content)
	secret, err := decodeEntered(strings.TrimSpace(string(content)))
	if err != nil {
		return "", err
	}
	defer clear(secret)
	if _, err := keystore.NewEntered(secret); err != nil {
		return "", err
	}
	return adminapi.Secret(base64.RawURLEncoding.EncodeToString(secret)), nil
}

// decodeEntered reads hexadecimal, or base64 of either alphabet, with or without
// padding. What is both is hexadecimal. The error shows nothing of the text.
func decodeEntered(text string) ([]byte, error) {
	if secret, err := hex.DecodeString(text); err == nil {
		return secret, nil
	}
	url := strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(text, "="))
	secret, err := base64.RawURLEncoding.Strict().DecodeString(url)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, hint(&taggedError{text: "the entered key is refused: it is neither base64 nor hexadecimal", sentinel: keystore.ErrInvalid},
			"make one of 32 random bytes:  (umask 077; openssl rand -base64 32 > FILE)")
	}
	return secret, nil
}

// modeFlags are --mode and --overlap of ring create and ring set.
type modeFlags struct {
	cmd           *cobra.Command
	mode, overlap string
	force         bool
}

func newModeFlags(cmd *cobra.Command) *modeFlags {
	m := &modeFlags{cmd: cmd}
	cmd.Flags().Var((*modeValue)(&m.mode), "mode", "seal with the current key or with the static key (`dynamic|static`)")
	cmd.Flags().StringVar(&m.overlap, "overlap", "", "for how long static keys still open sessions once static mode is left (`DURATION`, default max session)")
	return m
}

type modeValue string

func (m *modeValue) String() string { return string(*m) }
func (m *modeValue) Type() string   { return "dynamic|static" }
func (m *modeValue) Set(s string) error {
	if s != "dynamic" && s != "static" {
		return fmt.Errorf(`want "dynamic" or "static"`)
	}
	*m = modeValue(s)
	return nil
}

func (m *modeFlags) set(ctx context.Context, client *adminhttp.Client, change *change, name string) (adminapi.RingChanged, error) {
	req := adminapi.SetMode{Intent: change.intent(), Mode: m.mode, Force: m.force}
	if m.cmd.Flags().Changed("overlap") {
		req.Overlap = &m.overlap
	}
	return client.SetMode(ctx, name, req)
}

// modeText says which mode a ring is in, and what is under way.
func modeText(r adminapi.Ring) string {
	text := r.Mode
	if r.NewMode == nil {
		return text
	}
	if r.NewMode.Next != "" {
		text += "; " + r.NewMode.Next + " is published, and begins once every policy server has confirmed it"
	}
	if until := r.NewMode.OpensStaticUntil; !until.IsZero() {
		text += "; static keys open sessions until " + stamp(until) + " at least"
	}
	return text
}
