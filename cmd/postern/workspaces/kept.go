package workspaces

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/postern/postern/sandbox/workspace"
	"github.com/postern/postern/stacks/yaml"
	"github.com/postern/postern/visible"
)

// NewHome returns the command "postern home".
func NewHome(stack Stack) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "home",
		Short: "Show or clear the homes that agents keep",
		Long: `An agent whose stack file says home: {persist: true}, or whose command ran with --persist-home, keeps
its home: caches, settings, history. Each agent of a stack has its own, which no other agent sees.
Everything in it was written by the agent.`,
	}
	cmd.AddCommand(stack.listKept("home", "no agent keeps a home"), &cobra.Command{
		Use: "clear AGENT", Short: "Remove all that an agent keeps in its home",
		Long: `Removes all that the agent keeps in its home. Its next command begins with an empty one. Nothing is
removed while a command of the agent uses it.`,
		Example: "  postern home clear demo", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return stack.clear(cmd, args[0], "",
				fmt.Errorf("agent %q keeps no home: `postern home list` shows who does", args[0]))
		},
	})
	return cmd
}

// newVolume returns the command "postern workspace volume".
func newVolume(stack Stack) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "volume",
		Short: "Show or clear the volumes in which agents work",
		Long: `A command with workspace volume works in a folder that its agent keeps, at /workspace. It is there in
the agent's next command. An agent can have several, by their names in the stack file. No other agent
sees one. Everything in it was written by the agent.`,
	}
	cmd.AddCommand(stack.listKept("volume", "no agent has a volume"), &cobra.Command{
		Use: "clear AGENT NAME", Short: "Remove all that an agent keeps in a volume",
		Long:    `Removes all that is in the volume. Nothing is removed while a command of the agent uses it.`,
		Example: "  postern workspace volume clear demo workspace", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return stack.clear(cmd, args[0], args[1],
				fmt.Errorf("agent %q has no volume %q: `postern workspace volume list` shows all", args[0], args[1]))
		},
	})
	return cmd
}

// listKept returns the command that lists the homes, or the volumes.
func (stack Stack) listKept(what, none string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the " + what + "s, with their sizes", Args: cobra.NoArgs,
		Example: "  postern home list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := stack.kept(cmd)
			if err != nil {
				return err
			}
			all = slices.DeleteFunc(all, func(k *workspace.Kept) bool { return (k.Volume != "") != (what == "volume") })
			for _, k := range all {
				if err := printKept(cmd, k, asJSON); err != nil {
					return err
				}
			}
			if len(all) == 0 && !asJSON {
				visible.Println(cmd.ErrOrStderr(), none)
			}
			return nil
		},
	}
	if what == "volume" {
		cmd.Example = "  postern workspace volume list"
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object for each "+what)
	return cmd
}

// clear clears the agent's home, or its volume of that name. If there is none, it returns none.
func (stack Stack) clear(cmd *cobra.Command, agent, volume string, none error) error {
	all, err := stack.kept(cmd)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(k *workspace.Kept) bool { return k.Agent == agent && k.Volume == volume })
	if i < 0 {
		return none
	}
	if err := all[i].Clear(cmd.Context()); err != nil {
		return err
	}
	visible.Printf(cmd.OutOrStdout(), "cleared %s\n", all[i])
	return nil
}

func (stack Stack) kept(cmd *cobra.Command) ([]*workspace.Kept, error) {
	home, _, err := stack(cmd)
	if err != nil {
		return nil, err
	}
	return workspace.KeptIn(home.KeptDir())
}

// printKept prints a line about a home or a volume.
func printKept(cmd *cobra.Command, k *workspace.Kept, asJSON bool) error {
	used, whole, err := k.Measure()
	if err != nil && !errors.Is(err, workspace.ErrTooDeep) {
		return err
	}
	inUse := k.InUse()
	if asJSON {
		return printJSON(cmd.OutOrStdout(), struct {
			Agent  string `json:"agent"`
			Volume string `json:"volume,omitempty"`
			Bytes  uint64 `json:"bytes"`
			// Whole is false if a part could not be read.
			Whole bool `json:"whole"`
			InUse bool `json:"inUse"`
		}{k.Agent, k.Volume, used, whole, inUse})
	}
	name := k.Agent
	if k.Volume != "" {
		name += "  " + k.Volume
	}
	state := ""
	if !whole {
		state = " or more: a part of it cannot be read"
	}
	if inUse {
		state += "  (in use)"
	}
	line := visible.Sprintf("%s  %s%s\n", name, yaml.SizeText(used>>20<<20+1<<20), state)
	_, err = io.WriteString(cmd.OutOrStdout(), line)
	return err
}
