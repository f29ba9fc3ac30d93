package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/sidecar/strictyaml"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/fips"
	"github.com/keytide/keytide/keystore/secretfile"
)

// Env is what the program gets from the system.
type Env struct {
	Args           []string
	Stdout, Stderr io.Writer
	Proxy          func(*http.Request) (*url.URL, error) // how servers are reached; nil = directly
	NotifySocket   string                                // of the service manager, as in $NOTIFY_SOCKET; "" = none
	Version        string
}

// Exit codes.
const (
	exitDone    = 0
	exitFailed  = 1
	exitMisuse  = 2
	exitRefused = 3
)

// errUsage: a command that was used wrongly.
var errUsage = errors.New("wrong use")

// exits is the one place where an error becomes an exit code. The first that
// matches counts; any other error is exitFailed.
var exits = []struct {
	sentinel error
	code     int
}{
	{secretfile.ErrUnsafe, exitRefused},
	{errUnsafeDir, exitRefused},
	{keystore.ErrRefused, exitRefused},
	{errUsage, exitMisuse},
	{strictyaml.ErrInvalid, exitMisuse},
	{agentfeed.ErrHostFile, exitMisuse},
}

// Main runs the program and returns its exit code.
func Main(ctx context.Context, env Env) int {
	root := rootCommand(env)
	root.SetArgs(env.Args)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	if shown := new(stateError); errors.As(err, &shown) {
		return shown.code
	}
	report(env.Stderr, err)
	for _, e := range exits {
		if errors.Is(err, e.sentinel) {
			return e.code
		}
	}
	return exitFailed
}

// report tells a person what went wrong, and each line of the hint after it.
func report(w io.Writer, err error) {
	fmt.Fprintf(w, "error: %v\n", err)
	var hinted interface{ Hint() string }
	if !errors.As(err, &hinted) {
		return
	}
	for line := range strings.Lines(hinted.Hint()) {
		fmt.Fprintf(w, "hint:  %s\n", strings.TrimRight(line, "\n"))
	}
}

// A usageError is a command that was used wrongly.
type usageError struct {
	text string
	hint string
}

func (e *usageError) Error() string { return e.text }
func (e *usageError) Hint() string  { return e.hint }
func (e *usageError) Unwrap() error { return errUsage }

func usage(cmd *cobra.Command, text string) error {
	return &usageError{cmd.CommandPath() + ": " + text, "see how it is used:  " + cmd.CommandPath() + " --help"}
}

func rootCommand(env Env) *cobra.Command {
	root := &cobra.Command{
		Use:           "keytide-agent",
		Short:         "keeps the key rings of a trusted host for programs beside it",
		Version:       env.Version + ", FIPS 140-3 " + fips.Running().String(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArguments,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, err.Error()) })
	root.AddCommand(runCommand(env), registerCommand(env), fetchCommand(env), statusCommand(env), conformanceCommand(env))
	return root
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage(cmd, fmt.Sprintf("there is no command or argument %q", args[0]))
	}
	return nil
}

func runCommand(env Env) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "run --config FILE",
		Short: "keep the rings in files until it is stopped",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if path == "" {
				return usage(cmd, "--config is needed")
			}
			config, err := readConfig(path)
			if err != nil {
				return err
			}
			return run(cmd.Context(), config, env)
		},
	}
	cmd.Flags().StringVar(&path, "config", "", "the agent's configuration `FILE`")
	return cmd
}

func fetchCommand(env Env) *cobra.Command {
	var once bool
	f := fetch{format: "table"}
	cmd := &cobra.Command{
		Use:   "fetch --once --host-file FILE",
		Short: "get the rings once and show them, without key bytes",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case !once:
				return usage(cmd, "--once is needed; to keep rings in files, use keytide-agent run")
			case f.hostFile == "":
				return usage(cmd, "--host-file is needed")
			case f.format != "json" && f.format != "table":
				return usage(cmd, `-o: want "json" or "table"`)
			case f.timeout <= 0:
				return usage(cmd, "--timeout: want more than zero")
			}
			return f.run(cmd.Context(), env)
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "get the rings once and end")
	cmd.Flags().StringVar(&f.hostFile, "host-file", "", "the trusted host's `FILE`, from keytide host register")
	cmd.Flags().StringVarP(&f.format, "output", "o", f.format, "print `json|table`")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 30*time.Second, "how long to wait for a policy server")
	return cmd
}

func statusCommand(env Env) *cobra.Command {
	s := status{format: "table"}
	cmd := &cobra.Command{
		Use:   "status --config FILE",
		Short: "show how the agent beside stands",
		Long: `Show how the agent that runs with this configuration stands.

It exits with 0 when the agent is fresh and its outputs are up to date, 1 when it
does not run, 4 when it has reached no server since its start (cached), 5 when its
rings are stale, 6 expired, 7 when it waits for its first rings, and 8 when files
cannot be written or an action fails.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case s.config == "":
				return usage(cmd, "--config is needed")
			case s.format != "json" && s.format != "table":
				return usage(cmd, `-o: want "json" or "table"`)
			}
			return s.run(env)
		},
	}
	cmd.Flags().StringVar(&s.config, "config", "", "the agent's configuration `FILE`")
	cmd.Flags().StringVarP(&s.format, "output", "o", s.format, "print `json|table`")
	return cmd
}

// logger writes the program's log to stderr.
func (env Env) logger() *slog.Logger { return slog.New(slog.NewTextHandler(env.Stderr, nil)) }
