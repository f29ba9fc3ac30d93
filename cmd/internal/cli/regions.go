package cli

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/cmd/internal/server"
	"github.com/keytide/keytide/replication/wan"
)

// devCut cuts a region of a development store off from the others.
func (a *app) devCut() *cobra.Command {
	cmd := a.linksCommand("cut REGION", "Cut a region off from the others")
	how := cmd.Flags().String("how", wan.Hold.String(), "`FAULT`: hold, reset, hold-forward or hold-back")
	a.setLinks(cmd, func() (wan.Fault, error) {
		fault, err := wan.ParseFault(*how)
		if err != nil || fault == 0 {
			return 0, usagef(cmd, "--how %q: want hold, reset, hold-forward or hold-back", *how)
		}
		return fault, nil
	})
	return cmd
}

// devHeal ends what devCut did.
func (a *app) devHeal() *cobra.Command {
	cmd := a.linksCommand("heal REGION", "Join a region that was cut off with the others again")
	a.setLinks(cmd, func() (wan.Fault, error) { return 0, nil })
	return cmd
}

func (a *app) linksCommand(use, short string) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1)}
}

func (a *app) setLinks(cmd *cobra.Command, fault func() (wan.Fault, error)) {
	dir := cmd.Flags().String("dir", "keytide-dev", "the development store's `DIR`")
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f, err := fault()
		if err != nil {
			return err
		}
		regions, err := server.SetLinks(cmd.Context(), *dir, args[0], f)
		if err != nil {
			return err
		}
		answer := struct {
			Regions []server.RegionLinks `json:"regions"`
		}{regions}
		return out.print(a.Stdout, answer, func(w io.Writer) {
			rows := make([][]string, len(regions))
			for i, r := range regions {
				rows[i] = []string{r.Region, r.Links}
			}
			printTable(w, []string{"REGION", "LINKS"}, rows)
		})
	}
}
