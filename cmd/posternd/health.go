package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/home"
)

// healthPatience is less than a platform waits for an answer.
const healthPatience = 4 * time.Second

func newHealthCmd() *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use:   "health --home DIR",
		Short: "Fail if the control plane of a state folder does not answer: a health check for a container without a shell",
		Long: `Asks for /healthz, which says whether the process answers. It does not ask for
/readyz: a control plane without any publication is not ready, and a restart would
not change that.`,
		Example: `  posternd health --home /var/lib/postern/prod`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), healthPatience)
			defer cancel()
			return healthy(ctx, filepath.Join(home.Folder{Root: root}.ControlDir(), metricsSocket))
		},
	}
	cmd.Flags().StringVar(&root, "home", "", "the stack's state folder (required)")
	_ = cmd.MarkFlagRequired("home")
	return cmd
}

// healthy asks at a socket of [serveMetrics].
func healthy(ctx context.Context, socket string) error {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://control/healthz", nil)
	if err != nil {
		return fmt.Errorf("ask the control plane: %w", err)
	}
	answer, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("ask the control plane: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the control plane answers %s", answer.Status)
	}
	return nil
}
