package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/cmd/internal/server"
)

func (a *app) logger() *slog.Logger { return slog.New(slog.NewTextHandler(a.Stderr, nil)) }

// announce prints the one line that says that the server serves.
func (a *app) announce(r server.Ready) {
	line := fmt.Sprintf("keytide ready admin=%s feed=%s", r.Admin, r.Feed)
	if r.Client != "" {
		line += " client=" + r.Client
	}
	if len(r.Regions) > 0 {
		line += " regions=" + strings.Join(r.Regions, ",")
	}
	if r.NATS != "" {
		line += " nats=" + r.NATS
	}
	fmt.Fprintln(a.Stdout, line)
}

func (a *app) devCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "dev [--dir DIR]", Short: "Run a policy server for development", Args: cobra.NoArgs,
	}
	cfg := server.DevConfig{Ready: a.announce}
	flags := cmd.Flags()
	flags.StringVar(&cfg.Dir, "dir", "keytide-dev", "where its state lasts (`DIR`)")
	flags.StringVar(&cfg.Listen, "listen", "127.0.0.1:7480", "`ADDRESS` of the admin API")
	flags.StringVar(&cfg.FeedListen, "feed-listen", "127.0.0.1:7443", "`ADDRESS` of the agents' feed")
	flags.StringVar(&cfg.NATSListen, "nats-listen", "", "`ADDRESS` at which other NATS tools may read the ledger (default: none)")
	flags.IntVar(&cfg.Regions, "regions", 1, "how many regions, `1|3`: with 3 they are eu, us and ap")
	flags.DurationVar(&cfg.FeedClock, "feed-clock-offset", 0, "set the feed's clock wrong by `D`, such as 10m: what do agents do then?")
	flags.BoolVar(&cfg.Insecure, "insecure-listen", false, "allow addresses that other machines can reach")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg.Logger = a.logger()
		return server.Dev(cmd.Context(), cfg)
	}
	cmd.AddCommand(a.devCut(), a.devHeal())
	return cmd
}

func (a *app) serverCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "server --config FILE", Short: "Run a policy server; invite, exclude and forget others", Args: cobra.NoArgs}
	cmd.AddCommand(a.serverInvite(), a.serverJoin(), a.serverExclude(), a.serverForget())
	file := cmd.Flags().String("config", "", "the server's configuration (`FILE`)")
	check := cmd.Flags().Bool("check", false, "check the configuration and the files it names, and do not start")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *file == "" {
			return usagef(cmd, "wants --config FILE")
		}
		cfg, err := server.LoadConfig(*file)
		if err != nil {
			return err
		}
		if *check {
			if err := server.Check(cfg); err != nil {
				return err
			}
			fmt.Fprintf(a.Stdout, "%s: good\n", *file)
			return nil
		}
		return server.Run(cmd.Context(), cfg, server.Hooks{Ready: a.announce, Logger: a.logger()})
	}
	return cmd
}

func (a *app) coreCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "core", Short: "Make the core of a key store"}
	cmd.AddCommand(a.coreInit())
	return cmd
}

func (a *app) coreInit() *cobra.Command {
	cmd := &cobra.Command{
		Use: "init", Short: "Make a key store, and its servers' configuration and profile", Args: cobra.NoArgs,
	}
	var cfg server.InitConfig
	var servers []string
	flags := cmd.Flags()
	flags.StringVar(&cfg.Dir, "dir", "", "the directory to make (`DIR`)")
	flags.StringVar(&cfg.Store, "store", "", "the key store's `NAME`")
	flags.StringVar(&cfg.Region, "region", "", "the one server's region (`R`)")
	flags.StringArrayVar(&servers, "server", nil, "the server's `ID`; for a core of several, ID,region=R,host=HOST for each of 3 or 5")
	flags.StringVar(&cfg.Listen, "listen", "127.0.0.1:7480", "`ADDRESS` of the one server's admin API")
	flags.StringVar(&cfg.FeedListen, "feed-listen", "127.0.0.1:7443", "`ADDRESS` of the one server's feed for agents")
	flags.StringVar(&cfg.UnlockFile, "unlock-file", "", "the unlock key's `FILE`; made if there is none (default unlock.key in each server's directory)")
	flags.StringVar(&cfg.PassphraseFile, "passphrase-file", "", "a `FILE` with a passphrase, instead of an unlock key")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		several := len(servers) > 1 || len(servers) == 1 && strings.Contains(servers[0], ",")
		wanted := []string{"dir", "store", "region", "server"}
		if several {
			wanted = []string{"dir", "store"}
		}
		var missing []string
		for _, flag := range wanted {
			if !cmd.Flags().Changed(flag) {
				missing = append(missing, "--"+flag)
			}
		}
		if len(missing) > 0 {
			return usagef(cmd, "wants %s", strings.Join(missing, ", "))
		}
		if !several {
			cfg.Server = servers[0]
			return a.initOne(cmd.Context(), cfg)
		}
		for _, flag := range []string{"region", "listen", "feed-listen"} {
			if cmd.Flags().Changed(flag) {
				return usagef(cmd, "--%s is for a store of one server; with several, say it in each --server", flag)
			}
		}
		return a.initCore(cmd.Context(), cfg, servers)
	}
	return cmd
}

func (a *app) initOne(ctx context.Context, cfg server.InitConfig) error {
	made, err := server.Init(ctx, cfg)
	if err != nil {
		return err
	}
	printFields(a.Stdout, made.Fields...)
	fmt.Fprintf(a.Stdout, "\nStart it:   keytide server --config %s\nThen:       keytide --client %s status\n", made.Config, made.Client)
	fmt.Fprintf(a.Stdout, "\nKeep %s apart from the data and its backups:\nwhoever has both has every key, and without it nobody has any.\n", made.Unlock)
	return nil
}

func (a *app) initCore(ctx context.Context, one server.InitConfig, servers []string) error {
	cfg := server.CoreInitConfig{Dir: one.Dir, Store: one.Store, UnlockFile: one.UnlockFile, PassphraseFile: one.PassphraseFile}
	var faults []error
	for _, text := range servers {
		m, err := server.ParseCoreMember(text)
		faults = append(faults, err)
		cfg.Servers = append(cfg.Servers, m)
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	made, err := server.InitCore(ctx, cfg)
	if err != nil {
		return err
	}
	printFields(a.Stdout, made.Fields...)
	fmt.Fprintf(a.Stdout, "\nCopy each server's directory to its machine, and nothing else of these; keep the modes.\n"+
		"Start them:   keytide server --config keytide.yaml     (the ledgers are founded when all of them run)\n"+
		"Then:         keytide --client %s status\n", made.Client)
	fmt.Fprintf(a.Stdout, "\nKeep the core CA where no server is: whoever has it makes core servers.\n"+
		"Keep the unlock keys (%s) apart from the data and its backups:\nwhoever has both has every key, and without any of them nobody has any.\n", made.Unlock)
	return nil
}
