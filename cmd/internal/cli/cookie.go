package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/agentfeed/cookie"
	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// shortestToken is the length of a kt1 token with an empty payload (agentfeed/cookie,
// SPEC.md).
const shortestToken = 80

func (a *app) cookieCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "cookie", Short: "Say what a cookie token shows"}
	cmd.AddCommand(a.cookieExplain())
	return cmd
}

// An explained token is what it shows by itself and what is known of its key. The
// token itself is a bearer's secret: it is neither shown nor sent anywhere.
type explained struct {
	cookie.Explanation
	Uses []adminapi.KeyUse `json:"uses"`
}

func (a *app) cookieExplain() *cobra.Command {
	cmd := &cobra.Command{
		Use: "explain TOKEN|-", Short: "Say which key sealed a token, who knows it and until when it opens", Args: cobra.ExactArgs(1),
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		token, err := a.token(args[0])
		if err != nil {
			return err
		}
		shown, err := explain(token)
		if err != nil {
			return err
		}
		return a.call(func(ctx context.Context, client *adminhttp.Client, _ []string) error {
			key, err := client.Key(ctx, shown.KID)
			if err != nil {
				return err
			}
			e := explained{Explanation: shown, Uses: key.Uses}
			if err := out.print(a.Stdout, e, func(w io.Writer) { printExplained(w, e) }); err != nil {
				return err
			}
			return e.ended()
		})(cmd, nil)
	}
	return cmd
}

// token returns the argument, or the first line of standard input. Whoever pastes a
// whole header or NAME=VALUE means the value.
func (a *app) token(arg string) (string, error) {
	if arg == "-" {
		line, err := bufio.NewReader(io.LimitReader(a.Stdin, 64<<10)).ReadString('\n')
		if err != nil && err != io.EOF {
			return "", fmt.Errorf("standard input: %w", err)
		}
		arg = line
	}
	arg = strings.TrimSpace(arg)
	if _, value, ok := strings.Cut(arg, "="); ok && strings.Trim(value, "=") != "" {
		arg, _, _ = strings.Cut(value, ";")
	}
	return strings.Trim(strings.TrimSpace(arg), `"`), nil
}

// explain reads a token, or says what is wrong with it without showing it.
func explain(token string) (cookie.Explanation, error) {
	shown, err := cookie.Explain(token)
	if err == nil {
		return shown, nil
	}
	why, next := "", "copy the cookie's whole value again; give it on standard input if the shell may have changed it:  keytide cookie explain -"
	odd := strings.IndexFunc(token, func(r rune) bool {
		return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", r)
	})
	native := len(token) > 1 && token[0] == 'A' && strings.IndexByte("QRSTUVWXYZabcdef", token[1]) >= 0
	switch {
	case token == "":
		why = "it is empty"
	case len(token) > cookie.MaxToken:
		why = fmt.Sprintf("it has %d characters; a token has %d at most", len(token), cookie.MaxToken)
	case !native:
		why = "it does not begin as a kt1 token does: another program made it"
		next = "Keytide's tokens begin with AQ to AZ or Aa to Af: is it the right cookie?"
	case odd >= 0:
		why = fmt.Sprintf("its character %d is none that a token may have", odd+1)
	case len(token) < shortestToken:
		why = fmt.Sprintf("it is cut short: it has %d characters, and the shortest token %d", len(token), shortestToken)
	default:
		why = "it is cut short, or a character was changed"
	}
	return cookie.Explanation{}, hint(&taggedError{text: "no token of Keytide's: " + why, sentinel: keystore.ErrInvalid}, "%s", next)
}

// ended is the error of a token that nobody opens any more.
func (e explained) ended() error {
	var last *adminapi.KeyUse
	for i := range e.Uses {
		if e.Uses[i].Destroyed == nil {
			return nil
		}
		last = &e.Uses[i]
	}
	if last == nil {
		return nil
	}
	return hint(fmt.Errorf("key %s of ring %s is destroyed since event %d (%s, %s): no agent opens the token",
		e.KID, last.Ring, last.Destroyed.N, last.Destroyed.Type, stamp(last.Destroyed.At)),
		"its session is over: the user must log in anew\nsee what the ring has been through:  keytide history %s", last.Ring)
}

func printExplained(w io.Writer, e explained) {
	printFields(w,
		[2]string{"token", fmt.Sprintf("%s, with a payload of %d bytes", e.Format, e.PayloadSize)},
		[2]string{"sealed by", "key " + e.KID.String()},
		[2]string{"sealer", e.Sealer + " (one process, for 12 hours at most)"},
	)
	for _, u := range e.Uses {
		fmt.Fprintln(w)
		printUse(w, u)
	}
	fmt.Fprintf(w, "\nThe token was not opened: only an agent can tell whether it is genuine.\n")
}

func printUse(w io.Writer, u adminapi.KeyUse) {
	printFields(w,
		[2]string{"ring", ringNow(u)},
		[2]string{"role", roleText(u)},
		[2]string{"opens", opensText(u)},
		[2]string{"reseal", resealText(u)},
		[2]string{"hosts", list(u.Hosts)},
		[2]string{"agents", agentsText(u)},
	)
	rows := make([][]string, len(u.Roles))
	for i, t := range u.Roles {
		to := "now"
		if t.To != 0 {
			to = fmt.Sprint(t.To)
		}
		rows[i] = []string{t.Role, fmt.Sprint(t.From), to, stamp(t.Since)}
	}
	fmt.Fprintln(w)
	printTable(w, []string{"ROLE", "FROM VERSION", "TO", "SINCE"}, rows)
}

func roleText(u adminapi.KeyUse) string {
	switch {
	case u.Destroyed != nil:
		return fmt.Sprintf("destroyed; %s before", u.Role)
	case u.Pending:
		return u.Role + ", not sealed with yet"
	case u.Seals:
		return u.Role + "; it seals sessions now"
	}
	return u.Role
}

func opensText(u adminapi.KeyUse) string {
	switch {
	case u.Destroyed != nil:
		return "nowhere any more"
	case !u.Opens:
		return "no cookies: it is no key of agents, and the token is not genuine"
	case !u.OpensUntil.IsZero():
		return "until " + stamp(u.OpensUntil) + " at least: " + u.Retention
	}
	return "without an end that is set: " + u.Retention
}

func resealText(u adminapi.KeyUse) string {
	switch {
	case u.Reseal:
		return "yes: the agent that opens it next seals a session anew, with key " + u.SealedWith
	case u.Destroyed != nil || !u.Opens:
		return "no"
	case u.Seals:
		return "no: it is the key that seals"
	}
	return "no: it seals what outlasts rollovers, not sessions"
}

func agentsText(u adminapi.KeyUse) string {
	text := fmt.Sprintf("%d connected to this server", u.Connected)
	if len(u.Lacking) > 0 {
		return text + "; not known to have the ring as it is: " + list(u.Lacking)
	}
	if u.Connected > 0 {
		text += ", and all have the ring as it is"
	}
	return text
}

// ringNow says how the ring of a key stands.
func ringNow(u adminapi.KeyUse) string {
	if u.Deleted {
		return u.Ring + ", which is deleted"
	}
	return fmt.Sprintf("%s, now at version %d", u.Ring, u.Version)
}
