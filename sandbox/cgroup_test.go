package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox/view"
)

// bomb starts children that wait until no more can be started, and says how many there were.
const bomb = `python3 -c '
import os, time, signal
n = 0
for i in range(2000):
    try: pid = os.fork()
    except OSError as e:
        print("stopped:", e.strerror, n); break
    if pid == 0:
        time.sleep(30); os._exit(0)
    n += 1
else: print("never stopped")
'`

func TestForkBomb(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		b.spec.Limits = view.Limits{Processes: 60}
		out := b.sh(t, "PATH=/usr/bin:/bin; "+bomb)
		require.Contains(t, out, "stopped: Resource temporarily unavailable")
		fields := strings.Fields(out)
		n, err := strconv.Atoi(fields[len(fields)-1])
		require.NoError(t, err)
		require.Less(t, n, 60)
		out, status := b.run(t, "sh", "-c", "ulimit -u 100000 2>&1")
		require.NotZero(t, status, out)
	})
}

func TestMemoryHog(t *testing.T) {
	t.Parallel()
	group := newCgroup(view.Limits{Processes: 100, Memory: 100 << 20})
	held := strings.Join(group.held, " ")
	group.remove()
	for _, dir := range group.folders {
		require.NoDirExists(t, dir)
	}
	if os.Getuid() != 0 {
		return // needs a group that was delegated to this user: there is no telling here
	}
	require.Contains(t, held, "memory")
	require.Contains(t, held, "processes")
	require.Contains(t, held, "processors")
	b := newBox(t, 0)
	b.spec.Limits = view.Limits{Memory: 96 << 20}
	out, status := b.run(t, "./try", "hog", "480")
	require.NotZero(t, status, out)
	require.NotContains(t, out, "used")
	b.spec.Limits = view.Limits{}
	require.Contains(t, b.sh(t, "./try hog 160"), "used")
}

func TestScratchIsBounded(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		b.spec.Limits = view.Limits{Scratch: 4 << 20}
		for _, dir := range []string{"/tmp", "~", "/dev/shm"} {
			out, status := b.run(t, "sh", "-c", "head -c 5000000 /dev/zero > "+dir+"/full")
			require.NotZero(t, status, dir)
			require.Contains(t, out, "No space left on device", dir)
		}
		out, status := b.run(t, "sh", "-c", "echo x > /dev/new || echo x > /run/new || echo x > /new")
		require.NotZero(t, status, out)
		b.sh(t, "mktemp /dev/shm/x.XXXXXX; mktemp; test -c /dev/null && echo x > /dev/null")
	})
}

// What the kernel says of groups, on machines of different kinds.
func TestHierarchies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		own, mounts string
		want        []hierarchy
	}{
		"systemd": {
			own: "0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope\n", mounts: "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
			want: []hierarchy{{unified: true, controllers: []string{""}, parents: []string{
				"/sys/fs/cgroup", "/sys/fs/cgroup/user.slice", "/sys/fs/cgroup/user.slice/user-1000.slice", "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service",
				"/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice", "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope",
			}}},
		},
		"container": {
			own: "0::/\n", mounts: "30 23 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n",
			want: []hierarchy{{unified: true, controllers: []string{""}, parents: []string{"/sys/fs/cgroup"}}},
		},
		"version 1": {
			own: "8:pids:/\n4:memory:/a/b\n2:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n", mounts: "39 31 0:36 / /cg/pids rw - cgroup cgroup rw,pids\n35 31 0:32 /a /cg/memory rw - cgroup cgroup rw,memory\n36 31 0:33 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n",
			want: []hierarchy{
				{controllers: []string{"pids"}, parents: []string{"/cg/pids"}},
				{controllers: []string{"memory"}, parents: []string{"/cg/memory", "/cg/memory/b"}},
				{controllers: []string{"cpu", "cpuacct"}, parents: []string{"/cg/cpu"}},
			},
		},
		"none": {own: "", mounts: ""},
	} {
		require.Equal(t, c.want, hierarchies(c.own, c.mounts), name)
	}
}

// TestSignalsAreBounded: an agent that queues signals takes none of what its user's other sandboxes
// start with.
func TestSignalsAreBounded(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		require.Equal(t, "1024 1024\n", b.sh(t, `awk '/^Max pending signals/ {print $4, $5}' /proc/self/limits`))
	})
}

// TestEverythingIsInTheGroup looks from outside: the first process and the command are in the
// control groups that limit them before the command does anything.
func TestEverythingIsInTheGroup(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		return // needs a group that was delegated to this user: there is no telling here
	}
	b := newBox(t, 0)
	cmd := b.command(t, "sh", "-c", "echo ready; read x")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	require.Equal(t, "ready", lineReader(out)(t))
	pid := child(t, cmd.Process.Pid) // bwrap
	for _, what := range []string{"postern-sandbox", "command"} {
		pid = child(t, pid)
		groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		require.NoError(t, err)
		held := map[string]bool{}
		for line := range strings.Lines(string(groups)) {
			fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
			if strings.HasPrefix(filepath.Base(fields[2]), fmt.Sprintf("%s%d-", groupPrefix, cmd.Process.Pid)) {
				held[fields[1]] = true
			}
		}
		require.True(t, held[""] || held["pids"] && held["memory"], "%s: %s", what, groups)
	}
	_, err = in.Write([]byte("\n"))
	require.NoError(t, err)
	require.NoError(t, cmd.Wait())
}

// TestGroupsNamesStayOutside: the command does not learn what its control groups are called on the
// host, which has the number of a process in it.
func TestGroupsNamesStayOutside(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		for line := range strings.Lines(b.sh(t, "cat /proc/1/cgroup /proc/self/cgroup /proc/$$/task/*/cgroup")) {
			require.True(t, strings.HasSuffix(line, ":/\n"), line)
		}
	})
}
