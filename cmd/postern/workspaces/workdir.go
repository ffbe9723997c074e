package workspaces

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/visible"
)

// NewWorkdir returns the command about folders in which agents work or have worked.
func NewWorkdir() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "workdir",
		Short: "Show or forget the folders in which agents work or have worked",
		Long: `No command trusts a path that leads through a folder in which an agent works or has worked. The
agent's files are still there when the agent has ended. The list has the folders of all stacks of this
user on this machine.`,
	}
	cmd.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List the folders, by their paths when an agent started there",
			Example: "  postern workdir list", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				NameUnsaid(cmd.ErrOrStderr())
				paths, err := workdirs()
				if err != nil {
					return err
				}
				all, err := paths.Paths()
				busy, err2 := paths.Busy()
				for _, p := range all {
					note := ""
					if info, err := os.Lstat(p); err != nil || !info.IsDir() {
						note = "  (it is not there now)"
					} else if slices.Contains(busy, p) {
						note = "  (an agent works there now)"
					}
					visible.Println(cmd.OutOrStdout(), visible.Text(p)+note)
				}
				return errors.Join(err, err2)
			},
		},
		&cobra.Command{
			Use: "forget PATH", Short: "Trust a folder again in which no agent works any longer",
			Long: `Takes a folder off the list, by the path that "postern workdir list" shows. Commands then trust
everything in the folder again: programs, stack files, credentials, links. Delete the folder first. Or
inspect everything in it that is not in your Git history. The command asks on a terminal, and does
nothing while an agent runs in the folder.`,
			Example: "  postern workdir forget /home/me/old-project", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error { return forget(cmd, args[0]) },
		},
	)
	return cmd
}

func workdirs() (hostpath.Registry, error) {
	base, err := hostpath.StateFolder()
	return hostpath.In(base), err
}

func forget(cmd *cobra.Command, path string) error {
	registry, err := workdirs()
	if err != nil {
		return err
	}
	all, err := registry.Paths()
	if err != nil {
		return err
	}
	if !slices.Contains(all, path) {
		return fmt.Errorf("%s: %w: `postern workdir list` shows it", visible.Text(path), hostpath.ErrUnknown)
	}
	question := fmt.Sprintf("An agent could write everything in %[1]s, and may have left programs, links, "+
		"stack files there.\n"+
		"From now on commands trust everything in it, wherever it was moved. Forget %[1]s?", visible.Text(path))
	again := "postern workdir forget " + hostpath.Quote(path)
	if err := publish.Confirm(cmd.Context(), os.Stdin, cmd.ErrOrStderr(), question, again); err != nil {
		return err
	}
	switch err := registry.Forget(path); {
	case errors.Is(err, hostpath.ErrRuns):
		return fmt.Errorf("%s is not forgotten: %w: wait for it to end", visible.Text(path), err)
	case err != nil:
		return fmt.Errorf("forget %s: %w", visible.Text(path), err)
	}
	visible.Printf(cmd.OutOrStdout(), "forgot %s\n", visible.Text(path))
	folders, err := registry.Folders()
	if err != nil {
		return err
	}
	if still := (*hostpath.WritableError)(nil); errors.As(folders.Check(filepath.Clean(path)), &still) {
		visible.Printf(cmd.OutOrStdout(), "it is not trusted all the same: %s\n", visible.Text(still.Error()))
	}
	return nil
}
