package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/credential"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/visible"
)

// maxSecret is the longest value that Secrets Manager takes.
const maxSecret = 64 << 10

func newSecretCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secret put NAME | secret list",
		Short: "Set the secret of a credential, and list which secrets have a value",
		Example: `  postern secret list -s prod-aws
  postern secret put github -s prod-aws
  postern secret put github -s prod-aws < token.txt`,
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
			ref, err := credential.Named(stack, args[0])
			if err != nil {
				return err
			}
			live := func() (*plan.Plan, error) { return published(cmd.Context(), file, home) }
			if err := credential.PlaceIsPublished(file, live, stack.Plan, args[0]); err != nil {
				return err
			}
			put, err := credential.PlaceFor(cmd.Context(), stack, args[0], ref, openAccount)
			if err != nil {
				return err
			}
			place := ref.Name
			if ref.Region != "" {
				place += " in " + ref.Region
			}
			question := fmt.Sprintf("New value of the credential %s of stack %s, kept in %s",
				args[0], stack.Name, place)
			value, err := readSecret(cmd.Context(), cmd.InOrStdin(), cmd.ErrOrStderr(), question)
			if err != nil {
				return err
			}
			if err := credential.Holds(value, ref); err != nil {
				return err
			}
			done, err := put(value)
			if err != nil {
				return err
			}
			visible.Printf(cmd.OutOrStdout(), "%s: %s\n", args[0], done)
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

// readSecret reads the value, and asks for it on a terminal. It is in no error.
func readSecret(ctx context.Context, in io.Reader, prompt io.Writer, question string) ([]byte, error) {
	if f, ok := in.(*os.File); ok && isTerminal(f) {
		on, ok := prompt.(*os.File)
		if !ok || !isTerminal(on) {
			return nil, errors.New("standard error is not a terminal, so nobody sees what is asked: " +
				"give the value by standard input, < FILE")
		}
		value, err := credential.Ask(ctx, f, on, question)
		if err != nil {
			return nil, err
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

func listSecrets(ctx context.Context, w io.Writer, stack *stacks.Stack) error {
	states, err := credential.States(ctx, stack, openAccount)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	visible.Printf(table, "NAME\tSOURCE\tSECRET\tSTATE\tVERSION\tCHANGED\n")
	for _, s := range states {
		visible.Printf(table, "%s\t%s\t%s\t%s\t%s\t%s\n",
			s.Name, s.Secret.Source, s.Secret.Name, s.State, orDash(s.Version), age(s.Changed))
	}
	return table.Flush()
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
