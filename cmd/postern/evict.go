package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern/postern/exit"
	"github.com/postern/postern/svid"
	"github.com/postern/postern/visible"
)

func newEvictCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "evict NODE...",
		Short: "Refuse nodes of other machines from now on, at every control plane, even with a valid certificate",
		Long: `Use this for a node that somebody else may control. From now on every control plane refuses the
node. It is sent nothing more, and cannot renew its certificate. An eviction never ends by itself.

The node keeps what it was sent. Change the secrets of the credentials that its agents use. If
somebody may know the join token, first remove the token's line from the file "tokens" of the control
planes. Otherwise the node joins again under another name.`,
		Example: `  postern evict web-5oqk2kzhnuvw7d3a -s prod`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, nodes []string) error {
			for _, n := range nodes {
				if !svid.IsJoined(n) {
					return exit.BadUsage(fmt.Errorf("%q is not a node of another machine: such a node is called NAME-HASH, as `postern status` shows it", n))
				}
			}
			// Needs no valid stack file.
			file, home, err := openHome(cmd)
			if err != nil {
				return err
			}
			o, err := operator(cmd.Context(), cmd.ErrOrStderr(), home)
			if err != nil {
				return err
			}
			out, err := o.Evict(cmd.Context(), nodes)
			switch {
			case out == nil:
				return err
			case err != nil:
				return exit.With(exit.Partial, fmt.Errorf("published as %d, and not confirmed everywhere: %w; a control plane applies it as soon as it sees it", out.Seq, err))
			}
			visible.Printf(cmd.OutOrStdout(), "%s: %s refused from now on, after %.1f ms\n", file.Name(), strings.Join(nodes, ", "), out.Converged.Millis)
			return nil
		},
	}
}
