package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/replication/backup"
)

// backupShown is what backup prints.
type backupShown struct {
	File    string        `json:"file"`
	Bytes   int64         `json:"bytes"`
	Ledgers []backup.Part `json:"ledgers"`
}

func (a *app) backupCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "backup", Short: "Write a backup of the key store and its policy store", Args: cobra.NoArgs}
	out := outputFlag(cmd)
	path := cmd.Flags().String("out", "", "write it to `FILE`, which must not exist")
	since := cmd.Flags().String("since", "", "only what came after this backup `FILE`")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *path == "" {
			return usagef(cmd, "wants --out FILE")
		}
		return a.call(func(ctx context.Context, client *adminhttp.Client, _ []string) error {
			bases, err := basesOf(*since)
			if err != nil {
				return err
			}
			shown, err := writeBackup(ctx, client, bases, *path)
			if err != nil {
				return err
			}
			return out.print(a.Stdout, shown, func(w io.Writer) { printBackup(w, shown) })
		})(cmd, args)
	}
	return cmd
}

// basesOf reads where a backup ends.
func basesOf(path string) (adminhttp.Bases, error) {
	if path == "" {
		return nil, nil
	}
	parts, err := partsIn(path)
	if err != nil {
		return nil, fmt.Errorf("--since: %w", err)
	}
	bases := adminhttp.Bases{}
	for _, p := range parts {
		bases[p.Kind] = p.Head
	}
	return bases, nil
}

func partsIn(path string) ([]backup.Part, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	parts, err := backup.Parts(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return parts, nil
}

// writeBackup fetches a backup beside its name, reads it back, and only then gives it
// the name: there is never a part of a backup under it.
func writeBackup(ctx context.Context, client *adminhttp.Client, bases adminhttp.Bases, path string) (_ backupShown, err error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return backupShown{}, hint(fmt.Errorf("%s: %w", path, keystore.ErrExists), "a backup never replaces a file: choose another name")
	}
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return backupShown{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	err = client.Backup(ctx, bases, file)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return backupShown{}, err
	}
	parts, err := partsIn(file.Name())
	if err != nil {
		return backupShown{}, err
	}
	info, err := os.Stat(file.Name())
	if err != nil {
		return backupShown{}, err
	}
	// A link, not a rename: it refuses a name that somebody has taken meanwhile.
	if err := os.Link(file.Name(), path); err != nil {
		return backupShown{}, err
	}
	return backupShown{File: path, Bytes: info.Size(), Ledgers: parts}, errors.Join(os.Remove(file.Name()), syncDir(filepath.Dir(path)))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func printBackup(w io.Writer, shown backupShown) {
	rows := make([][]string, len(shown.Ledgers))
	for i, p := range shown.Ledgers {
		rows[i] = []string{
			p.Kind.String(), strconv.FormatUint(uint64(p.Epoch), 10), strconv.FormatUint(uint64(p.Base.N)+1, 10),
			strconv.FormatUint(uint64(p.Head.N), 10),
		}
	}
	printTable(w, []string{"LEDGER", "EPOCH", "FROM", "TO EVENT"}, rows)
	for _, p := range shown.Ledgers {
		fmt.Fprintf(w, "genesis %-5s  %s\n", p.Kind, p.Genesis)
	}
	fmt.Fprintf(w, "%s, %d bytes; check it with:\n  keytide audit verify --from-backup %s\n", shown.File, shown.Bytes, shown.File)
}

// verifyBackup checks backup files without any server.
func verifyBackup(paths []string) (adminapi.Verification, error) {
	var readers []io.Reader
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			return adminapi.Verification{}, err
		}
		defer file.Close()
		readers = append(readers, file)
	}
	ledgers, err := backup.Verify(nil, readers...)
	if err != nil {
		return adminapi.Verification{}, err
	}
	v := adminapi.Verification{OK: len(ledgers) > 0}
	for _, l := range ledgers {
		found := adminapi.LedgerVerification{OK: l.Bad == 0, Events: l.State.N(), Head: l.State.Hash().String()}
		if l.Bad != 0 {
			found.FirstBad, found.Why = &l.Bad, l.Why.Error()
		}
		v.OK = v.OK && found.OK
		if l.Part.Kind == events.Hosts {
			v.Hosts = &found
			continue
		}
		v.Events, v.Head, v.FirstBad, v.Why = found.Events, found.Head, found.FirstBad, found.Why
	}
	return v, nil
}
