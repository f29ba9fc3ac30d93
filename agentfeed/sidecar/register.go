package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/keystore/secretfile"
)

// register makes this agent a trusted host.
type register struct {
	tokenFile string
	servers   []string
	ca        string
	host      string
	region    string
	out       string
	ifNeeded  bool
	timeout   time.Duration
	format    string
}

func registerCommand(env Env) *cobra.Command {
	r := register{format: "table"}
	cmd := &cobra.Command{
		Use:   "register --token-file FILE --server URL --ca FILE --name HOST --out FILE",
		Short: "become a trusted host, with a registration token",
		Long: `Register this agent as a trusted host, with a token from keytide host token, and
write its host file with mode 0600.

It may be run again whatever happened: the registration's own id is kept beside the
host file (FILE.registration) until the host file is whole, so an answer that was lost
is asked for again and makes no second host. With --if-needed it does nothing where
there is a host file already, as a container's start wants it.

The token itself does not travel, and the answer is sealed for this agent. What stands
between must nevertheless be trusted this once: who can pass for the server named by
--ca can hand out a secret of his own.

Exit codes: 0 done, 1 failed or not allowed, 2 used wrongly, 3 refused because unsafe.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := r.check(cmd); err != nil {
				return err
			}
			return r.run(cmd.Context(), env)
		},
	}
	cmd.Flags().StringVar(&r.tokenFile, "token-file", "", "the token's `FILE`")
	cmd.Flags().StringSliceVar(&r.servers, "server", nil, "a policy server's feed, `URL`; may be given again")
	cmd.Flags().StringVar(&r.ca, "ca", "", "the `FILE` of the CA to trust, PEM")
	cmd.Flags().StringVar(&r.host, "name", "", "the trusted `HOST`'s name (default: the machine's, up to the first dot)")
	cmd.Flags().StringVar(&r.region, "region", "", "where the agent stands: servers of this `REGION` are asked first")
	cmd.Flags().StringVar(&r.out, "out", "", "the host `FILE` to write")
	cmd.Flags().BoolVar(&r.ifNeeded, "if-needed", false, "do nothing if the host file is there")
	cmd.Flags().DurationVar(&r.timeout, "timeout", 2*time.Minute, "how long to try")
	cmd.Flags().StringVarP(&r.format, "output", "o", r.format, "print `json|table`")
	return cmd
}

func (r *register) check(cmd *cobra.Command) error {
	for _, needed := range []struct {
		flag string
		set  bool
	}{{"token-file", r.tokenFile != ""}, {"server", len(r.servers) > 0}, {"ca", r.ca != ""}, {"out", r.out != ""}} {
		if !needed.set {
			return usage(cmd, "--"+needed.flag+" is needed")
		}
	}
	switch {
	case r.timeout <= 0:
		return usage(cmd, "--timeout: want more than zero")
	case r.format != "json" && r.format != "table":
		return usage(cmd, `-o: want "json" or "table"`)
	case r.host != "":
		return nil
	}
	name, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("this machine's name: %w", err)
	}
	name, _, _ = strings.Cut(strings.ToLower(name), ".")
	r.host = name
	return nil
}

// registered is what register prints: all but the secret.
type registered struct {
	Host string `json:"host"`
	KID  string `json:"kid"`
	Out  string `json:"out"`
	New  bool   `json:"new"` // this run has registered it
}

func (r *register) run(ctx context.Context, env Env) error {
	id, held, err := r.begin()
	if err != nil {
		return err
	}
	if held != nil {
		return r.print(env, *held, false)
	}
	token, err := agentfeed.ReadHostToken(r.tokenFile)
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(r.ca)
	if err != nil {
		return fmt.Errorf("--ca: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	file, err := agentfeed.Register(ctx, agentfeed.Registration{
		Servers: r.servers, CA: ca, Host: r.host, Token: token, ID: id, Region: r.region, Proxy: env.Proxy,
	})
	if err != nil {
		return fmt.Errorf("host %s is not registered: %w", r.host, err)
	}
	content, err := file.Encode()
	if err == nil {
		err = secretfile.Write(r.out, content)
	}
	if err != nil {
		return fmt.Errorf("host %s is registered, but its host file is not written (run this again): %w", r.host, err)
	}
	if err := os.Remove(r.idFile()); err != nil {
		return err
	}
	return r.print(env, file, true)
}

// idFile keeps the registration's id from before it is used until the host file is
// written.
func (r *register) idFile() string { return r.out + ".registration" }

// begin returns the id of the registration that is under way, or of a new one; or the
// host file that is there, from a run that was killed just before its end, or if none
// is needed.
func (r *register) begin() (id agentfeed.RegistrationID, held *agentfeed.HostFile, err error) {
	content, err := secretfile.Read(r.idFile())
	under := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return id, nil, err
	}
	file, err := agentfeed.ReadHostFile(r.out)
	switch {
	case err == nil && file.Host != r.host:
		return id, nil, &takenError{r.out, "is host " + file.Host + "'s"}
	case err == nil && (under || r.ifNeeded):
		if under {
			err = os.Remove(r.idFile())
		}
		return id, &file, err
	case err == nil:
		return id, nil, &takenError{r.out, "exists already"}
	case !errors.Is(err, fs.ErrNotExist):
		return id, nil, err
	}
	if under {
		host, text, _ := strings.Cut(strings.TrimSpace(string(content)), " ")
		if host != r.host {
			return id, nil, &takenError{r.idFile(), "is of a registration of host " + host}
		}
		if id, err = agentfeed.ParseRegistrationID(text); err != nil {
			err = fmt.Errorf("%s: %w", r.idFile(), err)
		}
		return id, nil, err
	}
	id = agentfeed.NewRegistrationID()
	return id, nil, secretfile.Write(r.idFile(), []byte(r.host+" "+id.Encode()+"\n"))
}

func (r *register) print(env Env, file agentfeed.HostFile, made bool) error {
	if r.format == "json" {
		return writeJSON(env.Stdout, registered{Host: file.Host, KID: file.KID.String(), Out: r.out, New: made})
	}
	text := "is registered already"
	if made {
		text = "is registered"
	}
	_, err := fmt.Fprintf(env.Stdout, "host %s %s; its secret is in %s\n", file.Host, text, r.out)
	return err
}

// A takenError is a file that is in the way.
type takenError struct{ path, why string }

func (e *takenError) Error() string { return fmt.Sprintf("file %s %s", e.path, e.why) }
func (e *takenError) Hint() string {
	return "it is never overwritten: choose another with --out FILE, or leave it as it is with --if-needed"
}
