package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/postern/postern/daemon"
	"github.com/postern/postern/node"
	"github.com/postern/postern/stacks"
)

func newNodeCmd() *cobra.Command {
	var home, id, envoyPath, metrics string
	cmd := &cobra.Command{
		Use:     "node --home DIR --id ID --envoy PATH [--metrics-listen ADDRESS]",
		Short:   "Run one node of a stack: an Envoy and its supervisor",
		Example: "  posternd node --home ~/.local/state/postern/local-1a2b3c4d --id n1 --envoy /usr/bin/envoy",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h := stacks.Home{Root: home}
			dir := h.NodeDir(id)
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return fmt.Errorf("make node folder: %w", err)
			}
			release, err := daemon.Lock(filepath.Join(dir, "pid"))
			if err != nil {
				return err
			}
			defer release()
			// Relative: a socket address is short, a state folder may not be.
			xds, err := filepath.Rel(dir, h.XDSSocket())
			if err != nil {
				return fmt.Errorf("find the control plane: %w", err)
			}
			log, monitor := logger(), node.NewMonitor(dir)
			stop, err := serveMetrics(monitor.Handler(), dir, metrics, log)
			if err != nil {
				return err
			}
			defer stop()
			return node.Run(cmd.Context(), node.Config{
				Monitor: monitor,
				ID:      id, Stack: filepath.Base(home), Dir: dir, XDS: xds, Audit: h.AuditDir(), Envoy: envoyPath, Log: log,
			})
		},
	}
	cmd.Flags().StringVar(&home, "home", "", "the stack's state folder (required)")
	cmd.Flags().StringVar(&id, "id", "", "the node's ID (required)")
	cmd.Flags().StringVar(&envoyPath, "envoy", "", "path of the Envoy binary (required)")
	cmd.Flags().StringVar(&metrics, "metrics-listen", "", "serve /metrics, /healthz and /readyz on this TCP address too, such as 127.0.0.1:9465")
	for _, f := range []string{"home", "id", "envoy"} {
		_ = cmd.MarkFlagRequired(f)
	}
	return cmd
}
