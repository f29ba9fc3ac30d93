package sidecar

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/conformance"
)

func conformanceCommand(env Env) *cobra.Command {
	var hostFile, format string
	cmd := &cobra.Command{
		Use:   "conformance URL --host-file FILE",
		Short: "check a server of the feed, and the proxies before it",
		Long: `Check a server of the feed from outside, as one trusted host, through whatever
stands before it. Nothing is changed. Each check is a line: good, or what the server
did instead. It takes as long as a heartbeat takes to come, mostly 15 seconds, and
exits with 1 if there was any fault.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(cmd, "wants the server's URL, such as https://127.0.0.1:7443")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case hostFile == "":
				return usage(cmd, "--host-file is needed")
			case format != "json" && format != "table":
				return usage(cmd, `-o: want "json" or "table"`)
			}
			host, err := agentfeed.ReadHostFile(hostFile)
			if err != nil {
				return err
			}
			checked := 0
			faults, err := conformance.Run(cmd.Context(), args[0], host, func(r conformance.Result) {
				checked++
				env.showCheck(r, format)
			})
			if err == nil && faults > 0 {
				err = fmt.Errorf("%d of %d checks found a fault; the sections are those of agentfeed/SPEC.md", faults, checked)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&hostFile, "host-file", "", "the trusted host's `FILE`, from keytide host register")
	cmd.Flags().StringVarP(&format, "output", "o", "table", "print `json|table`; json is one object a line")
	return cmd
}

func (env Env) showCheck(r conformance.Result, format string) {
	if format == "json" {
		line, err := json.Marshal(r)
		if err != nil {
			panic(err) // strings and an int always marshal
		}
		fmt.Fprintf(env.Stdout, "%s\n", line)
		return
	}
	verdict := "good "
	if r.Fault != "" {
		verdict = "FAULT"
	}
	fmt.Fprintf(env.Stdout, "%s  section %d  %s\n", verdict, r.Section, r.Check)
	if r.Fault != "" {
		fmt.Fprintf(env.Stdout, "       %s\n", r.Fault)
	}
}
