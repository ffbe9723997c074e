package sandbox

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox/trust"
)

func mkdir(path string) error { return os.MkdirAll(path, 0o755) }

// write makes a file of the box, with its folders.
func (b *box) write(t *testing.T, path, content string) string {
	t.Helper()
	if !filepath.IsAbs(path) {
		path = filepath.Join(b.home, path)
	}
	require.NoError(t, mkdir(filepath.Dir(path)))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	b.own(t)
	return path
}

const canary = "canary-4f1d"

func TestCallerStaysOutside(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		b.write(t, ".ssh/id_rsa", canary)
		b.write(t, "notes.txt", canary)
		b.write(t, "project2/x", canary)
		b.env = append(b.env, "SECRET_TOKEN="+canary, "AWS_SECRET_ACCESS_KEY="+canary, "PIP_INDEX_URL=https://user:"+canary+"@index.test/simple", "GOPROXY=https://proxy.test")
		b.spec.Env = []string{"WANTED=yes", "HTTPS_PROXY=http://elsewhere.test"}
		out := b.sh(t, `env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\0' '\n'; ls -aR ~; cat /etc/passwd; hostname; pwd; echo $HOME; id -u`)
		require.NotContains(t, out, canary)
		require.NotContains(t, out, "notes.txt")
		require.NotContains(t, out, "project2")
		require.NotContains(t, out, ".ssh")
		require.Contains(t, out, "WANTED=yes\n")
		require.NotContains(t, out, "elsewhere")
		require.Contains(t, out, "GOPROXY=https://proxy.test\n")
		uid := b.uid
		if uid == 0 {
			uid = 1000
		}
		require.Contains(t, out, fmt.Sprintf("demo\n%s\n%s\n%d\n", b.spec.Workdir, b.home, uid))
	})
}

func TestWorkdirIsTheOnlyPlaceThatStays(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		b.sh(t, `echo kept > made; echo x > ~/gone; echo x > /tmp/gone; mkdir -p ~/.cache/y`)
		content, err := os.ReadFile(filepath.Join(b.spec.Workdir, "made"))
		require.NoError(t, err)
		require.Equal(t, "kept\n", string(content))
		_, err = os.Stat(filepath.Join(b.home, "gone"))
		require.ErrorIs(t, err, os.ErrNotExist)
		out, status := b.run(t, "sh", "-c", `touch /x || touch /etc/x || touch /usr/x || touch /run/postern/nodes/0/x || touch /run/postern/x || rm /run/postern/ca.pem || touch /etc/passwd`)
		require.NotZero(t, status, out)
	})
}

func TestAgentHasNoPower(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		out := b.sh(t, `cat /proc/self/status; ls -l /dev`)
		for _, line := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
			require.Contains(t, out, line+":\t0000000000000000\n")
		}
		require.Contains(t, out, "NoNewPrivs:\t1\n")
		require.NotContains(t, out, "vda")
		b.refuses(t,
			"ip route add 203.0.113.0/24 dev lo", "ip link add dummy0 type dummy", "ip addr flush dev lo",
			"unshare -Ur ip route del local default dev lo", "unshare -Ur ip link set lo down",
			"nsenter -t 1 -n true", "nsenter -t 1 -U true",
			"unshare -Ur nsenter -t 1 -n true",
			"./try ptrace 1", "cat /proc/1/environ /proc/1/mem", "ls -l /proc/1/fd/ | grep -- '->'", "cat /proc/1/fd/6", "cat /proc/1/root/etc/hostname",
			"unshare -Urpf --mount-proc sh -c 'echo x > /proc/sys/kernel/core_pattern'",
			"unshare -Urm umount /proc/sys", "unshare -Urm umount "+b.home,
			"unshare -Urm mount -o remount,rw /usr", "unshare -Urm sh -c 'mount -o remount,bind,rw /run/postern/nodes/0 && touch /run/postern/nodes/0/x'",
			"./try write /proc/sys/kernel/core_pattern", "./try write /proc/sys/kernel/modprobe", "./try write /proc/sys/vm/drop_caches", "./try write /proc/sysrq-trigger",
			"./try write /proc/1/mem", "echo -1000 > /proc/1/oom_score_adj",
			"./try syscall 425 1 0",                        // io_uring_setup
			"./try syscall 16 0 0x5412",                    // ioctl TIOCSTI
			"echo x > own; ./try syscall 72 9 1024 9< own", // fcntl F_SETLEASE: F_RDLCK
			"./try syscall 250 11 0",                       // keyctl read
			"./try syscall 321 0 0",                        // bpf
			"./try syscall 0x40000027 0",                   // x32 getpid
			"test -e /var/lib/dpkg", "test -e /boot", "test -e /etc/shadow", "test -e /sys/kernel", "test -e /home/nobody-else", "test -e "+b.root+"/state", "cat /proc/kcore",
		)
		out = b.sh(t, `find /proc -maxdepth 7 -writable -type f -not -path '/proc/[0-9]*' -not -path '/proc/self/*' -not -path '/proc/thread-self/*' -exec test -f {} \; -print 2>/dev/null; true`)
		require.Empty(t, out, "writable files of the kernel")
	})
}

func TestFirstProcessIsImmune(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		b.proxy(t)
		require.Equal(t, "node saw localhost:8080\n", b.sh(t, `for s in $(seq 64); do kill -$s 1; done; curl -sS http://localhost:8080/`))
	})
}

// An abstract socket belongs to a network namespace, and a socket file is not
// there if its folder is not.
func TestSocketsOfTheHost(t *testing.T) {
	t.Parallel()
	name := fmt.Sprintf("postern-test-%d", os.Getpid())
	l, err := net.Listen("unix", "@"+name)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	eachCaller(t, func(t *testing.T, b *box) {
		out, _ := b.try(t, "dial", "unix", "@"+name)
		require.Contains(t, out, "connection refused")
		other := filepath.Join(b.root, "state", "node", "another")
		require.NoError(t, mkdir(other))
		b.own(t)
		b.serve(t, "another", other)
		out, _ = b.try(t, "dial", "unix", filepath.Join(other, "proxy.sock"))
		require.Contains(t, out, "no such file")
		out = b.sh(t, "ls -R /run/postern")
		require.NotContains(t, out, "another")
	})
}

// TestWorkdirSwapped: what an agent that works above puts in the folder's place, between the check
// and the mount, is not given to anybody.
func TestWorkdirSwapped(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		secret := b.write(t, "other/key", canary)
		swap := b.write(t, "swap", "#!/bin/sh\nmv "+b.spec.Workdir+" "+b.spec.Workdir+".old\nln -s "+filepath.Dir(secret)+" "+b.spec.Workdir+"\nexec "+bwrap+" \"$@\"\n")
		require.NoError(t, os.Chmod(swap, 0o755))
		b.spec.Bubblewrap = swap
		out, status := b.run(t, "cat", "key")
		require.NotZero(t, status)
		require.NotContains(t, out, canary)
		if b.uid != 0 { // root's folder is a mount before bubblewrap starts, and cannot be renamed from where that is
			require.Contains(t, out, "is no longer the folder that was checked: run this again")
		}
	})
}

// TestPrivateIsNotShown: a secret is hidden with the folder of programs that it is in, and refused
// where hiding it would take the system's programs away.
func TestPrivateIsNotShown(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		secret := b.write(t, "tools/bin/key", canary)
		require.NoError(t, os.Chmod(secret, 0o755))
		b.env = append(b.env, "PATH="+filepath.Dir(secret)+":/usr/bin:/bin")
		require.Equal(t, canary, b.sh(t, "cat "+secret))
		b.spec.Private = append(b.spec.Private, secret)
		require.Equal(t, "gone\n", b.sh(t, "test -e "+secret+" || echo gone"))
		b.spec.Private = append(b.spec.Private, "/usr/bin/true")
		out, status := b.run(t, "true")
		require.NotZero(t, status)
		require.Contains(t, out, "/usr/bin/true is among the programs of the system, which every agent can read: keep it elsewhere")
	})
}

func TestRefusedWorkdir(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		b.write(t, ".ssh/config", "")
		b.write(t, ".config/postern/stacks/local.yaml", "")
		b.write(t, ".local/bin/tool", "")
		require.NoError(t, os.Symlink(b.home, filepath.Join(b.root, "link")))
		for dir, why := range map[string]string{
			"/": "whole file system", b.home: "your home", b.root: "your home", filepath.Join(b.root, "link"): "your home",
			filepath.Join(b.root, "state"): "keeps keys", filepath.Join(b.root, "state", "node"): "keeps keys",
			"/home": "", "/root": "", "/opt": "", "/srv": "", "/var": "", "/mnt": "", "/var/log": "records", "/run": "", "/boot": "",
			filepath.Join(b.home, ".ssh"): "secrets", filepath.Join(b.home, ".config"): "secrets", filepath.Join(b.home, ".local"): "secrets",
			filepath.Join(b.home, ".config", "postern"): "settings", "/etc": "/etc", "/usr": "/usr", "/tmp": "your home",
		} {
			b.spec.Workdir = dir
			cmd := b.command(t, "true")
			cmd.Dir = "/"
			out, err := cmd.CombinedOutput()
			require.Error(t, err, dir)
			require.Contains(t, string(out), "as working directory")
			require.Contains(t, string(out), why, dir)
		}
	})
}

func TestTrustStores(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		b.proxy(t)
		out := b.sh(t, `env -i PATH=$PATH curl -sS https://allowed.test/
			for f in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt $SSL_CERT_FILE; do tail -n 3 $f | head -1 | cut -c1-4; done | sort -u | wc -l
			grep -c BEGIN $SSL_CERT_FILE; grep -c BEGIN $NODE_EXTRA_CA_CERTS`)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		require.Equal(t, "node decrypted allowed.test", lines[0])
		require.Equal(t, "1", lines[1])
		require.NotEqual(t, "1", lines[2])
		require.Equal(t, "1", lines[3])
	})
}

// Clients that ignore the proxy variables need no preparation.
func TestRealClients(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		b.proxy(t)
		out := b.sh(t, `node -e 'fetch("https://allowed.test/").then(r => r.text()).then(t => console.log(t.trim()))'
			git ls-remote https://denied.test/x 2>&1 | grep -o 403`)
		require.Equal(t, "node decrypted allowed.test\n403\n", out)
	})
}

// Java reads neither the proxy variables nor a bundle in PEM.
func TestJava(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("javac"); err != nil {
		store := trust.KeyStore(newAuthority(t).pem)
		require.Equal(t, []byte{0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 1}, store[:12])
		return
	}
	b := newBox(t, os.Getuid())
	b.proxy(t)
	b.write(t, "work/Fetch.java", `public class Fetch { public static void main(String[] a) throws Exception {
		System.out.print(new String(new java.net.URL("https://allowed.test/").openStream().readAllBytes())); } }`)
	require.Contains(t, b.sh(t, "java Fetch.java 2>&1"), "node decrypted allowed.test\n")
}
