package attack

import (
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/plan"
)

// isolation is section G: around the network. Package sandbox tests the same
// from its side; here it is against the real fleet.
var isolation = []Case{
	{ID: "G1", What: "the container engine's socket and other services of the host", Ways: []Way{Inside}, Run: func(s *seat) {
		for _, path := range []string{"/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock", "/run/systemd/private", "/run/dbus/system_bus_socket", "/run/user/0/bus", "/run/snapd.socket", "/tmp/.X11-unix/X0", "/dev/log"} {
			s.undialable("unix", path)
		}
		for _, port := range []string{"2375", "2376", "6443", "10250"} {
			s.undialable("tcp", "127.0.0.1:"+port)
			s.undialable("tcp", "172.17.0.1:"+port)
			s.deny(plan.ReasonHost) // it is told
		}
		s.fails("ls /dev/kvm /dev/vsock /dev/vhost-vsock /dev/net/tun")
	}},
	{ID: "G2", What: "a program that knows no proxy variables", Ways: []Way{Inside}, Run: func(s *seat) {
		// Raw sockets by hand, without any client library.
		_, err := s.handshake(s.dial("tcp", "203.0.113.80:443"), s.host(evil))
		require.ErrorContains(s, err, "access denied")
		s.deny(plan.ReasonHost)
		a := exchange(s.dial("tcp", "203.0.113.80:80"), "GET", request("GET", "/", s.host(evil)))
		require.Equal(s, 403, a.Status)
		s.deny(plan.ReasonScheme)
	}},
	{ID: "G3", What: "mount, ptrace, io_uring and other system calls (W11)", Ways: []Way{Inside}, Run: func(s *seat) {
		const (
			ptraceAttach = 16
			ioctl        = unix.SYS_IOCTL
		)
		for what, call := range map[string][]uintptr{
			"io_uring": {unix.SYS_IO_URING_SETUP, 1, 0}, "ptrace of the gate": {unix.SYS_PTRACE, ptraceAttach, 1}, "bpf": {unix.SYS_BPF, 0, 0}, "perf": {unix.SYS_PERF_EVENT_OPEN, 0, 0}, "userfaultfd": {unix.SYS_USERFAULTFD, 0},
			"keyctl": {unix.SYS_KEYCTL, 11, 0}, "request_key": {unix.SYS_REQUEST_KEY, 0, 0}, "mount": {unix.SYS_MOUNT, 0, 0, 0}, "umount": {unix.SYS_UMOUNT2, 0, 0}, "pivot_root": {unix.SYS_PIVOT_ROOT, 0, 0},
			"terminal input": {ioctl, 0, unix.TIOCSTI}, "module": {unix.SYS_INIT_MODULE, 0, 0}, "kexec": {unix.SYS_KEXEC_LOAD, 0, 0}, "reboot": {unix.SYS_REBOOT, 0, 0}, "x32": {0x40000000 + unix.SYS_GETPID},
			"pidfd_getfd": {unix.SYS_PIDFD_GETFD, 0, 0, 0}, "open_by_handle_at": {unix.SYS_OPEN_BY_HANDLE_AT, 0, 0, 0}, "setns": {unix.SYS_SETNS, 0, 0},
		} {
			c, out, err := s.sandboxed.do(order{Call: call})
			require.NoError(s, err)
			c.Close()
			require.NotEmpty(s, out.Error, what)
		}
		s.fails("cat /proc/1/environ /proc/1/mem /proc/1/maps")
		s.fails("ls -l /proc/1/fd/ | grep -- '->'")
	}},
	{ID: "G4", What: "abstract Unix sockets", Ways: []Way{Inside}, Run: func(s *seat) {
		name := fmt.Sprintf("@postern-attack-%d", os.Getpid())
		l, err := net.Listen("unix", name)
		require.NoError(s, err)
		defer l.Close()
		require.Contains(s, s.undialable("unix", name), "refused")
	}},
	{ID: "G5", What: "the policy, the state folder and the log, from the sandbox", Ways: []Way{Inside}, Run: func(s *seat) {
		home := s.fleet.Home
		for _, path := range []string{home.Root, home.ControlDir(), home.AuditDir(), filepath.Join(home.NodeDir("n1"), "bootstrap.json"), filepath.Join(home.NodeDir("n1"), "access.fifo"), home.CACert(), filepath.Join(home.Root, "bundle")} {
			_, err := os.Stat(path)
			require.NoError(s, err, "a wrong path tests nothing")
			s.fails("ls " + path)
		}
	}},
	{ID: "G6", What: "another network namespace, another route, another user (W11)", Ways: []Way{Inside}, Run: func(s *seat) {
		for _, script := range []string{
			// A network of one's own has nothing in it.
			"unshare -Urn sh -c '" + network("loopback") + "; curl -sS -m 5 https://" + s.host(evil) + "/'", "unshare -Urn sh -c '" + network("loopback") + "; curl -sS -m 5 --noproxy \\* https://" + s.host(api) + "/v1/x'",
			"unshare -n true", "unshare -m true", "unshare -Urm umount /proc", "nsenter -t 1 -n true", "nsenter -t 1 -U true", "unshare -Ur nsenter -t 1 -n true", "chroot /proc/1/root true", "su -c true",
		} {
			s.fails(script)
		}
		for what := range networks {
			if what == "loopback" {
				continue
			}
			for _, script := range []string{network(what), "unshare -Ur env " + network(what)} {
				s.fails(script)
				out, _ := s.sh(script)
				require.Contains(s, out, "not permitted", script)
			}
		}
		for what, call := range map[string][]uintptr{
			"setuid": {unix.SYS_SETUID, 65534}, "setgid": {unix.SYS_SETGID, 65534}, "setgroups": {unix.SYS_SETGROUPS, 0, 0}, "chroot": {unix.SYS_CHROOT, 0},
			"unshare of a network": {unix.SYS_UNSHARE, unix.CLONE_NEWNET},
		} {
			c, out, err := s.sandboxed.do(order{Call: call})
			require.NoError(s, err)
			c.Close()
			require.NotEmpty(s, out.Error, what)
		}
		out, _ := s.sh("grep Cap /proc/self/status")
		require.NotRegexp(s, `Cap(Inh|Prm|Eff|Amb):\s+0*[1-9a-f]`, out)
		out, status := s.sh("curl -sS -m 8 https://" + s.host(api) + "/v1/x")
		require.Zero(s, status, "the way out is still there: %s", out)
		s.allow("api")
	}},
	{ID: "G7", What: "another agent's socket as one's own", Ways: []Way{Inside}, Run: func(s *seat) {
		// The folder of sockets can be neither replaced nor added to; a socket
		// of one's own in the working directory is nobody's.
		someone := bystander
		for _, script := range []string{
			"ln -s " + s.fleet.Home.AgentDir("n1", someone) + " link && ls link/", "mount --bind " + s.fleet.Home.AgentDir("n1", someone) + " /tmp", "find / -path '*" + someone + "*' 2>/dev/null | grep .", "ls /proc/1/root" + s.fleet.Home.Root,
		} {
			s.fails(script)
		}
		a := exchange(s.dial("unix", "/run/postern/nodes/0/proxy.sock"), "CONNECT", request("CONNECT", api+someone+".test:443", api+someone+".test:443", "X-Postern-Agent: "+someone))
		require.Equal(s, 403, a.Status)
		require.Contains(s, a.Body, `"`+s.name+`"`)
		s.deny(plan.ReasonHost)
	}},
}
