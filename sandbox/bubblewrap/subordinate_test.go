package bubblewrap

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/view"
)

func TestIDMap(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		m           idMap
		owner, user int
		want        []syscall.SysProcIDMap
	}{
		{idMap{}, 7, 1990000001, []syscall.SysProcIDMap{{ContainerID: 7, HostID: 1990000001, Size: 1}}},
		{idMap{others: true}, 0, 3, []syscall.SysProcIDMap{
			{ContainerID: 0, HostID: 3, Size: 1},
			{ContainerID: 1, HostID: 1, Size: 2},
			{ContainerID: 4, HostID: 4, Size: firstAgentID + agentIDs - 4},
		}},
		{idMap{others: true}, 5, 5, []syscall.SysProcIDMap{
			{ContainerID: 5, HostID: 5, Size: 1},
			{ContainerID: 0, HostID: 0, Size: 5},
			{ContainerID: 6, HostID: 6, Size: firstAgentID + agentIDs - 6},
		}},
		{idMap{others: true}, 1, 2000000000, []syscall.SysProcIDMap{
			{ContainerID: 1, HostID: 2000000000, Size: 1},
			{ContainerID: 0, HostID: 0, Size: 1},
			{ContainerID: 2, HostID: 2, Size: 2000000000 - 2},
		}},
	} {
		require.Equal(t, c.want, c.m.mapping(c.owner, c.user))
	}
}

func TestSubordinateRange(t *testing.T) {
	t.Parallel()
	for line, ok := range map[string]bool{
		"postern-agent:100000:65536": true, "postern-agent:1000:1": true,
		"postern-agent:0:65536": false, "postern-agent:999:1": false, "postern-agent:100000": false, "postern-agent:x:1": false, "postern-agent:100000:0": false, "postern-agent:-5:10": false,
	} {
		name, first, count, err := subordinateRange(line + "\n")
		require.Equal(t, agentAccount, name)
		require.Equal(t, ok, err == nil, line)
		if ok {
			require.GreaterOrEqual(t, first, 1000)
			require.Positive(t, count)
		}
	}
}

// What an agent that works above can cause ends the run: only what the machine or a file system
// cannot do lets root's agent be root.
func TestWhatAnAgentCausesIsNoExcuse(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		return
	}
	user, err := NewUser()
	require.NoError(t, err)
	t.Cleanup(user.Release)
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(dir+"/real/below", 0o700))
	require.NoError(t, os.Symlink("real", dir+"/link"))
	var here, other unix.Stat_t
	require.NoError(t, unix.Stat(dir, &here))
	require.NoError(t, unix.Stat("/usr", &other))
	var system unix.Stat_t
	require.NoError(t, unix.Stat("/sys/kernel", &system))
	for name, c := range map[string]struct {
		workdir string
		folder  *unix.Stat_t
		said    string
		unable  bool
	}{
		"as it was":                           {dir, &here, "", false},
		"another folder":                      {dir, &other, "it is no longer the mount that was checked", false},
		"behind a link":                       {dir + "/link/below", &here, "too many levels of symbolic links", false},
		"gone":                                {dir + "/gone", &here, "no such file", false},
		"a file system without idmapped ones": {"/sys/kernel", &system, "does its file system support idmapped mounts?", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := &view.View{
				Workdir: view.Workdir{Path: c.workdir, Device: c.folder.Dev, Inode: c.folder.Ino},
				Mounts:  []view.Mount{{Kind: view.Bind, Source: c.workdir, Target: c.workdir, Writable: true}},
			}
			prepared := make(chan error)
			go func() {
				runtime.LockOSThread() // the thread ends with the goroutine
				prepared <- user.Prepare(&exec.Cmd{Path: "/usr/bin/true", SysProcAttr: new(syscall.SysProcAttr)}, v)
			}()
			err := <-prepared
			if c.said == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.said)
			var unable *UnableError
			require.Equal(t, c.unable, errors.As(err, &unable), err)
		})
	}
}
