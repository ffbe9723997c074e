package api

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestPublishedAgain: a control plane that is started again is told of the ports, until ctx is done.
func TestPublishedAgain(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "control.sock")
	opened, closed := make(chan Published), make(chan struct{}, 9)
	serve := func() *http.Server {
		l, err := net.Listen("unix", socket)
		require.NoError(t, err)
		s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var p Published
			if json.NewDecoder(r.Body).Decode(&p) != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			opened <- p
			<-r.Context().Done()
			closed <- struct{}{}
		})}
		go func() { _ = s.Serve(l) }()
		return s
	}
	first := serve()
	ctx, cancel := context.WithCancel(t.Context())
	want := Published{Agent: "demo", Addresses: []string{"127.0.0.1:3000"}}
	errs := make(chan error, 1)
	go func() { errs <- Dial(socket).Published(ctx, want, func() { t.Error("nobody was killed") }) }()
	require.Equal(t, want, <-opened)
	require.NoError(t, <-errs)
	require.NoError(t, first.Close())
	<-closed
	second := serve()
	require.Equal(t, want, <-opened)
	cancel()
	<-closed
	require.NoError(t, second.Close())
}

// TestPublishedIsCut: the ports of a killed agent are closed, and stay closed.
func TestPublishedIsCut(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "control.sock")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	kill := make(chan struct{})
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-kill:
			http.Error(w, "killed", StatusCut)
		default:
			_ = http.NewResponseController(w).Flush()
			<-kill
		}
	})}
	go func() { _ = s.Serve(l) }()
	defer func() { _ = s.Close() }()
	cut := make(chan struct{})
	require.NoError(t, Dial(socket).Published(t.Context(), Published{Agent: "demo"}, func() { close(cut) }))
	close(kill)
	<-cut
	require.ErrorIs(t, Dial(socket).Published(t.Context(), Published{Agent: "demo"}, nil), errCut)
}
