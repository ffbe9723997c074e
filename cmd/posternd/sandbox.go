package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/postern/postern/sandbox/inside"
)

// newSandboxCmd is the in-sandbox side of `postern run`.
func newSandboxCmd() *cobra.Command {
	return &cobra.Command{
		Use:    "sandbox",
		Short:  "Serve one sandbox from the inside (started by `postern run`)",
		Args:   cobra.NoArgs,
		Hidden: true,
		Run:    func(*cobra.Command, []string) { os.Exit(inside.Main()) },
	}
}
