package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern/postern/stacks/edit"
)

func newRevokeCmd() *cobra.Command {
	var flags editFlags
	cmd := &cobra.Command{
		Use:   "revoke [HOST[:PORT]]... [--agent A] [--client CLIENT]",
		Short: "Take a host away from an agent, while it runs",
		Long: `Takes every rule for the host off the agent's allow list in the stack file: on every port, if you name
none. Then shows the whole difference to what is live, and publishes it. Returns when every node has
acknowledged it. It stops in the same cases as "postern allow". A destination that "postern allow"
added is removed when no agent uses it any longer.`,
		Example: `  postern revoke api.example.com
  postern revoke --client pip`,
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
			edited, err := edit.Revoke(file, edit.RevokeRequest{Agent: flags.agent, Hosts: hosts})
			if err != nil {
				return err
			}
			return flags.apply(cmd, edited)
		},
	}
	flags.add(cmd)
	return cmd
}
