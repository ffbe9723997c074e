package main

import (
	"github.com/spf13/cobra"

	"github.com/postern/postern/cmd/postern/records"
	"github.com/postern/postern/demo"
)

// newDemoCmd shows the stack `local` at work.
func newDemoCmd() *cobra.Command {
	var prepare bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the stack `local` at work: a request allowed, one denied, and their events",
		Long: `Starts a small HTTPS server for ` + demo.Host + ` on a Unix socket. Sends two requests from the
sandbox of the agent "demo". The policy allows one, and the proxy adds an API key to it. The policy
denies the other. Then shows both events of the audit log.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := demo.Find()
			if err != nil {
				return err
			}
			if prepare {
				return d.Prepare()
			}
			return d.Show(cmd.Context(), cmd.OutOrStdout(), records.Printer(cmd.OutOrStdout(), false))
		},
	}
	cmd.Flags().BoolVar(&prepare, "prepare", false, "only make the server's certificate and the API key, unless they exist")
	return cmd
}
