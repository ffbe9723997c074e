package toolbox

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"
)

// client returns the official client of tools that the runner carries out.
func client(t *testing.T, runner Runner) *mcp.ClientSession {
	t.Helper()
	here, there := mcp.NewInMemoryTransports()
	server := New([]string{"git.test/acme/*"}, runner)
	serving, err := server.Connect(t.Context(), there, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = serving.Close() })
	session, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil).Connect(t.Context(), here, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = session.Close() })
	return session
}

func call(t *testing.T, session *mcp.ClientSession, tool string, arguments map[string]any) (string, bool) {
	t.Helper()
	result, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: tool, Arguments: arguments})
	require.NoError(t, err)
	require.Len(t, result.Content, 1)
	text, ok := result.Content[0].(*mcp.TextContent)
	require.True(t, ok)
	return text.Text, result.IsError
}

// TestCommands: what the runner gets is the script and whole arguments, in the order in which the
// script reads them.
func TestCommands(t *testing.T) {
	t.Parallel()
	var got []string
	session := client(t, func(_ context.Context, most int, command ...string) ([]byte, int, error) {
		require.Equal(t, mostOutput, most)
		require.Equal(t, []string{"/bin/sh", "-c", gitScript, "git"}, command[:4])
		got = command[4:]
		return []byte("said\xff\n"), 0, nil
	})
	const app = "git.test/acme/app"
	for _, c := range []struct {
		tool      string
		arguments map[string]any
		want      []string
	}{
		{"clone", map[string]any{"repository": app, "path": "a/b"}, []string{"clone", "./a/b", "https://" + app, ""}},
		{
			"clone",
			map[string]any{"repository": app, "path": "a", "branch": "b"},
			[]string{"clone", "./a", "https://" + app, "b"},
		},
		{"fetch", map[string]any{"repository": app}, []string{"fetch", "./.", "https://" + app}},
		{"push", map[string]any{"repository": app, "branch": "b"}, []string{"push", "./.", "https://" + app, "b", "b"}},
		{
			"push",
			map[string]any{"repository": app, "branch": "b", "to": "c", "path": "a"},
			[]string{"push", "./a", "https://" + app, "b", "c"},
		},
		{"branch", nil, []string{"branch", "./.", "", "HEAD"}},
		{"branch", map[string]any{"create": "b", "from": "c~1"}, []string{"branch", "./.", "b", "c~1"}},
		{"log", nil, []string{"log", "./.", "HEAD", "20"}},
		{"log", map[string]any{"revision": "b", "count": 3}, []string{"log", "./.", "b", "3"}},
		{"status", map[string]any{"path": "a b"}, []string{"status", "./a b"}},
	} {
		text, failed := call(t, session, c.tool, c.arguments)
		require.False(t, failed, text)
		require.Equal(t, "said\uFFFD", text)
		require.Equal(t, c.want, got)
	}
}

// TestFailures: the agent learns that a command failed, and what it said until then.
func TestFailures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		err    error
		want   string
	}{
		{1, nil, "git status failed (status 1):\nsaid"},
		{0, errors.New("it says too much"), "git status: it says too much\nsaid"},
	} {
		session := client(t, func(context.Context, int, ...string) ([]byte, int, error) {
			return []byte("said\n"), c.status, c.err
		})
		text, failed := call(t, session, "status", nil)
		require.True(t, failed)
		require.Equal(t, c.want, text)
	}
}

// TestSlots: an agent that calls many tools at a time has few sandboxes.
func TestSlots(t *testing.T) {
	t.Parallel()
	var running, most atomic.Int32
	started, release := make(chan struct{}, 10), make(chan struct{})
	session := client(t, func(ctx context.Context, _ int, _ ...string) ([]byte, int, error) {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		deadline, ok := ctx.Deadline()
		if !ok || time.Until(deadline) > localTime {
			return nil, 0, errors.New("no bound")
		}
		started <- struct{}{}
		<-release
		return []byte("said"), 0, nil
	})
	said := make(chan string)
	for range 6 {
		go func() {
			result, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "status"})
			if err != nil || result.IsError {
				said <- "failed"
				return
			}
			said <- "done"
		}()
	}
	for range mostTools {
		<-started
	}
	require.Empty(t, started)
	close(release)
	for range 6 {
		require.Equal(t, "done", <-said)
	}
	require.LessOrEqual(t, int(most.Load()), mostTools)
}

// served serves git's tools, which the runner carries out.
func served(t *testing.T, runner Runner) (post func(ctx context.Context, version, body string) (int, string, error)) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() { _ = Serve(l, &Tools{Git: []string{"git.test/acme/app"}, Run: runner}) }()
	client := http.Client{Timeout: time.Minute}
	return func(ctx context.Context, version, body string) (int, string, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+l.Addr().String()+Path,
			strings.NewReader(body))
		if err != nil {
			return 0, "", err
		}
		r.Host = "localhost:3129"
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept", "application/json, text/event-stream")
		r.Header.Set("Mcp-Protocol-Version", version)
		answer, err := client.Do(r)
		if err != nil {
			return 0, "", err
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		return answer.StatusCode, string(text), err
	}
}

const one = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"status"}}`

// TestAbandoned: calls for whose answers nobody waits do not pile up here.
func TestAbandoned(t *testing.T) {
	t.Parallel()
	var ran atomic.Int32
	release := make(chan struct{})
	post := served(t, func(context.Context, int, ...string) ([]byte, int, error) {
		ran.Add(1)
		<-release
		return []byte("said"), 0, nil
	})
	before := runtime.NumGoroutine()
	for range 200 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		_, _, err := post(ctx, "", one)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	require.EqualValues(t, mostTools, ran.Load())
	require.Less(t, runtime.NumGoroutine(), before+8*mostConnections)
	close(release)
}

// TestNoBatches: one request is one call. What many calls say would otherwise be kept until the
// last has ended, outside of every limit of the sandbox.
func TestNoBatches(t *testing.T) {
	t.Parallel()
	var ran atomic.Int32
	post := served(t, func(context.Context, int, ...string) ([]byte, int, error) {
		ran.Add(1)
		return []byte("said"), 0, nil
	})
	for _, version := range []string{"", "2024-11-05", "2025-03-26", "2025-06-18"} {
		for _, body := range []string{"[" + one + "]", " \t\r\n[" + one + "," + one + "]", "\ufeff[" + one + "]"} {
			status, text, err := post(t.Context(), version, body)
			require.NoError(t, err)
			require.Equal(t, http.StatusBadRequest, status, "%s %s: %s", version, body, text)
		}
		require.Zero(t, ran.Load())
		status, text, err := post(t.Context(), version, " "+one)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status, text)
		require.Contains(t, text, "said")
		require.EqualValues(t, 1, ran.Swap(0))
		status, _, err = post(t.Context(), version, strings.Repeat(`{"a":[`, 9000))
		require.NoError(t, err)
		require.Equal(t, http.StatusBadRequest, status, "deep")
	}
}

// TestServeEnds: no connection outlives the listener.
func TestServeEnds(t *testing.T) {
	t.Parallel()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan error)
	go func() { done <- Serve(l, &Tools{Git: []string{"git.test/acme/app"}}) }()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("GET /git HTTP/1.1\r\nHost: evil.test\r\n\r\n"))
	require.NoError(t, err)
	answer := make([]byte, 12)
	_, err = conn.Read(answer)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 403", string(answer))
	require.NoError(t, l.Close())
	require.NoError(t, <-done)
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	var rest strings.Builder
	for buffer := make([]byte, 1024); err == nil; {
		var n int
		n, err = conn.Read(buffer)
		rest.Write(buffer[:n])
	}
	require.NotErrorIs(t, err, context.DeadlineExceeded)
}
