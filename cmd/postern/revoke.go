package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern/postern/stacks"
)

func newRevokeCmd() *cobra.Command {
	var flags editFlags
	cmd := &cobra.Command{
		Use:   "revoke [HOST[:PORT]]... --agent A [--client pip|npm|go]",
		Short: "Take a host away from an agent, while it runs",
		Long: `The inverse of allow: takes every rule for the host (on every port, if none is named) off the
agent's allow list in the stack file, shows the whole difference to what is live, publishes it and
returns when every node has taken it, or stops as allow does. Destinations that allow added go when no agent uses them any more.`,
		Example: `  postern revoke api.example.com --agent demo
  postern revoke --client pip --agent demo`,
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := stackFile(cmd)
			if err != nil {
				return err
			}
			hosts, err := flags.hosts(cmd.Context(), args)
			if err != nil {
				return err
			}
			for i, arg := range args {
				if !strings.Contains(arg, ":") {
					hosts[i].Port = 0
				}
			}
			edit, err := file.Revoke(stacks.RevokeRequest{Agent: flags.agent, Hosts: hosts})
			if err != nil {
				return err
			}
			return flags.apply(cmd, edit)
		},
	}
	flags.add(cmd)
	return cmd
}
