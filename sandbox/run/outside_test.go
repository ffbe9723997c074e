package run

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan/tool"
)

// TestOutside: a tool is the operator's program with the operator's words, and nothing that an
// agent wrote decides what runs or where. It changes variables of the process.
func TestOutside(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_STATE_HOME", filepath.Join(dir, "state"))
	t.Setenv("TOOL_TOKEN", "given")
	t.Setenv("OTHER_TOKEN", "CANARY")
	script := func(text string) string {
		path := filepath.Join(dir, "tool-"+strconv.Itoa(len(text)))
		require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700))
		return path
	}
	tools := newTools(nil)
	require.NoError(t, tools.listen(filepath.Join(dir, "tools")))
	outside := func(limit time.Duration, command ...string) (string, int, error) {
		tool := &tool.Tool{Name: "t", Command: command, Env: []string{"TOOL_TOKEN"}, Output: 1000}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		said, status, err := tools.Outside(ctx, tool, []byte("{\"a\":\"$(id)\"}\n"))
		return string(said), status, err
	}

	shows := script(`cat; pwd; env; echo "$@"; echo CANARY >&2; ls /proc/$$/fd; exit 3`)
	said, status, err := outside(time.Minute, shows, "$(id)", "-x")
	require.NoError(t, err)
	require.Equal(t, 3, status)
	require.Contains(t, said, "{\"a\":\"$(id)\"}\n/\n")
	require.Contains(t, said, "TOOL_TOKEN=given")
	require.Contains(t, said, "\n$(id) -x\n0\n1\n")
	require.NotContains(t, said, "CANARY")

	said, _, err = outside(time.Minute, script("yes long"))
	require.ErrorIs(t, err, ErrTooMuch)
	require.Len(t, said, 1000)

	for _, text := range []string{
		"echo $$; sleep 1000 & sleep 1000", // it takes too long
		"echo $$; sleep 1001 & exit 0",     // it leaves a process
	} {
		// On a busy machine a shell has said nothing yet when its time is over.
		for limit := time.Second; ; limit *= 2 {
			said, _, err = outside(limit, script(text))
			if strings.TrimSpace(said) != "" {
				break
			}
		}
		if strings.Contains(text, "1000") {
			require.ErrorIs(t, err, context.DeadlineExceeded)
		} else {
			require.NoError(t, err)
		}
		group, err := strconv.Atoi(strings.TrimSpace(said))
		require.NoError(t, err)
		require.Eventually(t, func() bool { return unix.Kill(-group, 0) != nil }, time.Minute, time.Millisecond)
	}

	_, _, err = outside(time.Minute, filepath.Join(dir, "none"))
	require.ErrorContains(t, err, "is not there")
	require.NotContains(t, err.Error(), dir)
	require.NoError(t, os.Symlink("/bin/sh", filepath.Join(dir, "innocent")))
	_, _, err = outside(time.Minute, filepath.Join(dir, "innocent"))
	require.ErrorContains(t, err, "is a shell")

	// What an agent may write is not run, whoever named it.
	work := filepath.Join(dir, "work")
	require.NoError(t, os.MkdirAll(work, 0o700))
	base, err := hostpath.StateFolder()
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(base, 0o700))
	require.NoError(t, hostpath.In(base).Record(work))
	echo := script("echo ran")
	written := filepath.Join(work, "tool")
	require.NoError(t, os.WriteFile(written, []byte("#!/bin/sh\necho ran"), 0o700))
	for _, command := range [][]string{
		{written},
		{echo, written},
		{echo, "--config=" + written},
		{echo, "-f" + written},
	} {
		said, _, err = outside(time.Minute, command...)
		require.Error(t, err, command)
		require.Empty(t, said, command)
	}
	require.NoError(t, os.Link(echo, filepath.Join(work, "linked")))
	_, _, err = outside(time.Minute, echo)
	require.ErrorContains(t, err, "somebody else may write it", "it has another name where an agent works")

	started := script("touch " + dir + "/started; sleep 1002")
	ended := make(chan error)
	go func() {
		_, _, err := outside(time.Minute, started)
		ended <- err
	}()
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(dir, "started"))
		return err == nil
	}, time.Minute, time.Millisecond)
	tools.Close()
	require.ErrorIs(t, <-ended, ErrClosed)
	_, _, err = outside(time.Minute, started)
	require.ErrorIs(t, err, ErrClosed)
}
