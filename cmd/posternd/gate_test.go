package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// told answers every connection with its name and what it was told, until its end.
func told(t *testing.T, name string) (address string, end func()) {
	t.Helper()
	// An address of its own: nobody else gets the port when it is free again.
	at := fmt.Sprintf("127.%d.%d.%d:0", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250))
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", at)
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
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
	end = func() {
		l.Close()
		// While somebody accepts, the socket is still open, and takes connections.
		<-ended
	}
	t.Cleanup(end)
	return l.Addr().String(), end
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
	one, endOne := told(t, "one")
	two, endTwo := told(t, "two")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	g := newGate([]string{one, two}, slog.New(slog.DiscardHandler))
	g.last.Store(0)
	ended := make(chan error, 1)
	go func() { ended <- g.serve(ctx, l) }()

	require.Equal(t, "one:hello", ask(t, l.Addr()), "both directions, and half a connection")
	endOne()
	require.Equal(t, "two:hello", ask(t, l.Addr()))
	require.EqualValues(t, 1, g.last.Load(), "the next connection does not wait for the one that is gone")
	require.Equal(t, "two:hello", ask(t, l.Addr()))
	endTwo()
	require.Empty(t, ask(t, l.Addr()), "closed: there is no other way")
	cancel()
	require.NoError(t, <-ended)
}
