// Package completion has what shells complete of postern: stacks, agents, hosts and credentials.
// Nothing is asked of the fleet, and nothing is said: a person is typing.
package completion

import (
	"github.com/spf13/cobra"

	"github.com/postern/postern/stacks"
)

// Add lets shells complete the command's flags and arguments.
func Add(cmd *cobra.Command) {
	flag := func(name string, words func(*cobra.Command) []string) {
		if cmd.LocalFlags().Lookup(name) != nil {
			_ = cmd.RegisterFlagCompletionFunc(name, completed(words))
		}
	}
	names := func(*cobra.Command) []string { return stacks.Names() }
	flag("stack", names)
	flag("agent", agents)
	flag("host", hosts)
	var words func(*cobra.Command) []string
	switch cmd.Name() {
	case "up", "down", "preview", "prove", "check", "refresh":
		words = names
	case "allow", "revoke":
		words = hosts
	case "put":
		words = credentials
	default:
		return
	}
	cmd.ValidArgsFunction = completed(words)
}

func completed(words func(*cobra.Command) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return words(cmd), cobra.ShellCompDirectiveNoFileComp
	}
}

// chosen returns the stack that the flags so far choose, or an empty one.
func chosen(cmd *cobra.Command) *stacks.Stack {
	file, err := stacks.Choose(cmd.Flag("file").Value.String(), cmd.Flag("stack").Value.String())
	if err == nil {
		if s, err := file.Load(); err == nil {
			return s
		}
	}
	return nil
}

func agents(cmd *cobra.Command) (names []string) {
	if s := chosen(cmd); s != nil {
		for _, a := range s.Plan.Agents {
			names = append(names, a.Name)
		}
	}
	return names
}

func hosts(cmd *cobra.Command) (names []string) {
	if s := chosen(cmd); s != nil {
		for _, a := range s.Plan.Agents {
			for _, r := range a.Rules {
				names = append(names, r.Host)
			}
		}
	}
	return names
}

func credentials(cmd *cobra.Command) (names []string) {
	if s := chosen(cmd); s != nil {
		for _, c := range s.Plan.Credentials {
			names = append(names, c.Name)
		}
	}
	return names
}
