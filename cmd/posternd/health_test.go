package main

import (
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHealth(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	check := func() error {
		root := newRoot()
		root.SetArgs([]string{"health", "--home", home})
		return root.ExecuteContext(t.Context())
	}
	require.ErrorContains(t, check(), "ask the control plane", "nobody is there")
	mux := http.NewServeMux()
	status := http.StatusOK
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
	dir := filepath.Join(home, "control")
	require.NoError(t, os.Mkdir(dir, 0o700))
	stop, err := serveMetrics(mux, dir, "", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer stop()
	require.NoError(t, check())
	status = http.StatusInternalServerError
	require.ErrorContains(t, check(), "the control plane answers 500")
}
