// Package doctor is the command that says which runtimes this machine has.
package doctor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/postern/postern/advice"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/sandbox/run"
	"github.com/postern/postern/visible"
)

// New returns the command.
func New() *cobra.Command {
	var asJSON bool
	var fix fixing
	cmd := &cobra.Command{
		Use:   "doctor [--json | --fix gvisor [--config FILE] [--yes]]",
		Short: "Say which runtimes can isolate an agent on this machine",
		Long: `Examines each runtime of "postern run --runtime". For one that cannot be used, it says what is missing
and, if there is one, the command that changes that.

With --fix gvisor it writes what Docker's configuration needs for gVisor, after it has shown that and
asked. Everything else in the file stays.

The exit status is 0 if at least one runtime can be used.`,
		Example: `  postern doctor
  postern doctor --json
  postern doctor --fix gvisor`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			state, err := hostpath.StateFolder()
			if err != nil {
				return err
			}
			folders, err := hostpath.In(state).Folders()
			if err != nil {
				return err
			}
			if fix.what != "" {
				return fix.run(cmd, folders)
			}
			findings := run.Examine(cmd.Context(), folders)
			if asJSON {
				if err := visible.Encode(cmd.OutOrStdout(), findings, ""); err != nil {
					return err
				}
			} else {
				show(cmd.OutOrStdout(), findings)
			}
			if !slices.ContainsFunc(findings, func(f run.Finding) bool { return f.Usable }) {
				return errors.New("no runtime can be used on this machine")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the findings as a list in JSON")
	cmd.Flags().StringVar(&fix.what, "fix", "", "write what a runtime needs: gvisor")
	cmd.Flags().StringVar(&fix.config, "config", "",
		"with --fix, Docker's configuration file (default: /etc/docker/daemon.json, or your own if you are not root)")
	cmd.Flags().BoolVar(&fix.yes, "yes", false, "with --fix, do not ask")
	cmd.MarkFlagsMutuallyExclusive("fix", "json")
	return cmd
}

// fixing are the flags of --fix.
type fixing struct {
	what, config string
	yes          bool
}

// run changes the engine's configuration.
func (f *fixing) run(cmd *cobra.Command, folders *hostpath.Folders) error {
	if f.what != string(plan.RuntimeGVisor) {
		return exit.BadUsage(fmt.Errorf(
			"--fix %s: write --fix gvisor; for other runtimes `postern doctor` says what to do", f.what))
	}
	reload := "systemctl reload docker"
	if os.Geteuid() != 0 {
		reload = "systemctl --user reload docker"
	}
	path, err := f.config, error(nil)
	if path == "" {
		path, err = run.DefaultEngineConfig()
	}
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return err
	}
	change, err := run.ConfigureGVisor(folders, path)
	if err != nil {
		return err
	}
	at := visible.Text(change.Path)
	if bytes.Equal(change.Was, change.Content) {
		visible.Printf(cmd.OutOrStdout(), "%s has what gVisor needs; if Docker has not read it yet: %s\n", at, reload)
		return nil
	}
	advice.Settle(cmd.ErrOrStderr())
	visible.Printf(cmd.ErrOrStderr(), "%s will be:\n", at)
	if _, err := io.WriteString(cmd.ErrOrStderr(), visible.Lines(string(change.Content))); err != nil {
		return err
	}
	if !f.yes {
		err := publish.Confirm(cmd.Context(), os.Stdin, cmd.ErrOrStderr(), "Write "+at+"?",
			"postern doctor --fix gvisor")
		if err != nil {
			return err
		}
	}
	if err := change.Write(); err != nil {
		return err
	}
	visible.Printf(cmd.OutOrStdout(), "wrote %s; Docker reads it with: %s\n", at, reload)
	return nil
}

func show(out io.Writer, findings []run.Finding) {
	for _, f := range findings {
		if f.Usable {
			visible.Printf(out, "%-10s  usable      %s\n", f.Runtime, f.Detail)
			continue
		}
		visible.Printf(out, "%-10s  not usable  %s\n", f.Runtime, f.Why)
		if f.Remedy != "" {
			visible.Printf(out, "%-10s              %s\n", "", f.Remedy)
		}
	}
}
