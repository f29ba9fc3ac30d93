package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/doctor"
)

// A checked is what keytide doctor prints.
type checked struct {
	OK       bool             `json:"ok"`      // nothing above info
	Servers  []string         `json:"servers"` // that were examined
	Findings []doctor.Finding `json:"findings"`
}

func (a *app) doctorCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "doctor", Short: "Find what is wrong, and how to mend it", Args: cobra.NoArgs}
	out := outputFlag(cmd)
	change := changeFlags(cmd)
	mend := cmd.Flags().Bool("mend", false, "put right what was written into the buckets past the servers; asks first")
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, _ []string) error {
		found, err := examineAll(ctx, client)
		if err != nil {
			return err
		}
		if *mend {
			return a.mend(ctx, client, out, change, found)
		}
		return a.showChecked(out, found)
	})
	return cmd
}

// showChecked prints the findings, and fails where one is above info.
func (a *app) showChecked(out *output, found checked) error {
	if err := out.print(a.Stdout, found, func(w io.Writer) { printChecked(w, found) }); err != nil {
		return err
	}
	if worst := doctor.Worst(found.Findings); worst > doctor.Info {
		return fmt.Errorf("not well: the worst finding is %s", worst)
	}
	return nil
}

// examineAll asks every server of the profile, all at once. One that does not answer is a
// finding; if none does, an error.
func examineAll(ctx context.Context, client *adminhttp.Client) (checked, error) {
	clients := client.Each()
	answers, errs := make([]adminapi.Diagnosis, len(clients)), make([]error, len(clients))
	var asked sync.WaitGroup
	for i, c := range clients {
		asked.Go(func() { answers[i], errs[i] = c.Doctor(ctx) })
	}
	asked.Wait()
	found := checked{Servers: []string{}}
	var lists [][]doctor.Finding
	var seen []doctor.Observation
	for i, err := range errs {
		if err != nil {
			lists = append(lists, []doctor.Finding{unanswered(clients[i].Address(), err)})
			continue
		}
		found.Servers = append(found.Servers, answers[i].Observation.Server)
		lists, seen = append(lists, answers[i].Findings), append(seen, answers[i].Observation)
	}
	if len(seen) == 0 {
		return checked{}, errs[0]
	}
	found.Findings = doctor.Merge(append(lists, doctor.Compare(seen))...)
	found.OK = doctor.Worst(found.Findings) <= doctor.Info
	return found, nil
}

func unanswered(address string, err error) doctor.Finding {
	return doctor.Finding{
		Code: doctor.ServerUnanswered, Severity: doctor.Warning, Subject: address,
		Text: fmt.Sprintf("this server of the profile does not answer: %v", err),
		Mend: "is it running, and is its address the one in the profile (servers)?",
	}
}

// mend has the servers put right what they found. Each is asked in turn for what is left:
// one may have what another's replica lacks.
func (a *app) mend(ctx context.Context, client *adminhttp.Client, out *output, change *change, found checked) error {
	var repairs []doctor.Repair
	var what strings.Builder
	for _, f := range found.Findings {
		if f.Repair != nil {
			repairs = append(repairs, *f.Repair)
			fmt.Fprintln(&what, strings.Join(wrap(f.Subject+": "+f.Text, width-2), "\n  "))
		}
	}
	if len(repairs) == 0 {
		fmt.Fprintln(a.Stderr, "nothing is there that this command mends")
		return a.showChecked(out, found)
	}
	what.WriteString("Each is replaced by what the verified replica has, if it has not changed since.")
	if err := change.confirm(a, "mend", what.String()); err != nil {
		return err
	}
	mended := adminapi.Mended{Mended: []doctor.Repair{}}
	var last error
	for _, repair := range repairs {
		got, err := mendOne(ctx, client, change, repair)
		if err != nil {
			last = errors.Join(last, err)
			continue
		}
		mended.Mended = append(mended.Mended, got.Mended...)
		mended.N, mended.ID = max(mended.N, got.N), got.ID
	}
	err := out.print(a.Stdout, mended, func(w io.Writer) {
		for _, r := range mended.Mended {
			fmt.Fprintf(w, "mended  %s %s\n", r.Ledger, r.Key)
		}
		if mended.N > 0 {
			printEvent(w, mended.N, mended.ID)
		}
	})
	return errors.Join(err, last)
}

// mendOne asks the servers one after the other, until one has done it.
func mendOne(ctx context.Context, client *adminhttp.Client, change *change, repair doctor.Repair) (adminapi.Mended, error) {
	req := adminapi.Mend{Intent: change.intent(), Repairs: []doctor.Repair{repair}}
	var last error
	for _, c := range client.Each() {
		got, err := c.Mend(ctx, req)
		if err == nil {
			return got, nil
		}
		last = err
	}
	return adminapi.Mended{}, last
}

func printChecked(w io.Writer, found checked) {
	fmt.Fprintf(w, "examined: %s\n", strings.Join(found.Servers, ", "))
	if len(found.Findings) == 0 {
		fmt.Fprintln(w, "nothing is wrong")
	}
	for _, f := range found.Findings {
		head := fmt.Sprintf("%s %s %s", strings.ToUpper(f.Severity.String()), f.Code, f.Subject)
		if f.Server != "" && f.Server != f.Subject {
			head += " seen by " + f.Server
		}
		fmt.Fprintf(w, "\n%s\n", strings.Join(wrap(head, width), "\n  "))
		fmt.Fprintf(w, "  %s\n", strings.Join(wrap(f.Text, width-2), "\n  "))
		for line := range strings.Lines(f.Mend) {
			fmt.Fprintf(w, "  -> %s\n", strings.Join(wrap(strings.TrimSpace(line), width-5), "\n     "))
		}
	}
}
