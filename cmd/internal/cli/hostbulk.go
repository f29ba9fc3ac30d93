package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore/adminapi"
)

// manyRevoked is what host revoke prints for more than one host.
type manyRevoked struct {
	Revoked []adminapi.Revoked `json:"revoked"`
	Next    []string           `json:"next"` // the commands that answer all of them
}

// chosenHosts are the hosts that are named, or that have the labels and are not
// revoked.
func chosenHosts(ctx context.Context, client *adminhttp.Client, cmd *cobra.Command, named []string, labels map[string]string) ([]string, error) {
	if (len(named) > 0) == (len(labels) > 0) {
		return nil, usagef(cmd, "wants names of hosts, or --label")
	}
	if len(named) > 0 {
		return slices.Compact(slices.Sorted(slices.Values(named))), nil
	}
	all, err := client.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, h := range all.Hosts {
		fits := !h.Revoked
		for key, value := range labels {
			fits = fits && h.Labels[key] == value
		}
		if fits {
			found = append(found, h.Name)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no host that is registered has the label %s", labelText(labels))
	}
	return found, nil
}

// revokeMany ends hosts one after the other. After an error those before it are
// revoked; the error says so.
func (a *app) revokeMany(ctx context.Context, client *adminhttp.Client, hosts []string, change *change, out *output) error {
	if err := change.confirm(a, counted(uint64(len(hosts)), "host"), "These hosts would get nothing any more: "+strings.Join(hosts, ", ")); err != nil {
		return err
	}
	all := manyRevoked{Revoked: []adminapi.Revoked{}, Next: []string{}}
	var failed error
	for _, name := range hosts {
		done, err := client.RevokeHost(ctx, name, adminapi.RevokeHost{Intent: change.intent()})
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		all.Revoked = append(all.Revoked, done)
	}
	for _, done := range all.Revoked {
		for _, command := range done.Next {
			command = strings.ReplaceAll(command, "host "+done.Host+" is revoked", "hosts are revoked")
			if !slices.Contains(all.Next, command) {
				all.Next = append(all.Next, command)
			}
		}
	}
	err := out.print(a.Stdout, all, func(w io.Writer) {
		for _, done := range all.Revoked {
			fmt.Fprintf(w, "event %d  host %s is revoked\n", done.N, done.Host)
		}
		if len(all.Revoked) > 0 {
			printHostKeys(w, knownKeys(all.Revoked))
		}
		printNext(w, all.Next)
	})
	if failed != nil {
		failed = fmt.Errorf("%d of %d hosts are revoked: %w", len(all.Revoked), len(hosts), failed)
	}
	return errors.Join(failed, err)
}

// knownKeys are the rings' keys that any of the hosts may know.
func knownKeys(revoked []adminapi.Revoked) (known []adminapi.HostKeys) {
	for _, done := range revoked {
		for _, ring := range done.Keys {
			if !slices.ContainsFunc(known, func(k adminapi.HostKeys) bool { return k.Ring == ring.Ring }) {
				known = append(known, ring)
			}
		}
	}
	return known
}
