// Package cli is the keytide program: its commands, what they print and how they
// exit.
//
// Commands of administration speak to a policy server by the admin API and hold
// no rules of their own. Data goes to standard output, talk to standard error;
// an error says what, why and what next. Secrets are never arguments.
package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// Env is what a command may know of its surroundings. All fields must be set.
type Env struct {
	Args    []string // without the program's name
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Getenv  func(string) string
	Home    func() (string, error) // the user's configuration directory
	Person  bool                   // a person sits at Stdin and Stderr: both are terminals
	Screen  bool                   // Stdout is a terminal
	Version string
}

// Main runs one command until it ends or ctx does, and returns the exit code.
func Main(ctx context.Context, env Env) int {
	root := newRoot(env)
	root.SetArgs(env.Args)
	err := root.ExecuteContext(ctx)
	if err != nil {
		report(env.Stderr, err)
	}
	return exitCode(err)
}

func newRoot(env Env) *cobra.Command {
	app := &app{Env: env}
	root := &cobra.Command{
		Use:           "keytide",
		Short:         "Replicated key store for single sign-on",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages ", fmt.Sprintf(".FlagUsagesWrapped %d ", width)))
	root.PersistentFlags().StringVar(&app.profilePath, "client", "",
		"client profile `FILE` (default $KEYTIDE_CLIENT, then keytide/client.yaml in the user's configuration)")
	root.AddCommand(
		app.devCommand(), app.serverCommand(), app.coreCommand(),
		app.statusCommand(), app.ringCommand(), app.rolloverCommand(), app.scheduleCommand(), app.historyCommand(), app.replayCommand(),
		app.auditCommand(), app.backupCommand(), app.restoreCommand(), app.hostCommand(), app.cookieCommand(), app.versionCommand(),
		app.keyCommand(staticKey), app.keyCommand(ticketKey), app.exportCommand(), app.importCommand(), app.recipientCommand(),
		app.rekeyCommand(), app.slotCommand(),
		app.doctorCommand(),
	)
	app.complete(root)
	root.InitDefaultCompletionCmd()
	misuse(root)
	addPages(root)
	return root
}

// app is what the commands share.
type app struct {
	Env
	profilePath string
}

// misuse makes every wrong use of a command and of those below it an error that
// exits with 2.
func misuse(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usagef(cmd, "%v", err) })
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usagef(cmd, "%v", err)
			}
			return nil
		}
	}
	if cmd.HasSubCommands() && cmd.RunE == nil {
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = chooseSubcommand
	}
	for _, sub := range cmd.Commands() {
		misuse(sub)
	}
}

// chooseSubcommand runs where a word that names no subcommand, or none, stands.
func chooseSubcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usagef(cmd, "which command?")
	}
	err := usagef(cmd, "unknown command %q", args[0])
	cmd.SuggestionsMinimumDistance = 2
	near := cmd.SuggestionsFor(args[0])
	for i := range near {
		near[i] = cmd.CommandPath() + " " + near[i]
	}
	if len(near) > 0 {
		err.hint = "did you mean:  " + strings.Join(near, "  or  ")
	}
	return err
}
