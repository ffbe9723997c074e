package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/daemon"
	"github.com/postern/postern/envoy"
	"github.com/postern/postern/home"
	"github.com/postern/postern/node"
	"github.com/postern/postern/svid"
)

// nodeFlags are the flags of `posternd node`: of a node next to its control plane, or of a node on
// another machine.
type nodeFlags struct {
	home, id, envoy string

	controls          []string
	stack, dir, audit string
	token, authority  string
	metrics           string
	mirror            bool
}

func newNodeCmd() *cobra.Command {
	var n nodeFlags
	cmd := &cobra.Command{
		Use:   "node --id ID --envoy PATH (--home DIR | --control HOST:PORT,... --stack NAME --dir DIR --fleet-ca CA --join-token-file F)",
		Short: "Run one node of a stack: an Envoy and its supervisor",
		Example: `  posternd node --home ~/.local/state/postern/local-jsq3ztxoyfpbmrkuhcd5e2vgna --id n1 --envoy /usr/bin/envoy
  posternd node --control c1.internal:18000,c2.internal:18000 --stack prod --id "$HOSTNAME" --dir /var/lib/postern \
    --fleet-ca /etc/postern/fleet-ca.pem --join-token-file env://POSTERN_JOIN_TOKEN --envoy /usr/bin/envoy`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// An Envoy that was taken over must not find the join token, with which it could return
			// after its eviction.
			if err := protectMemory(); err != nil {
				return err
			}
			if len(n.controls) > 0 {
				return n.runRemote(cmd.Context(), logger())
			}
			return n.runLocal(cmd.Context(), logger())
		},
	}
	f := cmd.Flags()
	f.StringVar(&n.home, "home", "", "the stack's state folder: the control plane is on this machine")
	f.StringVar(&n.id, "id", "", "the node's ID; if the node joins, the beginning of its ID (required)")
	f.StringVar(&n.envoy, "envoy", "", "the path of the Envoy binary (required)")
	f.StringSliceVar(&n.controls, "control", nil, "HOST:PORT of each replica of the control plane on other machines")
	f.StringVar(&n.stack, "stack", "", "the stack's name, with --control")
	f.StringVar(&n.dir, "dir", "", "the node's private working folder, with --control")
	f.StringVar(&n.audit, "audit", "", "the folder of the audit log, with --control (default: DIR/audit)")
	f.StringVar(&n.token, "join-token-file", "", "the token with which the node joins: a file or env://NAME, with --control")
	f.StringVar(&n.authority, "fleet-ca", "", "the fleet authority's certificate: a file, env://NAME or sha256:HEX, with --control")
	f.BoolVar(&n.mirror, "audit-stdout", false, "also write every event to standard output, for a platform that ships it")
	f.StringVar(&n.metrics, "metrics-listen", "", "also serve /metrics, /healthz and /readyz on this TCP address, such as 127.0.0.1:9465")
	for _, f := range []string{"id", "envoy"} {
		_ = cmd.MarkFlagRequired(f)
	}
	cmd.MarkFlagsOneRequired("home", "control")
	cmd.MarkFlagsMutuallyExclusive("home", "control")
	cmd.MarkFlagsRequiredTogether("control", "stack", "dir", "fleet-ca", "join-token-file")
	return cmd
}

func (n *nodeFlags) runLocal(ctx context.Context, log *slog.Logger) error {
	h := home.Folder{Root: n.home}
	dir := h.NodeDir(n.id)
	release, err := own(dir)
	if err != nil {
		return err
	}
	defer release()
	// Relative, because a socket's address is short, and a state folder's path may not be.
	xds, err := filepath.Rel(dir, h.XDSSocket())
	if err != nil {
		return fmt.Errorf("find the control plane: %w", err)
	}
	return n.run(ctx, node.Config{ID: n.id, Stack: h.Stack(), Dir: dir, XDS: xds, Audit: h.AuditDir(), Log: log})
}

// runRemote joins the fleet, and then runs the node and keeps its certificate
// valid. Until it has joined, nothing is started.
func (n *nodeFlags) runRemote(ctx context.Context, log *slog.Logger) error {
	release, err := own(n.dir)
	if err != nil {
		return err
	}
	defer release()
	member := &svid.Member{
		Stack: n.stack, Name: n.id, Controls: n.controls, Token: n.token, Authority: n.authority, Dir: filepath.Join(n.dir, "key"), Log: log,
		Write: func(chain, key []byte) error {
			b, err := envoy.Identity(chain, key)
			if err != nil {
				return err
			}
			return atomicfile.Write(filepath.Join(n.dir, envoy.IdentityPath), b, 0o600)
		},
	}
	id, authority, err := member.Join(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	kept := make(chan error, 1)
	go func() {
		defer cancel()
		kept <- member.Keep(ctx)
	}()
	err = n.run(ctx, node.Config{
		ID: id, Stack: n.stack, Dir: n.dir, Audit: or(n.audit, filepath.Join(n.dir, "audit")), Log: log,
		Remote: &envoy.Remote{
			Controls: n.controls, Authority: string(authority), ServerName: svid.ServerName, URI: svid.ControlURI(n.stack).String(),
		},
	})
	cancel()
	return errors.Join(err, <-kept)
}

// run runs the node, and logs its state. Envoy's module is next to this program, with which it was
// built.
func (n *nodeFlags) run(ctx context.Context, c node.Config) error {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return fmt.Errorf("find this program's folder: %w", err)
	}
	c.Envoy, c.Modules = n.envoy, filepath.Dir(self)
	c.Monitor = node.NewMonitor(c.Dir) //nolint:contextcheck // a scrape has its own
	if n.mirror {
		c.Mirror = os.Stdout
	}
	stop, err := serveMetrics(c.Monitor.Handler(), c.Dir, n.metrics, c.Log)
	if err != nil {
		return err
	}
	defer stop()
	return node.Run(ctx, c)
}

// own makes the folder, and is its only user until release.
func own(dir string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make node folder: %w", err)
	}
	return daemon.Lock(filepath.Join(dir, "pid"))
}
