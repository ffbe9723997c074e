package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern/postern/stacks"
	"github.com/postern/postern/xds/api"
	"github.com/postern/postern/xds/bundle"
)

func newKillCmd() *cobra.Command {
	return killCmd(&cobra.Command{
		Use:   "kill --agent A | --everyone | --all",
		Short: "Stop agents at once: no new request, and no connection that is open",
		Long: `Stops agents at once, on every node: what they have open is cut, what they ask for is
denied. It lasts until "postern unkill", through restarts and whatever is published meanwhile,
and needs no valid stack file.`,
		Example: `  postern kill --agent demo
  postern kill --everyone      # every agent of the stack
  postern kill --all           # every agent of every stack of this user on this machine`,
	}, bundle.Kill, "killed")
}

func newUnkillCmd() *cobra.Command {
	return killCmd(&cobra.Command{
		Use:   "unkill --agent A | --everyone | --all",
		Short: "Let agents that were killed work again",
		Example: `  postern unkill --agent demo
  postern unkill --everyone    # what --everyone killed; agents killed by name stay so`,
	}, bundle.Unkill, "no longer killed")
}

func killCmd(cmd *cobra.Command, do func(context.Context, string, *api.Client, bundle.Killed) (*api.Converged, error), done string) *cobra.Command {
	var agents []string
	var everyone, all bool
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if len(agents) == 0 && !everyone && !all {
			return usageError{errors.New("say whom: --agent A, --everyone in the stack, or --all stacks")}
		}
		file, err := stackFile(cmd)
		if err != nil {
			return err
		}
		home, err := stacks.HomeOf(file)
		if err != nil {
			return err
		}
		homes := []stacks.Home{home}
		if all {
			dirs, err := filepath.Glob(filepath.Join(filepath.Dir(home.Root), "*", "bundle"))
			if err != nil {
				return err
			}
			homes = nil
			for _, d := range dirs {
				homes = append(homes, stacks.Home{Root: filepath.Dir(d)})
			}
		}
		whom := strings.Join(agents, ", ")
		if everyone || all {
			whom = "everyone"
		}
		var failed error
		for _, h := range homes {
			v, err := do(cmd.Context(), h.BundleURL(), api.Dial(h.ControlSocket()), bundle.Killed{Agents: agents, Stack: everyone || all})
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %w", filepath.Base(h.Root), err))
				continue
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s %s on %d nodes after %.1f ms\n", filepath.Base(h.Root), whom, done, v.Nodes, v.Millis)
		}
		return failed
	}
	cmd.Flags().StringSliceVarP(&agents, "agent", "a", nil, "these agents")
	cmd.Flags().BoolVar(&everyone, "everyone", false, "every agent of the stack")
	cmd.Flags().BoolVar(&all, "all", false, "every agent of every stack of this user on this machine")
	return cmd
}
