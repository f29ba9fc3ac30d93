package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/cmd/internal/server"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/keystore/secretfile"
)

// rekeyPoll is how often a rekey that is waited for is looked at.
const rekeyPoll = 500 * time.Millisecond

func (a *app) rekeyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "rekey", Short: "Replace the key store key, and seal everything anew", Args: cobra.NoArgs}
	out, change := outputFlag(cmd), changeFlags(cmd)
	show := cmd.Flags().Bool("status", false, "show where a rekey stands, and begin none")
	wait := cmd.Flags().Bool("wait", false, "wait until the rekey has ended; with --status, the one that is under way")
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, _ []string) error {
		if *show {
			v, err := client.Rekey(ctx)
			if err == nil && *wait {
				v, err = a.awaitRekey(ctx, client)
			}
			if err != nil {
				return err
			}
			return out.print(a.Stdout, v, func(w io.Writer) { printRekey(w, v) })
		}
		status, err := client.Status(ctx)
		if err != nil {
			return err
		}
		if err := change.confirm(a, status.Store, rekeyCost(status)); err != nil {
			return err
		}
		begun, err := client.BeginRekey(ctx, adminapi.BeginRekey{Intent: change.intent()})
		if err != nil {
			return err
		}
		if *wait {
			if begun.Rekey, err = a.awaitRekey(ctx, client); err != nil {
				return err
			}
		}
		return out.print(a.Stdout, begun, func(w io.Writer) {
			printEvent(w, begun.N, begun.ID)
			printRekey(w, begun.Rekey)
		})
	})
	return cmd
}

func rekeyCost(s adminapi.Status) string {
	text := []string{fmt.Sprintf("A new key store key of store %s is made. It goes on by itself:", s.Store)}
	for _, v := range s.Servers {
		if v.State != "fresh" && !v.Excluded {
			text = append(text, fmt.Sprintf("- it waits for server %s (%s), which is %s, until that is back or is excluded.", v.ID, v.Region, v.State))
		}
	}
	text = append(text, "- servers start with their unlock keys as before, or with unlock.next where their",
		"  configuration has one;",
		"- unlock slots that no server opens, such as one in a safe, hold it up until you",
		"  add one in their place or remove them (keytide rekey --status names them);",
		"- what old backups and old copies of disks hold is erased only by destroying every",
		"  unlock key that ever opened the former key store key.")
	return strings.Join(text, "\n")
}

// awaitRekey looks until no rekey is under way, and says what it waits for.
func (a *app) awaitRekey(ctx context.Context, client *adminhttp.Client) (v adminapi.Rekey, err error) {
	said := ""
	for {
		if v, err = client.Rekey(ctx); err != nil {
			return v, err
		}
		if v.Phase == "none" || v.Phase == "erasing" {
			return v, nil
		}
		if text := rekeyText(v); text != said {
			fmt.Fprintln(a.Stderr, text)
			said = text
		}
		select {
		case <-time.After(rekeyPoll):
		case <-ctx.Done():
			return v, ctx.Err()
		}
	}
}

func rekeyText(v adminapi.Rekey) string {
	switch {
	case v.Phase == "wrapping":
		return fmt.Sprintf("sealing anew: %d of %d done", v.Total-v.Left, v.Total)
	case len(v.Waits) > 0:
		return "waits for servers " + strings.Join(v.Waits, ", ")
	case len(v.Slots) > 0:
		return fmt.Sprintf("waits for unlock slots that no server opens: %d (keytide rekey --status)", len(v.Slots))
	case v.Phase == "erasing":
		return "ended; pending erasure: excluded servers hold the former key store key: " + strings.Join(v.Excluded, ", ")
	case v.Phase == "taking":
		return "servers have taken the next key store key"
	case v.Ended != 0:
		return fmt.Sprintf("none under way; the last one ended with event %d", v.Ended)
	}
	return "none under way"
}

func printRekey(w io.Writer, v adminapi.Rekey) {
	fields := [][2]string{{"rekey", rekeyText(v)}, {"key store key", v.KSK}}
	if v.Next != "" {
		fields = append(fields, [2]string{"next", v.Next + ", which servers take; nothing is sealed under it yet"})
	}
	if v.Former != "" {
		fields = append(fields, [2]string{"former", fmt.Sprintf("%s, under which %d keys are still sealed", v.Former, v.Left)})
	}
	if v.Begun != nil {
		fields = append(fields, [2]string{"begun", fmt.Sprintf("event %d, %s", v.Begun.N, stamp(v.Begun.At))})
	}
	if len(v.Excluded) > 0 {
		fields = append(fields, [2]string{"excluded", strings.Join(v.Excluded, ", ") + ": get it when they are back"})
	}
	if v.Trouble != "" {
		fields = append(fields, [2]string{"trouble", v.Trouble})
	}
	printFields(w, fields...)
	for _, s := range v.Slots {
		fmt.Fprintf(w, "\nunlock slot %s (%s) opens the former key store key alone:\n  keytide slot add --replaces %s ...\n  keytide slot remove %s\n", s.ID, slotName(s), s.ID, s.ID)
	}
}

func slotName(s adminapi.UnlockSlot) string {
	return strings.Join(append([]string{s.Kind}, strings.Fields(s.Region+" "+s.Label)...), ", ")
}

func (a *app) slotCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "slot", Short: "Manage what opens the key store key"}
	cmd.AddCommand(a.slotList(), a.slotAdd(), a.slotRemove())
	return cmd
}

func (a *app) slotList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the unlock slots of the key store key", Args: cobra.NoArgs}
	out := outputFlag(cmd)
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, _ []string) error {
		slots, err := client.UnlockSlots(ctx)
		if err != nil {
			return err
		}
		return out.print(a.Stdout, slots, func(w io.Writer) {
			rows := make([][]string, len(slots.Slots))
			for i, s := range slots.Slots {
				about := strings.TrimSpace(s.Label + " " + s.KMS)
				if s.KSK != slots.KSK {
					about = strings.TrimSpace("former key store key " + about)
				}
				rows[i] = []string{s.ID, s.Kind, cmp.Or(s.Region, "any"), stampOr(s.AddedAt, "with the store"), about}
			}
			fmt.Fprintf(w, "key store key %s\n\n", slots.KSK)
			printTable(w, []string{"SLOT", "KIND", "REGION", "ADDED", "LABEL"}, rows)
		})
	})
	return cmd
}

func stampOr(t time.Time, other string) string {
	if t.IsZero() {
		return other
	}
	return stamp(t)
}

// A slotSource is the flags that say what a new slot opens with.
type slotSource struct{ out, passphrase, file, kms, kdf string }

func (a *app) slotAdd() *cobra.Command {
	cmd := &cobra.Command{Use: "add", Short: "Add an unlock slot to the key store key", Args: cobra.NoArgs}
	out, change := outputFlag(cmd), changeFlags(cmd)
	var from slotSource
	var req adminapi.AddSlot
	cmd.Flags().StringVar(&from.out, "out", "", "generate a passphrase of 125 bits into this new `FILE`")
	cmd.Flags().StringVar(&from.passphrase, "passphrase-file", "", "or the passphrase in this `FILE`")
	cmd.Flags().StringVar(&from.file, "unlock-file", "", "or the 32 bytes in this `FILE`; made if it is not there")
	cmd.Flags().StringVar(&from.kms, "kms", "", "or the key at a key management service with this `URL`")
	cmd.Flags().StringVar(&from.kdf, "kdf", "", "of a passphrase: `argon2id|pbkdf2-sha512` (default argon2id; in FIPS mode pbkdf2-sha512)")
	cmd.Flags().StringVar(&req.Region, "region", "", "the `REGION` whose servers start by it (default any)")
	cmd.Flags().StringVar(&req.Label, "label", "", "what it is, for slot list (`TEXT`)")
	cmd.Flags().StringVar(&req.Replaces, "replaces", "", "during a rekey, the former key store key's slot (`ID`) that it stands in for")
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, _ []string) error {
		prepared, err := from.prepare(cmd)
		if err != nil {
			return err
		}
		prepared.Intent, prepared.Region, prepared.Label, prepared.Replaces = change.intent(), req.Region, req.Label, req.Replaces
		added, err := client.AddSlot(ctx, prepared)
		if err != nil {
			if from.out != "" {
				err = fmt.Errorf("%w (the passphrase in %s opens nothing, unless keytide slot list shows a new slot)", err, from.out)
			}
			return err
		}
		return out.print(a.Stdout, added, func(w io.Writer) {
			printEvent(w, added.N, added.ID)
			fmt.Fprintf(w, "unlock slot %s (%s) opens key store key %s\n", added.Slot.ID, slotName(added.Slot), added.Slot.KSK)
			if from.out != "" {
				fmt.Fprintf(w, "passphrase in %s: keep it where no server is\n", from.out)
			}
		})
	})
	return cmd
}

// prepare makes or reads the unlock key. It stays here: what goes to the server opens
// this one slot alone.
func (f slotSource) prepare(cmd *cobra.Command) (req adminapi.AddSlot, err error) {
	named := 0
	for _, name := range []string{f.out, f.passphrase, f.file, f.kms} {
		if name != "" {
			named++
		}
	}
	if named != 1 {
		return req, usagef(cmd, "wants one of --out, --passphrase-file, --unlock-file and --kms")
	}
	kind, ok := map[string]seal.SlotKind{"": 0, seal.SlotArgon2id.String(): seal.SlotArgon2id, seal.SlotPBKDF2.String(): seal.SlotPBKDF2}[f.kdf]
	if !ok || f.kdf != "" && f.out+f.passphrase == "" {
		return req, usagef(cmd, "--kdf is argon2id or pbkdf2-sha512, of a passphrase")
	}
	if f.kms != "" {
		return adminapi.AddSlot{KMS: f.kms}, nil
	}
	var u seal.UnlockKey
	switch {
	case f.out != "":
		if err = secretfile.Write(f.out, seal.GeneratePassphrase()); err == nil {
			u, err = seal.Passphrase(f.out)
		}
	case f.file != "":
		u, err = server.FileKeyOrNew(f.file)
	default:
		u, err = seal.Passphrase(f.passphrase)
	}
	if err != nil {
		return req, err
	}
	return server.NewSlotRequest(u, kind)
}

func (a *app) slotRemove() *cobra.Command {
	cmd := &cobra.Command{Use: "remove ID", Short: "Remove an unlock slot from the key store key", Args: func(cmd *cobra.Command, args []string) error {
		if err := cobra.ExactArgs(1)(cmd, args); err != nil {
			return err
		}
		_, err := keystore.ParseKID(args[0])
		return err
	}}
	out, change := outputFlag(cmd), changeFlags(cmd)
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, args []string) error {
		if err := change.confirm(a, args[0], "Unlock slot "+args[0]+" goes.\n"+notRevoked); err != nil {
			return err
		}
		removed, err := client.RemoveSlot(ctx, args[0], adminapi.RemoveSlot{Intent: change.intent()})
		if err != nil {
			return err
		}
		fmt.Fprintln(a.Stderr, notRevoked)
		return out.print(a.Stdout, removed, func(w io.Writer) {
			printEvent(w, removed.N, removed.ID)
			fmt.Fprintf(w, "unlock slot %s is removed from key store key %s\n", removed.Slot.ID, removed.Slot.KSK)
		})
	})
	return cmd
}

const notRevoked = `Removing a slot is not revocation: whoever opened it once may have kept the key
store key, old backups still have the slot, and servers that start by its unlock
key go on doing so. To end what it opened:  keytide rekey`
