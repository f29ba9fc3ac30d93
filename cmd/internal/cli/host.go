package cli

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/secretfile"
)

func (a *app) hostCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "host", Short: "Register, show and end trusted hosts"}
	cmd.AddCommand(a.hostRegister(), a.hostToken(), a.hostList(), a.hostShow(), a.hostRoll(), a.hostPolicy(), a.hostRevoke())
	return cmd
}

func (a *app) hostList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the trusted hosts", Args: cobra.NoArgs}
	out := outputFlag(cmd)
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, _ []string) error {
		hosts, err := client.Hosts(ctx)
		if err != nil {
			return err
		}
		return out.print(a.Stdout, hosts, func(w io.Writer) { printHosts(w, hosts.Hosts) })
	})
	return cmd
}

func printHosts(w io.Writer, hosts []adminapi.Host) {
	rows := make([][]string, len(hosts))
	for i, h := range hosts {
		rows[i] = []string{h.Name, hostState(h), strconv.Itoa(h.Agents), seenText(h), list(h.Rings)}
	}
	printTable(w, []string{"HOST", "STATE", "AGENTS", "LAST SEEN", "RINGS"}, rows)
}

// A registration is what host register prints: all but the secret.
type registration struct {
	Host  string     `json:"host"`
	Rings []string   `json:"rings"`
	KID   string     `json:"kid"`
	N     keystore.N `json:"n"`
	ID    string     `json:"id"`
	Out   string     `json:"out"`
}

func (a *app) hostRegister() *cobra.Command {
	cmd := &cobra.Command{
		Use: "register NAME", Short: "Register a trusted host and write its host file", Args: oneName,
	}
	out, change, grant := outputFlag(cmd), changeFlags(cmd), grantFlags(cmd)
	rings := cmd.Flags().StringSlice("ring", nil, "a `RING` that the host may have; may be given again")
	region := cmd.Flags().String("region", "", "the `REGION` where the host stands: its agents ask servers there first")
	file := cmd.Flags().String("out", "", "the host `FILE` to write (default NAME.yaml here)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(*rings) == 0 {
			return usagef(cmd, "wants --ring RING, at least once")
		}
		if *file == "" {
			*file = args[0] + ".yaml"
		}
		granted, err := grant.read(cmd)
		if err == nil && *region != "" {
			err = keystore.CheckName(*region)
		}
		if err == nil {
			err = writable(*file)
		}
		if err != nil {
			return err
		}
		return a.call(func(ctx context.Context, client *adminhttp.Client, args []string) error {
			done, err := client.RegisterHost(ctx, adminapi.RegisterHost{Intent: change.intent(), Name: args[0], Rings: *rings, HostGrant: granted})
			if err != nil {
				return err
			}
			content, err := hostFile(done, *region)
			if err == nil {
				err = secretfile.Write(*file, content)
			}
			if err != nil {
				return hint(fmt.Errorf("host %s is registered (event %d), but its host file is not written: %w", done.Host, done.N, err),
					"its secret is lost with this answer: register another name")
			}
			shown := registration{Host: done.Host, Rings: done.Rings, KID: done.KID, N: done.N, ID: done.ID, Out: *file}
			return out.print(a.Stdout, shown, func(w io.Writer) {
				printEvent(w, done.N, done.ID)
				fmt.Fprintf(w, "host %s may have %s; its secret is in %s\n", done.Host, list(done.Rings), *file)
			})
		})(cmd, args)
	}
	return cmd
}

// writable finds out, before anything is changed, that a secret's file cannot be
// written.
func writable(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		if err != nil {
			return err
		}
		return hint(&taggedError{text: "file " + path + " exists already", sentinel: keystore.ErrExists},
			"it is never overwritten: choose another file with --out FILE")
	}
	probe, err := os.CreateTemp(filepath.Dir(path), ".keytide-*.tmp")
	if err != nil {
		return fmt.Errorf("file %s: %w", path, err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// hostFile is the host file of an agent in region, which may be empty.
func hostFile(r adminapi.Registered, region string) ([]byte, error) {
	kid, err := keystore.ParseKID(r.KID)
	if err != nil {
		return nil, err
	}
	bytes, err := base64.RawURLEncoding.Strict().DecodeString(string(r.Secret))
	if err != nil {
		return nil, errors.New("the server's answer holds no secret") // the fault would show a part of it
	}
	defer clear(bytes)
	secret, err := keystore.NewMaterial(bytes)
	if err != nil {
		return nil, err
	}
	return agentfeed.HostFile{Servers: r.Servers, Regions: r.Regions, Region: region, CA: []byte(r.CA), Host: r.Host, KID: kid, Secret: secret}.Encode()
}
