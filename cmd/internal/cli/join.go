package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/cmd/internal/server"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/secretfile"
)

// An invited is what server invite prints: all but the token.
type invited struct {
	Server    string     `json:"server"`
	Region    string     `json:"region"`
	N         keystore.N `json:"n"`
	ID        string     `json:"id"`
	ExpiresAt time.Time  `json:"expires_at"`
	Servers   []string   `json:"servers"`
	Out       string     `json:"out"`
}

func (a *app) serverInvite() *cobra.Command {
	cmd := &cobra.Command{Use: "invite ID", Short: "Let another policy server join, and write its invitation", Args: oneName}
	out, change := outputFlag(cmd), changeFlags(cmd)
	region := cmd.Flags().String("region", "", "where the server will stand (`R`)")
	ttl := cmd.Flags().Duration("ttl", time.Hour, "for how long the invitation can be used, 1m to 720h")
	file := cmd.Flags().String("out", "", "the invitation `FILE` to write (default ID.invite here)")
	urls := cmd.Flags().StringSlice("url", nil, "a `URL` by which the new server reaches this key store's admin API; may be given again")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *region == "" {
			return usagef(cmd, "wants --region R")
		}
		if *file == "" {
			*file = args[0] + ".invite"
		}
		if err := writable(*file); err != nil {
			return err
		}
		return a.call(func(ctx context.Context, client *adminhttp.Client, args []string) error {
			token, hash := server.NewInviteToken()
			made, err := client.InviteServer(ctx, args[0], adminapi.InviteServer{
				Intent: change.intent(), Region: *region, TokenHash: hash, TTLSeconds: int64(ttl.Seconds()),
			})
			if err != nil {
				return err
			}
			made.Servers = slices.Compact(append(slices.Clone(*urls), made.Servers...))
			text, err := server.NewInvitation(made, token).Encode()
			if err == nil {
				err = secretfile.Write(*file, text)
			}
			if err != nil {
				return hint(fmt.Errorf("server %s is invited (event %d), but its invitation is not written: %w", made.Server, made.N, err),
					"invite it again: the new invitation takes the place of this one")
			}
			shown := invited{made.Server, made.Region, made.N, made.ID, made.ExpiresAt, made.Servers, *file}
			return out.print(a.Stdout, shown, func(w io.Writer) {
				printEvent(w, made.N, made.ID)
				fmt.Fprintf(w, "server %s may join in region %s until %s\n", made.Server, made.Region, stamp(made.ExpiresAt))
				fmt.Fprintf(w, "\nBring %s to its machine, unseen by others, and run there:\n\n", *file)
				fmt.Fprintf(w, "  keytide server join --invite %s --dir DIR\n", *file)
			})
		})(cmd, args)
	}
	return cmd
}

func (a *app) serverJoin() *cobra.Command {
	cmd := &cobra.Command{Use: "join", Short: "Make this machine a policy server that was invited", Args: cobra.NoArgs}
	var cfg server.JoinConfig
	flags := cmd.Flags()
	flags.StringVar(&cfg.Invite, "invite", "", "the invitation (`FILE`)")
	flags.StringVar(&cfg.Dir, "dir", "", "the directory to make (`DIR`)")
	flags.StringVar(&cfg.Listen, "listen", "127.0.0.1:7480", "`ADDRESS` of the admin API")
	flags.StringVar(&cfg.FeedListen, "feed-listen", "127.0.0.1:7443", "`ADDRESS` of the agents' feed")
	flags.StringVar(&cfg.UnlockFile, "unlock-file", "", "its unlock key's `FILE`; made if there is none (default DIR/unlock.key)")
	flags.StringVar(&cfg.PassphraseFile, "passphrase-file", "", "a `FILE` with a passphrase, instead of an unlock key")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if cfg.Invite == "" || cfg.Dir == "" {
			return usagef(cmd, "wants --invite FILE and --dir DIR")
		}
		made, err := server.Join(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		printFields(a.Stdout, made.Fields...)
		fmt.Fprintf(a.Stdout, "\nStart it:   keytide server --config %s\nThen:       keytide --client %s status\n", made.Config, made.Client)
		fmt.Fprintf(a.Stdout, "\nRemove the invitation %s: it has been used.\n", cfg.Invite)
		return nil
	}
	return cmd
}
