package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/bundle"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/keystore/secretfile"
)

// An exported is what keytide export prints: all but the bundle.
type exported struct {
	Out       string                `json:"out"`
	From      string                `json:"from"`
	Recipient string                `json:"recipient,omitempty"`
	Store     string                `json:"store"`
	Ring      string                `json:"ring"`
	Keys      []adminapi.BundledKey `json:"keys"`
}

func (a *app) exportCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "export", Short: "Write a ring's static and session ticket keys to a bundle", Args: cobra.NoArgs}
	out := outputFlag(cmd)
	flags := cmd.Flags()
	ring := flags.String("ring", "", "the `RING` whose keys they are")
	what := flags.StringSlice("what", nil, "`static,ticket`: which keys")
	passphrase := flags.String("passphrase-file", "", "the `FILE` of the passphrase; made if there is none")
	recipient := flags.String("recipient", "", "or a `FILE` with the recipient's public key")
	file := flags.String("out", "", "the `FILE` to write")
	openOnly := flags.Bool("open-only", false, "whoever imports the keys must not seal with them")
	reason := flags.String("reason", "", "why, for the server's log (`TEXT`)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case *ring == "" || len(*what) == 0 || *file == "":
			return usagef(cmd, "wants --ring RING, --what static,ticket and --out FILE")
		case (*passphrase == "") == (*recipient == ""):
			return usagef(cmd, "wants --passphrase-file FILE or --recipient FILE, one of the two")
		}
		if err := writable(*file); err != nil {
			return err
		}
		req := adminapi.Export{What: *what, OpenOnly: *openOnly, Reason: *reason}
		if err := a.lock(&req, *passphrase, *recipient); err != nil {
			return err
		}
		return a.call(func(ctx context.Context, client *adminhttp.Client, _ []string) error {
			done, err := client.ExportKeys(ctx, *ring, req)
			if err != nil {
				return err
			}
			if err := secretfile.Write(*file, []byte(done.Bundle+"\n")); err != nil {
				return err
			}
			shown := exported{*file, done.From, done.Recipient, done.Store, done.Ring, done.Keys}
			return out.print(a.Stdout, shown, func(w io.Writer) { printExported(w, shown) })
		})(cmd, args)
	}
	return cmd
}

// lock reads what the bundle is to be closed with.
func (a *app) lock(req *adminapi.Export, passphrase, recipient string) error {
	if recipient != "" {
		text, err := readSmall(recipient)
		if err != nil {
			return err
		}
		if _, err := bundle.ParseRecipient(text); err != nil {
			return fmt.Errorf("%s: %w", recipient, err)
		}
		req.Recipient = string(bytes.TrimSpace(text))
		return nil
	}
	if _, err := os.Lstat(passphrase); errors.Is(err, fs.ErrNotExist) {
		if err := secretfile.Write(passphrase, seal.GeneratePassphrase()); err != nil {
			return err
		}
		fmt.Fprintf(a.Stderr, "a passphrase was made: %s\n", passphrase)
	}
	phrase, err := seal.ReadPassphrase(passphrase)
	req.Passphrase = adminapi.Secret(phrase)
	return err
}

func printExported(w io.Writer, e exported) {
	fmt.Fprintf(w, "%s holds %d keys of ring %s of store %s\n\n", e.Out, len(e.Keys), e.Ring, e.Store)
	printBundled(w, e.Keys)
	fmt.Fprintf(w, "\nsigned by  %s\n", e.From)
	if e.Recipient != "" {
		fmt.Fprintf(w, "closed for %s\n", e.Recipient)
	}
}

func printBundled(w io.Writer, keys []adminapi.BundledKey) {
	rows := make([][]string, len(keys))
	for i, k := range keys {
		does := "seals and opens"
		if k.OpenOnly {
			does = "opens only"
		}
		switch k.Result {
		case "already":
			does = "is there already"
		case "published":
			does = "opens, will seal"
		}
		rows[i] = []string{k.Role, k.KID, stamp(k.CreatedAt), does}
	}
	printTable(w, []string{"ROLE", "KID", "CREATED", "DOES"}, rows)
}

// An importing is one run of keytide import.
type importing struct {
	*app
	out               *output
	change            *change
	overlap           overlapFlag
	ring, phrase, key string
	from              []string
	dryRun, openOnly  bool
}

func (a *app) importCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "import FILE", Short: "Take the keys of a bundle over into a ring", Args: cobra.ExactArgs(1)}
	i := &importing{app: a, out: outputFlag(cmd), change: changeFlags(cmd), overlap: overlapFlags(cmd)}
	flags := cmd.Flags()
	flags.StringVar(&i.ring, "ring", "", "the `RING` to take them into (default: the one that the bundle names)")
	flags.StringVar(&i.phrase, "passphrase-file", "", "the `FILE` of the passphrase")
	flags.StringVar(&i.key, "recipient-key", "", "or the `FILE` of the recipient's private key")
	flags.StringSliceVar(&i.from, "from", nil, "the `FINGERPRINT` of the server that must have signed it; may be given again")
	flags.BoolVar(&i.dryRun, "dry-run", false, "say what would happen, and change nothing")
	flags.BoolVar(&i.openOnly, "open-only", false, "take all keys as ones that only open")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if (i.phrase == "") == (i.key == "") {
			return usagef(cmd, "wants --passphrase-file FILE or --recipient-key FILE, one of the two")
		}
		signed, err := i.open(args[0])
		if err != nil {
			return err
		}
		set, _, err := bundle.Verify(signed)
		if err != nil {
			return taken(args[0], err)
		}
		if i.ring == "" {
			i.ring = string(set.Ring)
		}
		return a.call(func(ctx context.Context, client *adminhttp.Client, _ []string) error {
			return i.run(ctx, client, signed)
		})(cmd, args)
	}
	return cmd
}

// taken says which file a bundle's faults are in. Whoever gave a bundle that does not
// verify is told so as misuse.
func taken(file string, err error) error {
	if errors.Is(err, bundle.ErrSignature) {
		return refusedf("%s: %v", file, err)
	}
	return fmt.Errorf("%s: %w", file, err)
}

// open decrypts the bundle here: its passphrase or private key goes nowhere.
func (i *importing) open(file string) (string, error) {
	text, err := readSmall(file)
	if err != nil {
		return "", err
	}
	var signed string
	if i.phrase != "" {
		phrase, err := secretfile.Read(i.phrase)
		if err != nil {
			return "", err
		}
		signed, err = bundle.Open(text, bytes.TrimRight(phrase, "\r\n"))
		return signed, inFile(file, err)
	}
	private, err := secretfile.Read(i.key)
	if err != nil {
		return "", err
	}
	key, err := bundle.ParseRecipientKey(private)
	if err != nil {
		return "", fmt.Errorf("%s: %w", i.key, err)
	}
	signed, err = bundle.OpenAs(text, key)
	return signed, inFile(file, err)
}

func inFile(file string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", file, err)
}

func (i *importing) run(ctx context.Context, client *adminhttp.Client, signed string) error {
	if err := i.overlap.confirm(i.app, i.change, i.ring); err != nil {
		return err
	}
	done, err := client.ImportKeys(ctx, i.ring, adminapi.Import{
		Intent: i.change.intent(), Signed: adminapi.Secret(signed), From: i.from, OpenOnly: i.openOnly,
		Overlap: i.overlap.given(), Force: *i.overlap.force, DryRun: i.dryRun,
	})
	if err != nil {
		return err
	}
	if !done.Checked {
		fmt.Fprintln(i.Stderr, "note:  nobody said who must have signed the bundle: compare the fingerprint below, or give --from")
	}
	return i.out.print(i.Stdout, done, func(w io.Writer) { printImported(w, done, i.dryRun) })
}

func printImported(w io.Writer, done adminapi.Imported, dryRun bool) {
	switch {
	case done.N != 0:
		printEvent(w, done.N, done.ID)
	case dryRun:
		fmt.Fprintln(w, "nothing was changed")
	default:
		fmt.Fprintln(w, "nothing to do: all keys are there already")
	}
	fmt.Fprintf(w, "ring %s is at version %d\n\n", done.Ring, done.Version)
	printBundled(w, done.Keys)
	fmt.Fprintf(w, "\nfrom ring %s of store %s, signed by\n%s\n", done.FromRing, done.Store, done.From)
}

// A recipient is what keytide recipient create prints.
type recipient struct {
	Fingerprint string          `json:"fingerprint"`
	PublicKey   json.RawMessage `json:"public_key"`
	Out         string          `json:"out"`
}

func (a *app) recipientCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "recipient", Short: "Make a key that bundles can be closed for"}
	create := &cobra.Command{Use: "create", Short: "Make a recipient's key pair", Args: cobra.NoArgs}
	out := outputFlag(create)
	file := create.Flags().String("out", "", "the `FILE` to write the private key to")
	create.RunE = func(cmd *cobra.Command, _ []string) error {
		if *file == "" {
			return usagef(cmd, "wants --out FILE")
		}
		made, err := newRecipient(*file)
		if err != nil {
			return err
		}
		return out.print(a.Stdout, made, func(w io.Writer) {
			fmt.Fprintf(w, "%s\n", made.PublicKey)
			fmt.Fprintf(a.Stderr, "private key  %s\nfingerprint  %s\nGive the line above away as a file: keytide export --recipient FILE\n", made.Out, made.Fingerprint)
		})
	}
	cmd.AddCommand(create)
	return cmd
}

func newRecipient(file string) (recipient, error) {
	key, err := bundle.NewRecipientKey()
	if err != nil {
		return recipient{}, err
	}
	private, err := key.JWK()
	if err != nil {
		return recipient{}, err
	}
	defer clear(private)
	public, err := key.Recipient().JWK()
	if err != nil {
		return recipient{}, err
	}
	id, err := key.Recipient().Fingerprint()
	if err != nil {
		return recipient{}, err
	}
	err = secretfile.Write(file, private)
	if errors.Is(err, fs.ErrExist) {
		err = hint(&taggedError{text: file + " exists already", sentinel: keystore.ErrExists}, "it is never overwritten: choose another file with --out FILE")
	}
	return recipient{string(id), bytes.TrimSpace(public), file}, err
}

const maxBundle = 256 << 10

// readSmall reads a file that is no secret.
func readSmall(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxBundle))
}
