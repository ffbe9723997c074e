package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/daemon"
	"github.com/postern/postern/envoy"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/hostpath/roots"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/telemetry"
	"github.com/postern/postern/xds"
)

func newControlCmd() *cobra.Command {
	var root, metrics, replica, nodesGroup string
	var container, mirror bool
	var remote remoteNodes
	cmd := &cobra.Command{
		Use:   "control --home DIR [--metrics-listen ADDRESS] [--replica NAME]",
		Short: "Run the control plane of a stack, or one of its replicas",
		Example: `  posternd control --home ~/.local/state/postern/local-jsq3ztxoyfpbmrkuhcd5e2vgna
  posternd control --home /var/lib/postern/prod --replica eu-1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if container {
				if err := fromEnvironment(home.Folder{Root: root}, &remote); err != nil {
					return err
				}
				if replica == "" {
					if replica, err = replicaName(); err != nil {
						return err
					}
				}
			}
			var shipped io.Writer
			if mirror {
				shipped = os.Stdout
			}
			return runControl(cmd.Context(), home.Folder{Root: root}, metrics, replica, nodesGroup, shipped, &remote, logger())
		},
	}
	cmd.Flags().StringVar(&root, "home", "", "the stack's state folder (required)")
	cmd.Flags().StringVar(&metrics, "metrics-listen", "", "also serve /metrics, /healthz and /readyz on this TCP address, such as 127.0.0.1:9464")
	cmd.Flags().StringVar(&replica, "replica", "", "this replica's name, if the stack has several control planes; the replica then reports to the bundle store")
	cmd.Flags().BoolVar(&mirror, "audit-stdout", false, "also write every event to standard output, for a platform that ships it")
	cmd.Flags().BoolVar(&container, "from-environment", false, "take the authority, the operators' keys and the store from POSTERN_CA, POSTERN_CA_KEY, POSTERN_OPERATORS and POSTERN_STORE, and the replica's name from the machine")
	cmd.Flags().StringVar(&nodesGroup, "nodes-group", "", "the group whose members may connect as nodes, if nodes run as another user")
	_ = cmd.MarkFlagRequired("home")
	remote.flags(cmd)
	return cmd
}

func runControl(ctx context.Context, home home.Folder, metrics, replica, nodesGroup string, mirror io.Writer, remote *remoteNodes, log *slog.Logger) error {
	if err := home.CheckSockets(); err != nil {
		return err
	}
	xds.CollectLess()
	if err := os.MkdirAll(home.ControlDir(), 0o700); err != nil {
		return fmt.Errorf("make state folder: %w", err)
	}
	release, err := daemon.Lock(filepath.Join(home.ControlDir(), "pid"))
	if err != nil {
		return err
	}
	defer release()
	if err := protectMemory(); err != nil {
		return err
	}
	authorities, err := findRoots()
	if err != nil {
		return err
	}
	fleet, err := remote.server(home, log)
	if err != nil {
		return err
	}
	name := audit.ControlPlane
	if replica != "" {
		name += "/" + replica
	}
	events, err := audit.NewWriter(home.AuditDir(), name)
	if err != nil {
		return err
	}
	defer events.Close() //nolint:errcheck // every event is on disk
	events.Mirror = mirror
	tracer, flush, err := telemetry.Tracer(ctx, "postern-control")
	if err != nil {
		return err
	}
	defer flush()
	control, err := xds.New(xds.Config{
		Store: home.BundleURL(), Stack: home.Stack(), Trusted: home.Trusted(), Replica: replica, CACert: or(remote.agentsCA, home.CACert()), CAKey: or(remote.agentsKey, home.CAKey()), State: home.ControlDir(),
		Envoy: envoy.Options{Roots: authorities},
		Prepare: func(node string, p *plan.Plan) error {
			for _, a := range p.Agents {
				if err := makeAgentDir(home, node, a.Name); err != nil {
					return err
				}
			}
			return nil
		},
		Fleet: fleet,
		Local: func(node string) bool {
			_, running, err := daemon.Running(filepath.Join(home.NodeDir(node), "pid"))
			return err == nil && running
		},
		Probe: probe(home), Event: recordTo(events), Tracer: tracer, Agents: hostpath.In(filepath.Dir(home.Root)), Log: log,
	})
	if err != nil {
		return err
	}
	stopMetrics, err := serveMetrics(control.Observability(), home.ControlDir(), metrics, log)
	if err != nil {
		return err
	}
	defer stopMetrics()
	nodes, err := listen(home.XDSSocket())
	if err != nil {
		return err
	}
	if nodesGroup != "" {
		if err := openTo(nodesGroup, home.XDSSocket()); err != nil {
			return errors.Join(err, nodes.Close())
		}
	}
	operators, err := listen(home.ControlSocket())
	if err != nil {
		return errors.Join(err, nodes.Close())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	grpcServer := grpc.NewServer(grpcOptions()...)
	if fleet != nil {
		fleet.Removed = control.Removed
		remoteServer, remoteListener, err := remote.serve(ctx, fleet)
		if err != nil {
			return errors.Join(err, nodes.Close(), operators.Close())
		}
		control.Register(ctx, grpcServer, remoteServer)
		defer remoteServer.Stop()
		go func() { cancel(remoteServer.Serve(remoteListener)) }()
	} else {
		control.Register(ctx, grpcServer)
	}
	httpServer := &http.Server{Handler: control.Handler(), ReadHeaderTimeout: 10 * time.Second}
	go func() { cancel(control.Run(ctx)) }()
	go func() { cancel(grpcServer.Serve(nodes)) }()
	go func() { cancel(httpServer.Serve(operators)) }()
	log.Info("control plane started", "pid", os.Getpid())
	<-ctx.Done()
	grpcServer.Stop()
	err = httpServer.Close()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// protectMemory protects a process that has secrets in memory or in the environment: no core file,
// and no other process of the same user can look (proc(5)).
func protectMemory() error {
	// See forbidCores in package node, which can set 1 only if it is not lowered further here.
	err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1})
	if err != nil {
		err = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	}
	if err := errors.Join(err, unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)); err != nil {
		return fmt.Errorf("protect the memory: %w", err)
	}
	return nil
}

// listen opens a Unix socket to which only this user can connect. It replaces what a killed control
// plane has left, because we hold the lock.
func listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replace socket: %w", err)
	}
	old := unix.Umask(0o177)
	defer unix.Umask(old)
	l, err := net.Listen("unix", path) //nolint:noctx // immediate
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// openTo lets the members of the group connect to the socket.
func openTo(group, socket string) error {
	g, err := user.LookupGroup(group)
	if err != nil {
		return fmt.Errorf("let nodes connect: %w", err)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err == nil {
		err = errors.Join(os.Chown(socket, -1, gid), os.Chmod(socket, 0o660)) //nolint:gosec // for the other daemon
	}
	if err != nil {
		return fmt.Errorf("let nodes connect: %w", err)
	}
	return nil
}

// makeAgentDir makes the folder of an agent's socket on a node. The folder has the group of the
// node's folder, because the node makes the socket, and the agent may pass through. Besides them,
// only the control plane may enter the node's folder.
func makeAgentDir(home home.Folder, node, agent string) error {
	dir := home.AgentDir(node, agent)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make socket folder: %w", err)
	}
	info, err := os.Stat(home.NodeDir(node))
	if err != nil {
		return fmt.Errorf("make socket folder: %w", err)
	}
	if err := errors.Join(os.Chown(dir, -1, int(info.Sys().(*syscall.Stat_t).Gid)), os.Chmod(dir, 0o771)); err != nil { //nolint:gosec // for the other daemon
		return fmt.Errorf("make socket folder: %w", err)
	}
	return nil
}

// findRoots returns the file of the authorities that upstreams are verified
// against: $SSL_CERT_FILE, or the distribution's.
func findRoots() (string, error) {
	if f := os.Getenv("SSL_CERT_FILE"); f != "" {
		return f, nil
	}
	if f, _ := roots.Find("/"); f != "" {
		return f, nil
	}
	return "", errors.New("this machine has no file of trusted certificate authorities: install ca-certificates, or set SSL_CERT_FILE")
}
