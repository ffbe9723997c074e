package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/postern/postern/envoy"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/tests/fleet"
	"github.com/postern/postern/xds"
)

// control is the script command `control STACKFILE`: a control plane without
// nodes for that stack, until the script ends.
func control(t *testing.T) func(ts *testscript.TestScript, neg bool, args []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) != 1 {
			ts.Fatalf("usage: control STACKFILE")
		}
		// Home reads POSTERN_HOME of this process, not of the script.
		file, err := stacks.Open(ts.MkAbs(args[0]))
		ts.Check(err)
		real, err := file.Home()
		ts.Check(err)
		home := stacks.Home{Root: filepath.Join(ts.Getenv("POSTERN_HOME"), filepath.Base(real.Root))}
		ts.Check(home.Claim(file))
		fleet.WriteHome(t, home, fleet.NewCA(t, "postern test"))
		c, err := xds.New(xds.Config{
			Store: home.BundleURL(), Stack: home.Stack(), Trusted: home.Trusted(), CACert: home.CACert(), CAKey: home.CAKey(), State: home.ControlDir(),
			Envoy: envoy.Options{Roots: home.CACert()}, Log: slog.New(slog.DiscardHandler),
		})
		ts.Check(err)
		ctx, cancel := context.WithCancel(context.Background())
		operators, err := (&net.ListenConfig{}).Listen(ctx, "unix", home.ControlSocket())
		ts.Check(err)
		h := &http.Server{Handler: c.Handler(), ReadHeaderTimeout: time.Minute}
		var wg sync.WaitGroup
		wg.Go(func() { _ = c.Run(ctx) })
		wg.Go(func() { _ = h.Serve(operators) })
		ts.Defer(func() {
			cancel()
			_ = h.Close()
			wg.Wait()
		})
	}
}
