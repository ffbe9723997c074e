package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
)

// dialTimeout is the time that a gate has to answer before the next is tried. Gates are in the same
// network.
const dialTimeout = 2 * time.Second

// maxConnections bounds what an agent can make its machine hold open.
const maxConnections = 1024

func newGateCmd() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:   "gate --listen ADDRESS:PORT GATE...",
		Short: "Lead an agent's connections on this machine to a gate that answers",
		Long: `A program takes one proxy address, and a stack in a cloud has a gate in each zone.
Each GATE is HOST:PORT. The gate that answered last is asked first. The bytes that
pass are not read.`,
		Example: "  posternd gate --listen 172.30.0.1:3128 10.64.0.10:12345 10.64.0.26:12345",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := (&net.ListenConfig{}).Listen(cmd.Context(), "tcp", listen)
			if err != nil {
				return fmt.Errorf("listen for the agent: %w", err)
			}
			return newGate(args, logger()).serve(cmd.Context(), l)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "", "the address that the agent is given (required)")
	_ = cmd.MarkFlagRequired("listen")
	return cmd
}

// gate leads connections to one of several addresses.
type gate struct {
	to  []string
	log *slog.Logger
	// last is the index of the node that answered last. Machines begin with different nodes.
	last atomic.Int64
}

func newGate(to []string, log *slog.Logger) *gate {
	g := &gate{to: to, log: log}
	g.last.Store(rand.Int64N(int64(len(to)))) //nolint:gosec // it spreads load
	return g
}

// serve takes connections from l until ctx ends, and closes it and them.
func (g *gate) serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var open sync.WaitGroup
	defer open.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	slots := make(chan struct{}, maxConnections)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		in, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("take a connection of the agent: %w", err)
		}
		open.Go(func() {
			defer func() { <-slots }()
			g.lead(ctx, in)
		})
	}
}

// lead joins a connection with one to a gate, or closes it if no gate answers.
func (g *gate) lead(ctx context.Context, in net.Conn) {
	defer in.Close()
	out, err := g.dial(ctx)
	if err != nil {
		g.log.Warn("no gate answers", "error", err)
		return
	}
	defer out.Close()
	stop := context.AfterFunc(ctx, func() { in.Close(); out.Close() })
	defer stop()
	var both sync.WaitGroup
	for _, way := range []struct{ to, from net.Conn }{{out, in}, {in, out}} {
		both.Go(func() {
			if _, err := io.Copy(way.to, way.from); err != nil {
				in.Close() // an end at one side ends the other
				out.Close()
				return
			}
			if half, ok := way.to.(*net.TCPConn); ok {
				_ = half.CloseWrite() // the other one may be gone already
			}
		})
	}
	both.Wait()
}

// dial connects to the first gate that answers, beginning with the gate that answered last.
func (g *gate) dial(ctx context.Context) (net.Conn, error) {
	var problems []error
	first := int(g.last.Load())
	for i := range g.to {
		at := (first + i) % len(g.to)
		out, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", g.to[at])
		if err == nil {
			g.last.Store(int64(at))
			return out, nil
		}
		problems = append(problems, err)
	}
	return nil, errors.Join(problems...)
}
