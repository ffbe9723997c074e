package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// told answers every connection with its name and what it was told.
func told(t *testing.T, name string) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			heard, _ := io.ReadAll(c)
			_, _ = c.Write(append([]byte(name+":"), heard...))
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close() })
	return l
}

func ask(t *testing.T, at net.Addr) string {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", at.String())
	require.NoError(t, err)
	defer c.Close()
	_, _ = c.Write([]byte("hello")) // it may be closed already
	_ = c.(*net.TCPConn).CloseWrite()
	answer, _ := io.ReadAll(c)
	return string(answer)
}

// A gate that is gone costs nothing but the time to find that out.
func TestGateUsesAnother(t *testing.T) {
	t.Parallel()
	one, two := told(t, "one"), told(t, "two")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	g := newGate([]string{one.Addr().String(), two.Addr().String()}, slog.New(slog.DiscardHandler))
	g.last.Store(0)
	ended := make(chan error, 1)
	go func() { ended <- g.serve(ctx, l) }()

	require.Equal(t, "one:hello", ask(t, l.Addr()), "both directions, and half a connection")
	one.Close()
	require.Equal(t, "two:hello", ask(t, l.Addr()))
	require.EqualValues(t, 1, g.last.Load(), "the next connection does not wait for the one that is gone")
	require.Equal(t, "two:hello", ask(t, l.Addr()))
	two.Close()
	require.Empty(t, ask(t, l.Addr()), "closed: there is no other way")
	cancel()
	require.NoError(t, <-ended)
}
