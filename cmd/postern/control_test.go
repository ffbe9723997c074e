package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"

	"github.com/postern/postern/envoy"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/xds"
	"github.com/postern/postern/xds/api"
	"github.com/postern/postern/xds/cache"
)

// control is the script command `control STACKFILE [alone]`: a control plane for that stack,
// with a node that acknowledges everything, or alone, until the script ends.
func control(t *testing.T) func(ts *testscript.TestScript, neg bool, args []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) == 0 || len(args) > 2 {
			ts.Fatalf("usage: control STACKFILE [alone]")
		}
		// Home reads POSTERN_HOME of this process, not of the script.
		file, err := stacks.Open(ts.MkAbs(args[0]))
		ts.Check(err)
		real, err := file.Home()
		ts.Check(err)
		home := home.Folder{Root: filepath.Join(ts.Getenv("POSTERN_HOME"), filepath.Base(real.Root))}
		ts.Check(home.Claim(file.Owner()))
		fleet.WriteHome(t, home, fleet.NewCA(t, "postern test"))
		c, err := xds.New(xds.Config{
			Store: home.BundleURL(), Stack: home.Stack(), Trusted: home.Trusted(), CACert: home.CACert(), CAKey: home.CAKey(), State: home.ControlDir(),
			Envoy: envoy.Options{Roots: home.CACert()}, Agents: hostpath.In(filepath.Dir(home.Root)), Log: slog.New(slog.DiscardHandler),
		})
		ts.Check(err)
		ctx, cancel := context.WithCancel(context.Background())
		operators, err := (&net.ListenConfig{}).Listen(ctx, "unix", home.ControlSocket())
		ts.Check(err)
		nodes, err := (&net.ListenConfig{}).Listen(ctx, "unix", home.XDSSocket())
		ts.Check(err)
		h := &http.Server{Handler: c.Handler(), ReadHeaderTimeout: time.Minute}
		g := grpc.NewServer(cache.ServerOption())
		c.Register(ctx, g)
		var wg sync.WaitGroup
		wg.Go(func() { _ = g.Serve(nodes) })
		wg.Go(func() { _ = c.Run(ctx) })
		wg.Go(func() { _ = h.Serve(operators) })
		client := api.Dial(home.ControlSocket())
		nodesThere := 2 - len(args)
		if nodesThere == 1 {
			ts.Check(client.AddNode(ctx, "n1"))
			fleet.StartAcker(t, home.XDSSocket(), "n1")
		}
		err = client.Watch(ctx, func(s *api.Status) error {
			if len(s.Nodes) == nodesThere && (nodesThere == 0 || s.Nodes[0].Connected) {
				return io.EOF
			}
			return nil
		})
		if !errors.Is(err, io.EOF) {
			ts.Fatalf("wait for the node: %v", err)
		}
		ts.Defer(func() {
			cancel()
			g.Stop()
			_ = h.Close()
			wg.Wait()
		})
	}
}
