package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/cloud"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/stacks"
)

// maxSecret is the longest value that Secrets Manager takes.
const maxSecret = 64 << 10

// ownSecrets are the secrets of a stack on AWS besides its credentials'.
var ownSecrets = []string{"ca-key", "fleet-ca-key", "join-token", "join-tokens"}

func newSecretCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secret put NAME | secret list",
		Short: "Set the secret of a credential, and list which secrets have a value",
		Example: `  postern secret list -s prod-aws
  postern secret put github -s prod-aws
  postern secret put github -s prod-aws < token.txt`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	put := &cobra.Command{
		Use:   "put NAME",
		Short: "Set the secret of a credential, from standard input or a prompt",
		Long: `NAME is a credential of the stack file. On AWS it can also be ca-key, fleet-ca-key, join-token or
join-tokens.

The value is read from standard input, without its last newline, or from a prompt that does not show
it. It is never an argument, and never printed. The fleet gets it when the control plane next reads
the secret's source.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, home, err := openHome(cmd)
			if err != nil {
				return err
			}
			stack, err := file.Load()
			if err != nil {
				return err
			}
			ref, err := secretNamed(stack, args[0])
			if err != nil {
				return err
			}
			if err := placeIsPublished(cmd.Context(), file, home, stack.Plan, args[0]); err != nil {
				return err
			}
			put, err := placeFor(cmd.Context(), stack, args[0], ref)
			if err != nil {
				return err
			}
			value, err := readSecret(cmd.InOrStdin(), cmd.ErrOrStderr(), args[0])
			if err != nil {
				return err
			}
			if err := holds(value, ref); err != nil {
				return err
			}
			done, err := put(value)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", args[0], done)
			return nil
		},
	}
	list := &cobra.Command{
		Use:   "list",
		Short: "List the secrets, whether they have a value, and since when",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			stack, _, err := openStack(cmd)
			if err != nil {
				return err
			}
			return listSecrets(cmd.Context(), cmd.OutOrStdout(), stack)
		},
	}
	cmd.AddCommand(put, list)
	return cmd
}

// placeIsPublished keeps an agent from choosing the operator's file into which a value is written:
// if a proposal names the place of a secret, the place counts once it is published.
func placeIsPublished(ctx context.Context, file *stacks.File, home home.Folder, p *plan.Plan, name string) error {
	agents, err := publish.Proposal(file)
	if agents == nil {
		return err
	}
	named := func(p *plan.Plan) int {
		return slices.IndexFunc(p.Credentials, func(c plan.Credential) bool { return c.Name == name })
	}
	i := named(p)
	if i < 0 { // one of ownSecrets, whose name is ours
		return nil
	}
	if live, err := published(ctx, home); err == nil {
		if j := named(live); j >= 0 && live.Credentials[j].Secret == p.Credentials[i].Secret {
			return nil
		}
	}
	return &publish.UnseenError{
		Why:    fmt.Sprintf("%v, so it is only a proposal, and it is not published that the secret of %s is %s", agents, name, p.Credentials[i].Secret),
		Remedy: "look at it, and publish it first: postern push --file " + hostpath.Quote(file.Path),
	}
}

// secretNamed is where the secret of that name is.
func secretNamed(stack *stacks.Stack, name string) (plan.Reference, error) {
	var names []string
	for _, c := range stack.Plan.Credentials {
		if c.Name == name {
			return plan.ParseReference(c.Secret)
		}
		names = append(names, c.Name)
	}
	if stack.AWS != nil {
		if slices.Contains(ownSecrets, name) {
			return ownSecret(stack, name), nil
		}
		names = append(names, ownSecrets...)
	}
	return plan.Reference{}, fmt.Errorf("%s: no rule uses a credential %q; there is: %s", stack.Path, name, strings.Join(names, ", "))
}

func ownSecret(stack *stacks.Stack, name string) plan.Reference {
	return plan.Reference{Source: plan.SourceAWSSecretsManager, Name: "postern/" + stack.Name + "/" + name, Region: stack.AWS.Region}
}

// readSecret reads the value. It is in no error.
func readSecret(in io.Reader, prompt io.Writer, name string) ([]byte, error) {
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprintf(prompt, "value of %s (not shown): ", name)
		value, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(prompt)
		if err != nil {
			return nil, fmt.Errorf("read the value: %w", err)
		}
		return checkSecret(value)
	}
	value, err := io.ReadAll(io.LimitReader(in, maxSecret+2))
	if err != nil {
		return nil, fmt.Errorf("read the value: %w", err)
	}
	value = bytes.TrimSuffix(value, []byte("\n"))
	return checkSecret(bytes.TrimSuffix(value, []byte("\r")))
}

func checkSecret(value []byte) ([]byte, error) {
	switch {
	case len(value) == 0:
		return nil, errors.New("the value is empty: nothing was changed")
	case len(value) > maxSecret:
		return nil, fmt.Errorf("the value has more than %d bytes: nothing was changed", maxSecret)
	}
	return value, nil
}

// holds refuses a value that has not the field that the stack file selects.
func holds(value []byte, ref plan.Reference) error {
	if len(ref.Field) == 0 {
		return nil
	}
	var v any
	err := json.Unmarshal(value, &v)
	for _, key := range ref.Field {
		m, ok := v.(map[string]any)
		if !ok {
			err = errors.New("missing")
			break
		}
		v = m[key]
	}
	if err != nil || v == nil { // the JSON error would quote the value
		return fmt.Errorf("the stack file takes field %s of this secret: give the whole JSON object with that field; nothing was changed", strings.Join(ref.Field, "."))
	}
	return nil
}

// placeFor returns what puts a value where ref says, and then says where that was. The account is asked first: the value
// is on standard input, and a program can read that once.
func placeFor(ctx context.Context, stack *stacks.Stack, name string, ref plan.Reference) (put func(value []byte) (done string, err error), err error) {
	switch ref.Source {
	case plan.SourceFile:
		return func(value []byte) (string, error) {
			return "written to " + ref.Name, atomicfile.Write(ref.Name, value, 0o600)
		}, nil
	case plan.SourceAWSSecretsManager:
		if stack.AWS == nil {
			return nil, fmt.Errorf("%s: its secret is in AWS, and this stack is not: set it there with the AWS CLI", name)
		}
		account, err := openAccount(ctx, stack, ref.Region)
		if err != nil {
			return nil, err
		}
		return func(value []byte) (string, error) {
			version, err := account.PutSecret(ctx, ref.Name, value)
			return fmt.Sprintf("version %s of %s in %s", version, ref.Name, ref.Region), err
		}, nil
	}
	return nil, fmt.Errorf("%s: its secret comes from %s: set it there; this command sets files and AWS Secrets Manager", name, ref.Source)
}

func listSecrets(ctx context.Context, w io.Writer, stack *stacks.Stack) error {
	type line struct {
		name string
		ref  plan.Reference
	}
	var lines []line
	for _, c := range stack.Plan.Credentials {
		ref, err := plan.ParseReference(c.Secret)
		if err != nil {
			return err
		}
		lines = append(lines, line{c.Name, ref})
	}
	if stack.AWS != nil {
		for _, name := range ownSecrets {
			lines = append(lines, line{name, ownSecret(stack, name)})
		}
	}
	accounts := map[string]cloud.Account{} // by region
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tSOURCE\tSECRET\tSTATE\tVERSION\tCHANGED")
	for _, l := range lines {
		state, version, changed := "not looked at from here", "-", "-"
		switch {
		case l.ref.Source == plan.SourceFile:
			state, changed = fileState(l.ref.Name)
		case l.ref.Source == plan.SourceAWSSecretsManager && stack.AWS != nil:
			account := accounts[l.ref.Region]
			if account == nil {
				var err error
				if account, err = openAccount(ctx, stack, l.ref.Region); err != nil {
					return err
				}
				accounts[l.ref.Region] = account
			}
			s, err := account.Secret(ctx, l.ref.Name)
			switch {
			case errors.Is(err, cloud.ErrNoSecret):
				state = "does not exist"
			case err != nil:
				return err
			default:
				state, version, changed = secretState(s), s.Version, age(s.Changed)
				if version == "" {
					version = "-"
				}
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", l.name, l.ref.Source, l.ref.Name, state, version, changed)
	}
	return table.Flush()
}

func secretState(s *cloud.Secret) string {
	switch {
	case s.Deleting:
		return "waits for deletion"
	case s.Version == "":
		return "empty"
	case s.Versions == 1:
		return "set, 1 version"
	}
	return fmt.Sprintf("set, %d versions", s.Versions)
}

func fileState(path string) (state, changed string) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "does not exist", "-"
	case err != nil:
		return "cannot be read", "-"
	case info.Size() == 0:
		return "empty", age(info.ModTime())
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Sprintf("set, others may read it (%#o)", info.Mode().Perm()), age(info.ModTime())
	}
	return "set", age(info.ModTime())
}

// age returns how long ago something was, in the largest suitable unit.
func age(t time.Time) string {
	d := time.Since(t)
	switch {
	case d < 0, t.IsZero():
		return "-"
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", d/time.Hour)
	}
	return fmt.Sprintf("%d days ago", d/(24*time.Hour))
}
