// Command posternd is Postern's daemon: the control plane and the supervisor of a
// node, in one static binary.
package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/postern/postern/exit"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/usage"
)

func main() {
	hostpath.KeepDescriptors()
	ctx, stop := usage.Signals(func(sig usage.SignalError) {
		logger().Info("ending; once more ends it at once", "why", sig.Error())
	})
	defer stop()
	if err := usage.Ended(ctx, newRoot().ExecuteContext(ctx)); err != nil {
		fmt.Fprintln(os.Stderr, "posternd:", err)
		stop()
		os.Exit(exit.Status(err)) //nolint:gocritic // stop has run
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "posternd",
		Short: "Postern's daemon: control plane, node supervisor",
		Long: `Postern starts this program, not people: "postern up" starts the control plane
and the nodes.`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(newControlCmd(), newNodeCmd(), newAuthorityCmd(), newTokenCmd(), newGateCmd(), newHealthCmd())
	usage.Errors(root)
	return root
}

// logger writes structured lines to standard error, which is the daemon's log file.
func logger() *slog.Logger { return slog.New(slog.NewJSONHandler(os.Stderr, nil)) }
