package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/postern/postern/checkout"
	"github.com/postern/postern/cmd/postern/prove"
	"github.com/postern/postern/drive"
	"github.com/postern/postern/hostpath"
)

// driven lets postern-stack, the Pulumi program, do the work of a command: this program links no
// Pulumi. Both have the same command line.
func driven(cmd *cobra.Command, r *drive.Request) error {
	if cmd.Name() == "prove" {
		if here, err := prove.Here(cmd, r, becomeCloud); here {
			return err
		}
	}
	folders, err := hostpath.AgentFolders()
	if err != nil {
		return err
	}
	return checkout.Stack("local").Start(cmd.Context(), folders, os.Args, os.Stderr)
}
