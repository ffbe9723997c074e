package sandbox

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestContainerEnds: exit statuses, signals, and what is left of a sandbox that is killed.
func TestContainerEnds(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, b *box) {
		b.spec.Agent = "ends-" + filepath.Base(t.Name())
		for script, want := range map[string]int{"exit 7": 7, "kill -9 $$": 137, "exec nosuch": 127} {
			_, status := b.run(t, "sh", "-c", script)
			require.Equal(t, want, status, script)
		}
		out, status := b.run(t, "nosuch")
		require.Equal(t, 127, status, out)
		require.Contains(t, out, "command not found in the sandbox")
		out, status = b.run(t, "./none")
		require.Equal(t, 127, status, out)
		b.write(t, "work/plain", "x")
		_, status = b.run(t, "./plain")
		require.Equal(t, 126, status)
		require.Empty(t, b.left(t))

		// A signal reaches the command; it decides what to do.
		cmd := b.command(t, "./try", "signals", "2")
		piped, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		next := lineReader(piped)
		require.Equal(t, "ready", next(t))
		require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
		require.Equal(t, "SIGTERM", next(t))
		require.NoError(t, cmd.Process.Signal(unix.SIGINT))
		require.Equal(t, "SIGINT", next(t))
		require.NoError(t, cmd.Wait())

		// kill -9 leaves nothing that runs, and the next run removes the rest.
		cmd = b.command(t, "sh", "-c", "echo ready; sleep 1000")
		piped, err = cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		require.Equal(t, "ready", lineReader(piped)(t))
		require.Len(t, b.left(t), 1)
		require.NoError(t, cmd.Process.Kill())
		require.Error(t, cmd.Wait())
		require.Eventually(t, func() bool { return len(b.left(t)) == 0 }, time.Minute, 50*time.Millisecond)
		b.sh(t, "true")
		left, err := filepath.Glob(filepath.Join(b.spec.Container.Folder, "run-*"))
		require.NoError(t, err)
		require.Empty(t, left)
	})
}

// TestContainerEndsThoughStopped: what the command could stop by a call that nobody has thought of
// is stopped: the gate, and on gVisor's kernel the first process. The container ends all the same.
func TestContainerEndsThoughStopped(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, b *box) {
		b.spec.Agent = "stopped-" + filepath.Base(t.Name())
		d, err := engine()
		require.NoError(t, err)
		stop := func(how string) {
			ids := b.left(t)
			require.Len(t, ids, 1)
			require.NoError(t, d.Exec(t.Context(), ids[0], how))
		}
		stopFirst := func() {
			stopped := filepath.Join(b.spec.Workdir, "stopped")
			stop("kill -STOP 1; touch " + stopped)
			require.Eventually(t, func() bool {
				return os.Remove(stopped) == nil
			}, time.Minute, 50*time.Millisecond)
		}
		gone := func() {
			require.Eventually(t, func() bool { return len(b.left(t)) == 0 }, time.Minute, 50*time.Millisecond)
		}
		begin := func() (*exec.Cmd, *bytes.Buffer) {
			cmd, complaint := b.command(t, "sh", "-c", "echo ready; exec sleep 1000"), new(bytes.Buffer)
			cmd.Stderr = complaint
			piped, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			require.Equal(t, "ready", lineReader(piped)(t))
			return cmd, complaint
		}
		// The gate is stopped.
		cmd, complaint := begin()
		stop("kill -STOP -1")
		require.Error(t, cmd.Wait())
		require.Contains(t, complaint.String(), "the command has stopped the process that serves the sandbox")
		gone()

		// `postern run` is killed.
		cmd, _ = begin()
		if b.spec.Container.Foreign {
			stopFirst()
		}
		require.NoError(t, cmd.Process.Kill())
		require.Error(t, cmd.Wait())
		gone()

		// Its caller gives up.
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		read, write, err := os.Pipe()
		require.NoError(t, err)
		defer read.Close()
		defer write.Close()
		request := b.spec
		request.Command = []string{"sh", "-c", "echo ready; exec sleep 1000"}
		request.Environ, request.Stdout = b.env, write
		failed := make(chan error, 1)
		go func() {
			_, err := request.run(ctx)
			failed <- err
		}()
		require.Equal(t, "ready", lineReader(read)(t))
		if b.spec.Container.Foreign {
			stopFirst()
		}
		cancel()
		select {
		case err := <-failed:
			require.ErrorIs(t, err, context.Canceled)
		case <-time.After(time.Minute):
			require.Fail(t, "the command still runs")
		}
		gone()
	})
}

// TestContainerThatStarts: a run that is told to end while the engine does not answer ends. What
// the engine makes for one that was killed is removed.
func TestContainerThatStarts(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		return // only root can start a container engine
	}
	for suffix, end := range map[string]os.Signal{"/start": unix.SIGTERM, "/create": unix.SIGKILL} {
		t.Run(suffix[1:], func(t *testing.T) {
			t.Parallel()
			b := newContainer(t, "", "root")
			b.spec.Agent = "starts-" + suffix[1:]
			asked, release, made := make(chan struct{}, 1), make(chan struct{}), make(chan int, 1)
			socket := b.spec.Container.Socket
			forward := &httputil.ReverseProxy{
				Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "engine" },
				Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, "unix", socket)
				}},
			}
			dir, err := os.MkdirTemp("", "hang") // a socket's path may not be long
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
			b.spec.Container.Socket = filepath.Join(dir, "docker.sock")
			l, err := net.Listen("unix", b.spec.Container.Socket)
			require.NoError(t, err)
			server := &http.Server{ReadHeaderTimeout: time.Minute}
			server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, suffix) {
					body, _ := io.ReadAll(r.Body)
					r = r.WithContext(context.WithoutCancel(r.Context()))
					r.Body = io.NopCloser(bytes.NewReader(body))
					asked <- struct{}{}
					<-release
					// It goes on when who asked is gone, as an engine does.
					answer := httptest.NewRecorder()
					forward.ServeHTTP(answer, r)
					made <- answer.Code
					w.WriteHeader(answer.Code)
					_, _ = w.Write(answer.Body.Bytes())
					return
				}
				forward.ServeHTTP(w, r)
			})
			go func() { _ = server.Serve(l) }()
			t.Cleanup(func() { _ = server.Close() })
			cmd, complaint := b.command(t, "true"), new(bytes.Buffer)
			cmd.Stderr = complaint
			require.NoError(t, cmd.Start())
			<-asked
			require.NoError(t, cmd.Process.Signal(end))
			require.Error(t, cmd.Wait())
			if end == unix.SIGTERM {
				require.Contains(t, complaint.String(), "start sandbox: terminated")
				require.Empty(t, b.left(t))
				close(release)
				return
			}
			close(release)
			require.Equal(t, http.StatusCreated, <-made)
			require.Eventually(t, func() bool { return len(b.left(t)) == 0 }, time.Minute, 50*time.Millisecond)
		})
	}
}
