package attack

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/stretchr/testify/require"
)

// hostDescriptors are what a command of ours could hand to the agent without meaning to: descriptors, streams, sockets.
var hostDescriptors = []HostCase{
	{"H15", "descriptors that the operator's shell left open (W8)", func(l *laptop) {
		folder, err := os.Open(l.root)
		require.NoError(l, err)
		defer folder.Close()
		canary, err := os.OpenFile(l.path("canary"), os.O_RDWR|os.O_APPEND, 0)
		require.NoError(l, err)
		defer canary.Close()
		cmd := l.agent(`for f in /proc/self/fd/*; do echo forged >> $f/canary; echo forged >> $f; done 2>/dev/null; (echo forged >&3; echo forged >&4) 2>/dev/null; echo ended`)
		cmd.ExtraFiles = []*os.File{folder, canary}
		out, err := cmd.Output()
		require.NoError(l, err)
		require.Contains(l, string(out), "ended\n")
	}},
	{"H16", "standard input, opened once more to be written (W9)", func(l *laptop) {
		canary, err := os.Open(l.path("canary"))
		require.NoError(l, err)
		defer canary.Close()
		cmd := l.agent(`(echo forged > /proc/self/fd/0; echo forged >> /dev/stdin; truncate -s 0 /dev/stdin) 2>/dev/null; cat`)
		cmd.Stdin = canary
		out, err := cmd.Output()
		require.NoError(l, err)
		require.Contains(l, string(out), hostCanary) // what else is there the agent wrote into its own pipe
	}},
	{"H17", "a daemon's socket in the agent's folder (W10)", func(l *laptop) {
		daemon, err := net.Listen("unix", filepath.Join(l.work, "daemon.sock"))
		require.NoError(l, err)
		defer daemon.Close()
		require.NoError(l, os.Chmod(filepath.Join(l.work, "daemon.sock"), 0o777)) // a careless daemon
		go func() {
			for {
				c, err := daemon.Accept()
				if err != nil {
					return
				}
				l.write("canary", "somebody connected")
				c.Close()
			}
		}()
		out := l.runs(nil, `python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect("daemon.sock")' 2>&1 | tail -n 1`)
		require.Contains(l, out, "Permission denied")
	}},
	{"H18", "a setuid program left in the agent's folder (W10)", func(l *laptop) {
		l.runs(nil, `cp /bin/sh s; chmod u+s s; chmod 6755 s; install -m 4755 /bin/sh t; true`)
		for _, name := range []string{"s", "t"} {
			if info, err := os.Lstat(filepath.Join(l.work, name)); err == nil {
				require.Zero(l, info.Mode()&(os.ModeSetuid|os.ModeSetgid), name)
			}
		}
	}},
	{"H19", "a link in the place of a folder of the agent's that is on PATH (W1)", func(l *laptop) {
		secret := l.write("private/key", canary)
		l.runs(nil, `mkdir .venv && ln -s `+filepath.Dir(secret)+` .venv/bin`)
		out := l.runs([]string{"PATH=" + filepath.Join(l.work, ".venv/bin") + ":" + os.Getenv("PATH")}, "cat "+secret+" .venv/bin/key 2>&1; true")
		require.NotContains(l, out, canary)
	}},
}

// agent is a `postern run` of a shell command that has not been started.
func (l *laptop) agent(script string) *exec.Cmd {
	cmd := exec.CommandContext(l.Context(), l.postern, "run", "--file", l.path("policy/local.yaml"), "--agent", "demo", "--", "sh", "-c", script)
	cmd.Dir, cmd.Env = l.work, l.environ
	return cmd
}
