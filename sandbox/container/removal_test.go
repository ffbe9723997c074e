package container

import (
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestRemovedIsGone: a removal that is in progress may fail, so the container counts as removed
// when the engine no longer has it, and not before.
func TestRemovedIsGone(t *testing.T) {
	t.Parallel()
	answers := map[string][]string{ // one after another, and then the last one again
		"done":  {"409\n", "409\n", "404\n"},
		"ours":  {"409\n", "204\n"},
		"fails": {"409\n", "500\n" + `{"message":"cannot kill"}`},
		"stuck": {"409\n" + `{"message":"in progress"}`},
	}
	for name, want := range map[string]string{
		"done": "", "ours": "", "fails": "remove container: cannot kill: wait for its end: cannot kill",
		"stuck": "remove container: the engine still has it: in progress",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			asked, all := 0, answers[name]
			f := newFake(t, func(string) string {
				asked++
				if asked == 5 {
					time.AfterFunc(removeEvery/2, cancel) // between two requests
				}
				return all[min(asked, len(all))-1]
			})
			err := f.Remove(ctx, "c1")
			if want == "" {
				require.NoError(t, err)
			} else {
				require.EqualError(t, err, want+": run `docker --host unix://"+f.Socket+" rm --force --volumes c1`")
			}
			require.GreaterOrEqual(t, asked, len(all))
		})
	}
}

// TestRemovedAfterItsEnd: an engine fails to end a container whose processes the kernel still ends,
// as after a fork bomb. The removal waits for that end, and is then asked for again.
func TestRemovedAfterItsEnd(t *testing.T) {
	t.Parallel()
	const zombie = "500\n" + `{"message":"PID 7 is zombie and can not be killed"}`
	const again, wait = "DELETE /containers/c1?force=1&v=1", "POST /containers/c1/wait?condition=not-running"
	for name, c := range map[string]struct {
		removals []string // one after another, and then the last one again
		waits    string
		want     string
		asked    []string
	}{
		"ended":     {[]string{zombie, "204\n"}, "200\n{}", "", []string{again, wait, again}},
		"meanwhile": {[]string{zombie}, "404\n", "", []string{again, wait}},
		"for another reason": {
			[]string{zombie, "500\n" + `{"message":"busy"}`},
			"200\n{}", "remove container: busy",
			[]string{again, wait, again},
		},
		"no wait": {
			[]string{zombie},
			"500\n" + `{"message":"boom"}`,
			"remove container: PID 7 is zombie and can not be killed: wait for its end: boom",
			[]string{again, wait},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			removed := 0
			f := newFake(t, func(request string) string {
				if request == wait {
					return c.waits
				}
				removed++
				return c.removals[min(removed, len(c.removals))-1]
			})
			if err := f.Remove(t.Context(), "c1"); c.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.want)
				require.ErrorContains(t, err, "`docker --host unix://"+f.Socket+" rm --force --volumes c1`")
				require.False(t, isUnanswered(err))
			}
			require.Equal(t, c.asked, f.asked)
		})
	}
}

// TestRemovedNever: a container that does not end is waited for, but not for ever, and then it is
// said how a person removes it. The engine has answered, so nothing else is to be made.
func TestRemovedNever(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "fk") // a socket's path may not be long
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	e := &Engine{Socket: filepath.Join(dir, "podman.sock")}
	waits := make(chan struct{})
	serveEngine(t, e.Socket, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/_ping"):
			w.Header().Set("Api-Version", "1.43")
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, `{"message":"zombie"}`)
		default:
			close(waits)
			<-r.Context().Done()
		}
	})
	e, err = Open(t.Context(), e.Socket)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { <-waits; cancel() }()
	err = e.Remove(ctx, "c1")
	require.EqualError(t, err, "remove container: the engine still has it: zombie: run `podman --url unix://"+e.Socket+
		" rm --force --volumes c1`")
	require.False(t, isUnanswered(err))
}

// TestCloseEndsTheEnder: whoever reads that a container was not removed is not overtaken by a
// process that goes on with the removal.
func TestCloseEndsTheEnder(t *testing.T) {
	t.Parallel()
	f := newFake(t, func(string) string { return "500\n" + `{"message":"boom"}` })
	ender := exec.CommandContext(t.Context(), "sleep", "1000")
	require.NoError(t, ender.Start())
	r := &Running{engine: f.Engine, name: "n", gone: make(chan struct{}), folder: t.TempDir(), ender: ender}
	require.ErrorContains(t, r.Close(), "rm --force --volumes n`")
	require.NotNil(t, ender.ProcessState)
	require.DirExists(t, r.folder)
}
