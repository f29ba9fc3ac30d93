package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/host"
	"github.com/keytide/keytide/keystore/secretfile"
	"github.com/keytide/keytide/keystore/ticket"
)

// A grant is the flags that say what a host is beside its rings.
type grant struct {
	labels    *[]string
	ephemeral *string
	allowRoll *bool
	tickets   *string
}

func grantFlags(cmd *cobra.Command) grant {
	return grant{
		labels:    cmd.Flags().StringArray("label", nil, "a label `KEY=VALUE` of the host; may be given again"),
		ephemeral: cmd.Flags().String("ephemeral", "", "the host ends when it is unseen for this `DURATION`, such as 24h"),
		allowRoll: cmd.Flags().Bool("allow-roll", false, "its secret may be rolled over by age"),
		tickets:   cmd.Flags().String("tickets", "", "what it may have done with session tickets (`none|open|seal`, default none)"),
	}
}

func (g grant) read(cmd *cobra.Command) (adminapi.HostGrant, error) {
	if *g.tickets != "" {
		if _, err := ticket.ParseRight(*g.tickets); err != nil {
			return adminapi.HostGrant{}, usagef(cmd, "--tickets: %v", err)
		}
	}
	labels, err := labelsOf(cmd, *g.labels)
	return adminapi.HostGrant{Labels: labels, Ephemeral: *g.ephemeral, AllowRoll: *g.allowRoll, Tickets: *g.tickets}, err
}

// labelsOf reads labels, of which each key may be given once.
func labelsOf(cmd *cobra.Command, texts []string) (map[string]string, error) {
	var labels map[string]string
	for _, text := range texts {
		l, err := host.ParseLabel(text)
		if err != nil {
			return nil, usagef(cmd, "--label: %v", err)
		}
		if labels == nil {
			labels = make(map[string]string)
		}
		if _, twice := labels[l.Key]; twice {
			return nil, usagef(cmd, "--label %s is given twice", l.Key)
		}
		labels[l.Key] = l.Value
	}
	return labels, nil
}

// toStdout is the name of standard output where a file's is due.
const toStdout = "-"

func (a *app) hostToken() *cobra.Command {
	cmd := &cobra.Command{
		Use: "token --ring RING --out FILE", Short: "Make, list and revoke registration tokens", Args: cobra.NoArgs,
	}
	cmd.AddCommand(a.hostTokenList(), a.hostTokenRevoke())
	out, change, grant := outputFlag(cmd), changeFlags(cmd), grantFlags(cmd)
	req := adminapi.CreateHostToken{}
	cmd.Flags().StringSliceVar(&req.Rings, "ring", nil, "a `RING` that hosts registered by it may have; may be given again")
	cmd.Flags().Uint64Var(&req.Uses, "uses", 1, "how many hosts (`N`) it may register")
	cmd.Flags().StringVar(&req.Expires, "expires", "1h", "for what `DURATION` it is valid")
	cmd.Flags().StringSliceVar(&req.Addresses, "address", nil, "a range `CIDR` of addresses from which it may be used; may be given again")
	file := cmd.Flags().String("out", "", "the token `FILE` to write, with mode 0600; - for standard output")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var err error
		if req.HostGrant, err = grant.read(cmd); err != nil {
			return err
		}
		switch {
		case len(req.Rings) == 0:
			return usagef(cmd, "wants --ring RING, at least once")
		case *file == "":
			return usagef(cmd, "wants --out FILE: the token is a secret and is shown once; --out - shows it here")
		case *file == toStdout && *out == "json":
			return usagef(cmd, "--out - and -o json do not go together: a token is in no JSON")
		case *file != toStdout:
			if err := writable(*file); err != nil {
				return err
			}
		}
		return a.call(func(ctx context.Context, client *adminhttp.Client, _ []string) error {
			return a.makeToken(ctx, client, req, change, *file, out)
		})(cmd, args)
	}
	return cmd
}

// madeToken is what host token prints with -o json: all but the token.
type madeToken struct {
	adminapi.HostTokenChanged
	Out string `json:"out"`
}

// makeToken draws a token, writes it, and lets the server know its public key. The
// file comes first: a token that nobody has would be of no use, and one that no
// server knows does no harm.
func (a *app) makeToken(ctx context.Context, client *adminhttp.Client, req adminapi.CreateHostToken, change *change, file string, out *output) error {
	token, err := agentfeed.NewHostToken()
	if err != nil {
		return err
	}
	public, err := token.PublicKey()
	if err != nil {
		return err
	}
	req.Intent, req.Token, req.PublicKey = change.intent(), token.ID().String(), public[:]
	if file != toStdout {
		if err := secretfile.Write(file, token.Encode()); err != nil {
			return err
		}
	}
	done, err := client.CreateHostToken(ctx, req)
	if err != nil {
		if file != toStdout {
			err = errors.Join(err, os.Remove(file)) // a token that nobody has expires unused
		}
		return err
	}
	if file == toStdout {
		fmt.Fprintf(a.Stderr, "event %d  %s; the token is shown this once\n", done.N, done.ID)
		_, err := a.Stdout.Write(token.Encode())
		return err
	}
	return out.print(a.Stdout, madeToken{done, file}, func(w io.Writer) {
		printEvent(w, done.N, done.ID)
		fmt.Fprintf(w, "token %s registers %s for %s until %s; it is in %s\n",
			done.Token, counted(done.Uses, "host"), list(done.Rings), stamp(done.ExpiresAt), file)
	})
}

func counted(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.FormatUint(n, 10) + " " + what + "s"
}

func (a *app) hostTokenList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the registration tokens", Args: cobra.NoArgs}
	out := outputFlag(cmd)
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, _ []string) error {
		tokens, err := client.HostTokens(ctx)
		if err != nil {
			return err
		}
		return out.print(a.Stdout, tokens, func(w io.Writer) {
			rows := make([][]string, len(tokens.Tokens))
			for i, t := range tokens.Tokens {
				rows[i] = []string{t.Token, t.State, fmt.Sprintf("%d of %d", t.Used, t.Uses), stamp(t.ExpiresAt), list(t.Rings)}
			}
			printTable(w, []string{"TOKEN", "STATE", "USED", "EXPIRES", "RINGS"}, rows)
		})
	})
	return cmd
}

func (a *app) hostTokenRevoke() *cobra.Command {
	cmd := &cobra.Command{Use: "revoke ID", Short: "End a registration token", Args: cobra.ExactArgs(1)}
	out, change := outputFlag(cmd), changeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		id, err := keystore.ParseKID(args[0])
		if err != nil {
			return usagef(cmd, "%q is no token's id: want 16 hexadecimal digits", args[0])
		}
		return a.call(func(ctx context.Context, client *adminhttp.Client, _ []string) error {
			done, err := client.RevokeHostToken(ctx, id, adminapi.RevokeHost{Intent: change.intent()})
			if err != nil {
				return err
			}
			return out.print(a.Stdout, done, func(w io.Writer) {
				printEvent(w, done.N, done.ID)
				fmt.Fprintf(w, "token %s is revoked; the hosts that it has registered (%d) stay\n", done.Token, done.Used)
			})
		})(cmd, args)
	}
	return cmd
}

// labelText is a host's labels as people read them.
func labelText(labels map[string]string) string {
	texts := make([]string, 0, len(labels))
	for key, value := range labels {
		texts = append(texts, key+"="+value)
	}
	slices.Sort(texts)
	if len(texts) == 0 {
		return "-"
	}
	return strings.Join(texts, ", ")
}
