package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/cmd/internal/server"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// restoreFlags is what restore was told.
type restoreFlags struct {
	config, dir                string
	replicas, backups, compare []string
	lose                       int
	dry                        bool
	out                        *output
	change                     *change
}

// restored is what restore prints when it is done.
type restored struct {
	Store   string           `json:"store"`
	Epoch   keystore.Epoch   `json:"epoch"`
	Ledgers []restoredLedger `json:"ledgers"`
	Lost    int              `json:"lost"`
}

type restoredLedger struct {
	Kind    events.Kind `json:"ledger"`
	N       keystore.N  `json:"n"`       // the event by which the epoch begins
	Genesis events.Hash `json:"genesis"` // of the epoch
}

func (a *app) restoreCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "restore", Short: "Begin the next epoch from a replica or a backup, after a disaster", Args: cobra.NoArgs}
	f := &restoreFlags{out: outputFlag(cmd), change: changeFlags(cmd)}
	flags := cmd.Flags()
	flags.StringVar(&f.config, "config", "", "configuration `FILE` of the server, which must not run")
	flags.StringVar(&f.dir, "dir", "", "or its directory (`DIR`)")
	flags.StringArrayVar(&f.replicas, "from-replica", nil, "replica `FILE` to restore from, or a directory with both (once or twice)")
	flags.StringArrayVar(&f.backups, "from-backup", nil, "backup `FILE` to restore from; then its increments, in order")
	flags.StringArrayVar(&f.compare, "compare", nil, "another replica, directory or backup `FILE` that may have more (any number)")
	flags.IntVar(&f.lose, "lose", 0, "with --yes: that `N` events are lost is known")
	flags.BoolVar(&f.dry, "dry-run", false, "say what it would do, and change nothing")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if (f.config == "") == (f.dir == "") {
			return usagef(cmd, "wants --config FILE or --dir DIR")
		}
		if (len(f.replicas) == 0) == (len(f.backups) == 0) {
			return usagef(cmd, "wants --from-replica FILE or --from-backup FILE")
		}
		return a.restore(cmd.Context(), f)
	}
	return cmd
}

func (a *app) restore(ctx context.Context, f *restoreFlags) (err error) {
	cfg := server.RestoreConfig{
		Replicas: f.replicas, Backups: f.backups, Actor: "administrator", Reason: f.change.reason, Logger: a.logger(),
	}
	if f.config != "" {
		cfg.Config, err = server.LoadConfig(f.config)
	} else {
		cfg.Config, err = server.DirConfig(f.dir)
	}
	if err != nil {
		return err
	}
	for _, path := range f.compare {
		cfg.Others = append(cfg.Others, server.OtherReplica{Path: path})
	}
	temp, err := os.MkdirTemp("", "keytide-restore-") // mode 0700
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	cfg.Others = append(cfg.Others, a.fetchOthers(ctx, temp)...)
	r, err := server.PrepareRestore(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() {
		if closing := r.Close(); err == nil {
			err = closing
		}
	}()
	if f.dry {
		return f.out.print(a.Stdout, r.Plan, func(w io.Writer) { printPlan(w, r.Plan) })
	}
	if err := f.consent(a, r.Plan); err != nil {
		return err
	}
	begun, err := r.Perform(ctx, func(step string) { fmt.Fprintln(a.Stderr, step) })
	if err != nil {
		return err
	}
	done := restored{Store: r.Plan.Store, Epoch: r.Plan.Epoch, Lost: len(r.Plan.Lost)}
	for i, l := range r.Plan.Ledgers {
		done.Ledgers = append(done.Ledgers, restoredLedger{Kind: l.Kind, N: l.Head.N + 1, Genesis: begun[i].Genesis})
	}
	return f.out.print(a.Stdout, done, func(w io.Writer) { printRestored(w, done) })
}

// consent has a person agree to the plan: by the store's name, or, where events are lost, by
// words that say how many.
func (f *restoreFlags) consent(a *app, plan server.RestorePlan) error {
	var text strings.Builder
	printPlan(&text, plan)
	if len(plan.Lost) == 0 {
		return f.change.confirm(a, plan.Store, text.String())
	}
	words := fmt.Sprintf("lose %d events", len(plan.Lost))
	if f.change.yes && f.lose != len(plan.Lost) {
		fmt.Fprintln(a.Stderr, text.String())
		return hint(refusedf("%s: %s: not agreed to", plan.Store, words),
			"restore from the replica that has most:  --from-replica FILE\nor, to lose them for good:              --yes --lose %d", len(plan.Lost))
	}
	return f.change.confirm(a, words, text.String())
}

// fetchOthers takes a backup of every server of the client profile, if there is one, to
// compare with. Who does not answer is named in the plan.
func (a *app) fetchOthers(ctx context.Context, temp string) (others []server.OtherReplica) {
	path, err := a.findProfile()
	if err != nil {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	cfg, err := parseProfile(path, text)
	if err != nil {
		fmt.Fprintf(a.Stderr, "no server is asked for what it has: client profile %s: %v\n", path, err)
		return nil
	}
	for i, url := range cfg.Servers {
		one := cfg
		one.Servers = []string{url}
		other, err := fetchOther(ctx, one, filepath.Join(temp, strconv.Itoa(i)+".ktb"))
		if err != nil {
			fmt.Fprintf(a.Stderr, "%s is not compared: %v\n", url, err)
			continue
		}
		others = append(others, other)
	}
	return others
}

func fetchOther(ctx context.Context, cfg adminhttp.ClientConfig, path string) (server.OtherReplica, error) {
	client := adminhttp.NewClient(cfg)
	defer client.Close()
	status, err := client.Status(ctx)
	if err != nil {
		return server.OtherReplica{}, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return server.OtherReplica{}, err
	}
	defer file.Close()
	return server.OtherReplica{Path: path, Name: "server " + status.Server, Server: status.Server}, client.Backup(ctx, nil, file)
}

func printPlan(w io.Writer, p server.RestorePlan) {
	printFields(w, [2]string{"store", p.Store}, [2]string{"epoch", fmt.Sprintf("%d begins", p.Epoch)}, [2]string{"signed by", "server " + p.Server})
	fmt.Fprintln(w)
	rows := make([][]string, len(p.Ledgers))
	for i, l := range p.Ledgers {
		rows[i] = []string{l.Kind.String(), number(l.Head.N), l.Source + "; the core: " + l.Core}
	}
	printTable(w, []string{"LEDGER", "TO EVENT", "FROM"}, rows)
	if len(p.Compared) > 0 {
		fmt.Fprintln(w)
		rows = rows[:0]
		for _, c := range p.Compared {
			rows = append(rows, []string{c.Kind.String(), number(c.Head.N), number(c.Common), c.File})
		}
		printTable(w, []string{"LEDGER", "HAS", "IN COMMON", "COMPARED WITH"}, rows)
	}
	if len(p.Missing) > 0 {
		fmt.Fprintln(w)
		for _, line := range wrap("Not compared, and may have more: "+strings.Join(p.Missing, ", ")+". Name their replicas with --compare, or their servers in the client profile.", width) {
			fmt.Fprintln(w, line)
		}
	}
	if len(p.Lost) == 0 {
		fmt.Fprintln(w, "\nNo event of these is lost.")
		return
	}
	fmt.Fprintf(w, "\n%d events are lost to the next epoch:\n", len(p.Lost))
	rows = rows[:0]
	for _, e := range p.Lost {
		rows = append(rows, []string{e.Kind.String(), number(e.N), e.Type, e.At, e.Server + ": in " + e.File})
	}
	printTable(w, []string{"LEDGER", "N", "TYPE", "AT", "BY SERVER"}, rows)
}

func number(n keystore.N) string { return strconv.FormatUint(uint64(n), 10) }

func printRestored(w io.Writer, done restored) {
	rows := make([][]string, len(done.Ledgers))
	for i, l := range done.Ledgers {
		rows[i] = []string{l.Kind.String(), number(l.N), l.Genesis.String()}
	}
	printTable(w, []string{"LEDGER", "EVENT", "EPOCH'S GENESIS"}, rows)
	fmt.Fprintf(w, "epoch %d of %s has begun; %d events are lost\n"+
		"Start this server. It goes on with that epoch, and so do the others by\nthemselves. See that all do:  keytide status\n", done.Epoch, done.Store, done.Lost)
}
