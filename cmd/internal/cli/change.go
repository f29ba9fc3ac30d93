package cli

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// A change is the flags that every changing command has.
type change struct {
	reason string
	yes    bool
}

func changeFlags(cmd *cobra.Command) *change {
	c := &change{}
	cmd.Flags().StringVar(&c.reason, "reason", "", "why, for the history (`TEXT`)")
	cmd.Flags().BoolVar(&c.yes, "yes", false, "do not ask")
	return c
}

// intent makes the request id, once for each invocation: every retry of it is
// the same change.
func (c *change) intent() adminapi.Intent {
	return adminapi.Intent{Request: ulid.Make().String(), Reason: c.reason}
}

// confirm has a person type name back before something dangerous. Without a
// person it wants --yes.
func (c *change) confirm(a *app, name, what string) error {
	if c.yes {
		return nil
	}
	fmt.Fprintln(a.Stderr, what)
	if !a.Person {
		return hint(refusedf("%s: not confirmed, and there is no terminal to ask at", name), "to do it without being asked:  --yes")
	}
	fmt.Fprintf(a.Stderr, "Type %s to go on: ", name)
	answer, err := bufio.NewReader(io.LimitReader(a.Stdin, 1024)).ReadString('\n')
	if err != nil || strings.TrimSpace(answer) != name {
		return refusedf("%s: not confirmed; nothing was changed", name)
	}
	return nil
}

// printEvent says which event a change is.
func printEvent(w io.Writer, n keystore.N, id string) { fmt.Fprintf(w, "event %d  %s\n", n, id) }

// oneName wants one argument, the name of a ring or host, and checks it before a
// server is asked.
func oneName(cmd *cobra.Command, args []string) error {
	if err := cobra.ExactArgs(1)(cmd, args); err != nil {
		return err
	}
	if err := keystore.CheckName(args[0]); err != nil {
		return fmt.Errorf("the name %q %w", args[0], err)
	}
	return nil
}
