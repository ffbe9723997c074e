package main

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A load balancer's health check is answered with and without a header of the
// PROXY protocol; anything else is no request.
func TestHealthChecksMayHaveAProxyHeader(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }),
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(checked{l}) }()
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
	const request = "GET /readyz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"
	for name, c := range map[string]struct {
		sent string
		want int
	}{
		"none":        {request, http.StatusNoContent},
		"local":       {string(signature) + "\x20\x00\x00\x00" + request, http.StatusNoContent},
		"proxied":     {string(signature) + "\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x10\x00\x46\xa0" + request, http.StatusNoContent},
		"with a type": {string(signature) + "\x21\x11\x00\x10\xc0\x00\x02\x01\xc0\x00\x02\x02\x10\x00\x46\xa0\xea\x00\x01\x01" + request, http.StatusNoContent},
		"two":         {string(signature) + "\x20\x00\x00\x00" + string(signature) + "\x20\x00\x00\x00" + request, http.StatusBadRequest},
		"version 1":   {"PROXY TCP4 192.0.2.1 192.0.2.2 4096 18080\r\n" + request, http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", l.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			_, err = io.WriteString(conn, c.sent)
			require.NoError(t, err)
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			defer response.Body.Close()
			require.Equal(t, c.want, response.StatusCode)
		})
	}
}
