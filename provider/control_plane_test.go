package provider

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNewVariableIsNotSent: a variable that a proposal names makes a difference, and the control
// plane is told nothing of it.
func TestNewVariableIsNotSent(t *testing.T) {
	t.Setenv("KNOWN", "1")
	t.Setenv("NAMED_BY_AGENT", "the secret of somebody else")
	root := t.TempDir()
	a := ControlPlaneArgs{Home: root, Variables: []string{"KNOWN"}}
	socket := a.home().ControlSocket()
	require.NoError(t, os.MkdirAll(filepath.Dir(socket), 0o700))
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	told := ""
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:gosec // a test's
		b, _ := io.ReadAll(r.Body)
		told += string(b)
		_ = json.NewEncoder(w).Encode([]string{})
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	require.False(t, a.stale(t.Context(), []string{"KNOWN"}))
	require.JSONEq(t, `{"KNOWN":"1"}`, told)
	a.Variables = append(a.Variables, "NAMED_BY_AGENT", "NOT_SET")
	require.True(t, a.stale(t.Context(), []string{"KNOWN"}))
	require.NotContains(t, told, "somebody else")
}
