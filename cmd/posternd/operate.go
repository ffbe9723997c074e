package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/envoy"
	"github.com/postern/postern/home"
	"github.com/postern/postern/node"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds"
)

// metricsSocket is the socket for monitoring, in the folder of the control plane or of a node.
const metricsSocket = "metrics.sock"

// serveMetrics serves h on the Unix socket dir/metrics.sock, to which only this user can connect.
// If the TCP address is not "", it also serves h there. It returns a function that ends both.
// People choose the address: what is served is read-only and names no destination, but nothing
// authenticates the client.
func serveMetrics(h http.Handler, dir, address string, log *slog.Logger) (func(), error) {
	path := filepath.Join(dir, metricsSocket)
	var listeners []net.Listener
	stop := func() {
		for _, l := range listeners {
			l.Close()
		}
	}
	l, err := listen(path)
	if err != nil {
		return nil, err
	}
	listeners = append(listeners, l)
	if address != "" {
		l, err := net.Listen("tcp", address) //nolint:noctx // immediate
		if err != nil {
			stop()
			return nil, fmt.Errorf("listen for metrics: %w; choose another --metrics-listen", err)
		}
		listeners = append(listeners, checked{l})
		log.Info("metrics", "address", l.Addr().String())
	}
	s := &http.Server{
		Handler: h, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	for _, l := range listeners {
		go func() {
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				log.Error("serve metrics", "error", err)
			}
		}()
	}
	return func() { s.Close() }, nil //nolint:errcheck // the process ends
}

// recordTo returns what writes the control plane's events to the audit log.
func recordTo(w *audit.Writer) func(xds.Event) error {
	return func(e xds.Event) error {
		return w.Record(audit.Event{
			Time: e.Time.UTC(), Kind: e.Kind, ID: e.ID, Publication: e.Seq, Version: e.Version, By: e.By,
			Agent: e.Agent, Rule: e.Rule, Why: e.Reason, Owner: e.Owner, Credential: e.Credential, Detail: e.Detail,
		})
	}
}

// probe returns a function that returns nil if a node of this machine serves the agents of p: each
// agent's socket takes a connection. A node of another machine answers for itself, through /readyz.
func probe(home home.Folder) func(context.Context, string, *plan.Plan) error {
	return func(ctx context.Context, id string, p *plan.Plan) error {
		if _, err := os.Stat(filepath.Join(home.NodeDir(id), envoy.AdminSocket)); err != nil {
			return nil //nolint:nilerr // it does not run here
		}
		for _, a := range p.Agents {
			if err := node.Probe(ctx, home.NodeDir(id), a.Name); err != nil {
				return err
			}
		}
		return nil
	}
}
