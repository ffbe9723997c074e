package api

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// answering is a control plane that was taken over.
func answering(t *testing.T, status int, write func(w io.Writer)) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "control.sock")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { //nolint:gosec // a test's
		w.WriteHeader(status)
		write(w)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return Dial(socket)
}

// TestHostileAnswer: what a control plane says neither acts on a terminal nor takes the memory.
func TestHostileAnswer(t *testing.T) {
	t.Parallel()
	const hostile = "a\x1b[2Jb\u202ec\u009bd\te\nnode n1 is fine\n"
	status, err := answering(t, http.StatusOK, func(w io.Writer) {
		_ = json.NewEncoder(w).Encode(Status{Version: hostile, Seq: 1<<63 + 1, Nodes: []Node{{ID: hostile}}})
	}).Status(t.Context())
	require.NoError(t, err)
	const harmless = "a\ufffd[2Jb\ufffdc\ufffdd\ufffde node n1 is fine"
	require.Equal(t, harmless, status.Version)
	require.Equal(t, harmless, status.Nodes[0].ID)
	require.Equal(t, uint64(1<<63+1), status.Seq)
	for _, body := range []string{`{"error":"` + "a\\u001b[2Jb" + `"}`, "a\x1b[2Jb", `{} a` + "\x1b"} {
		_, err = answering(t, http.StatusTeapot, func(w io.Writer) { _, _ = io.WriteString(w, body) }).Status(t.Context())
		require.Error(t, err)
		require.NotContains(t, err.Error(), "\x1b")
	}
	_, err = readAnswer(strings.NewReader("12345"), 4)
	require.ErrorContains(t, err, "it is larger than 4 bytes")
	b, err := readAnswer(strings.NewReader("1234"), 4)
	require.NoError(t, err)
	require.Equal(t, "1234", string(b))
}
