package sandbox

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/container"
	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/tests/docker"
)

// engine is the one container engine of this package's tests, with the image "root".
var engine = sync.OnceValues(func() (*docker.Daemon, error) {
	dir, err := os.MkdirTemp("", "dkr")
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	d, err := docker.Start(ctx, dir)
	if err != nil {
		return nil, err
	}
	ended = append(ended, func() error {
		if err := d.Stop(); err != nil {
			return err
		}
		return os.RemoveAll(dir)
	})
	archive, err := docker.Root(ctx, map[string]string{"/try": filepath.Join(tools, "postern-sandbox")})
	if err != nil {
		return nil, err
	}
	if root, err = io.ReadAll(archive); err != nil {
		return nil, err
	}
	return d, d.Import(ctx, "root", bytes.NewReader(root))
})

// root is the archive of the image "root", once engine has returned.
var root []byte

// ended is called when all tests have ended.
var ended []func() error

// engineRuntimes are the runtimes of the container engine, by their names for an operator.
var engineRuntimes = map[string]string{"container": "", "gvisor": "runsc"}

// eachEngine runs a test under every runtime of the container engine.
func eachEngine(t *testing.T, test func(t *testing.T, b *box)) {
	t.Helper()
	if os.Getuid() != 0 {
		return // only root can start a container engine
	}
	for name, runtime := range engineRuntimes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newContainer(t, runtime, "root"))
		})
	}
}

// newContainer is a box that is a container of the image. Its working directory is not root's.
func newContainer(t *testing.T, runtime, image string) *box {
	t.Helper()
	d, err := engine()
	require.NoError(t, err)
	b := newBox(t, 0)
	b.spec.Bubblewrap = ""
	b.spec.Container = &container.Options{
		Socket: d.Socket, Runtime: runtime, Foreign: runtime != "",
		Folder: filepath.Join(b.root, "state", "containers"),
	}
	b.use(t, image)
	b.give(t)
	return b
}

// use makes the box one of the image.
func (b *box) use(t *testing.T, image string) {
	t.Helper()
	e, err := container.Open(t.Context(), b.spec.Container.Socket)
	require.NoError(t, err)
	i, err := e.Image(t.Context(), image)
	require.NoError(t, err)
	b.spec.Container.Image, b.spec.Container.Volumes = i.ID, nil
	for place := range i.Config.Volumes {
		b.spec.Container.Volumes = append(b.spec.Container.Volumes, place)
	}
	b.spec.Image = &view.Image{Env: i.Config.Env}
}

// give makes an ordinary user the owner of the working directory.
func (b *box) give(t *testing.T) {
	t.Helper()
	require.NoError(t, filepath.Walk(b.spec.Workdir, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, 1234, 1234)
	}))
}

// left are the containers of the box's engine that were made for this box.
func (b *box) left(t *testing.T) []string {
	t.Helper()
	d, err := engine()
	require.NoError(t, err)
	ids, err := d.Containers(t.Context(), "dev.postern.agent="+b.spec.Agent)
	require.NoError(t, err)
	return ids
}

// TestContainerOfSomebodyElse: what a killed run has left is removed, and nothing else, whatever
// the labels say that an image's maker, or an agent in a file of the project, has chosen.
func TestContainerOfSomebodyElse(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		return // only root can start a container engine
	}
	b := newContainer(t, "", "root")
	d, err := engine()
	require.NoError(t, err)
	namespace, err := os.Readlink("/proc/self/ns/pid")
	require.NoError(t, err)
	owner := strings.Trim(strings.TrimPrefix(namespace, "pid:"), "[]") + "-4194304-1" // no process has that number
	theirs := map[string]string{"dev.postern.agent": "theirs", "dev.postern.owner": owner}
	require.NoError(t, d.Create(t.Context(), "theirs", "root", theirs))
	require.NoError(t, d.Create(t.Context(), "postern-abc", "root", map[string]string{"dev.postern.agent": "ours"}))
	left := filepath.Join(b.spec.Container.Folder, "run-"+owner+"-1")
	require.NoError(t, os.MkdirAll(left, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(left, "name"), []byte("postern-abc\n"+d.Socket), 0o600))
	elsewhere := filepath.Join(b.spec.Container.Folder, "run-"+owner+"-2")
	require.NoError(t, os.MkdirAll(elsewhere, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(elsewhere, "name"), []byte("postern-other\n/run/other.sock"), 0o600))
	b.sh(t, "true")
	ids, err := d.Containers(t.Context(), "dev.postern.agent=theirs")
	require.NoError(t, err)
	require.Len(t, ids, 1)
	ids, err = d.Containers(t.Context(), "dev.postern.agent=ours")
	require.NoError(t, err)
	require.Empty(t, ids)
	require.NoDirExists(t, left)
	require.DirExists(t, elsewhere, "this engine does not know whether that container is there")
}

// TestContainerReach: what is reached, by whom and how, is what it is under bubblewrap.
func TestContainerReach(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, b *box) {
		p := b.proxy(t)
		require.NoError(t, os.Chmod(filepath.Join(b.spec.Sockets[0], "proxy.sock"), 0o666))
		out := b.sh(t, `exec 2>&1
curl -sS --noproxy '*' https://allowed.test/
curl -sS https://allowed.test/
curl -sS --noproxy '*' https://denied.test/
curl -sS http://127.0.0.1:8080/x
./try dns udp 127.0.0.53:53 some.test. A | head -1
./try dns udp 8.8.8.8:53 some.test. A | head -1
for at in 93.184.216.34:22 127.0.0.1:22 192.168.0.1:5432 169.254.169.254:8080; do
  ./try dial tcp $at | grep -c 'connection refused'
done
./try dial tcp [2001:db8::1]:22 | grep -cE 'connection refused|no route to host'
./try interfaces`)
		require.Equal(t, []string{
			"node decrypted allowed.test", "node decrypted allowed.test",
			"curl: (35) OpenSSL: access denied", "node saw 127.0.0.1:8080",
			"NOERROR 1", "REFUSED 0", "1", "1", "1", "1", "1", "lo",
		}, strings.Split(strings.TrimSpace(accessDenied(out)), "\n"))
		require.Equal(t, []string{
			"CONNECT allowed.test:443", "CONNECT allowed.test:443", "CONNECT denied.test:443", "GET 127.0.0.1:8080/x",
		}, slices.DeleteFunc(p.requests(), func(r string) bool { // what was refused is told
			return strings.HasPrefix(r, "CONNECT ") && !strings.HasSuffix(r, ":443")
		}))
	})
}

// accessDenied shortens what OpenSSL says of the alert, whatever its version is.
func accessDenied(out string) string {
	lines := strings.Split(out, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "curl: (35)") && strings.Contains(line, "access denied") {
			lines[i] = "curl: (35) OpenSSL: access denied"
		}
	}
	return strings.Join(lines, "\n")
}

// TestContainerIsHardened: what the flags do, seen from the inside.
func TestContainerIsHardened(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, b *box) {
		b.spec.Limits = view.Limits{Scratch: 4 << 20, Processes: 200, Memory: 512 << 20}
		out := b.sh(t, `
grep -E '^(CapInh|CapPrm|CapEff|Seccomp):' /proc/self/status | tr -d '\t'
for place in / /etc /run /run/postern /dev /usr /bin /home; do touch $place/new 2>/dev/null && echo wrote $place; done
for place in /tmp /home/agent /dev/shm; do
  touch $place/new || echo cannot write $place
  cp /bin/true $place/true; $place/true 2>/dev/null && echo ran in $place
  head -c 5000000 /dev/zero > $place/full 2>/dev/null && echo filled $place
done
touch new && chmod u+s new 2>/dev/null && echo setuid
unshare -U true 2>/dev/null && echo namespace
mount -t tmpfs x /tmp 2>/dev/null && echo mounted
id -u; id -g; pwd; echo $HOME; true`)
		require.Equal(t, "CapInh:0000000000000000\nCapPrm:0000000000000000\nCapEff:0000000000000000\nSeccomp:2\n"+
			"1234\n1234\n"+b.spec.Workdir+"\n/home/agent\n", out)
	})
}

// TestContainersFirstProcess: the command has the user of the process that ends the sandbox. It can
// neither stop that process nor take its processors, and can do to itself what it may.
func TestContainersFirstProcess(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, b *box) {
		machine, err := arch.GetInfo(runtime.GOARCH)
		require.NoError(t, err)
		var script, want strings.Builder
		for _, call := range []string{
			"kill 1 19", "tkill 1 19", "tgkill 1 1 19", "rt_sigqueueinfo 1 19 zeros", "rt_tgsigqueueinfo 1 1 19 zeros",
			"pidfd_open 1 0", "sched_setaffinity 1 8 mask", "sched_setscheduler 1 5 zeros", "sched_setparam 1 zeros",
			"sched_setattr 1 zeros 0", "setpriority 0 1 19", "ioprio_set 1 1 0x6000", "prlimit64 1 7 0 0",
			"setpriority 2 0 19", // all processes of the user
			// A file sends signals: F_SETOWN, F_SETOWN_EX, F_SETSIG, FIOSETOWN, SIOCSPGRP.
			"fcntl 0 8 1", "fcntl 0 8 0xffffffffffffffff", "fcntl 0 8 0xffffffff", "fcntl 0 15 zeros", "fcntl 0 10 19",
			"ioctl 0 0x8901 zeros", "ioctl 0 0x8902 zeros",
			"kill 2 19", "tkill 2 19", "tgkill 2 2 19", "pidfd_send_signal 0 19 0 0", // the gate
		} {
			name, args, _ := strings.Cut(call, " ")
			fmt.Fprintf(&script, "echo %s; ./try syscall %d %s 2>&1\n", name, machine.SyscallNames[name], args)
			fmt.Fprintf(&want, "%s\nerror: operation not permitted\n", name)
		}
		for _, call := range []string{
			"sched_setaffinity 0 8 mask", "setpriority 0 0 5", "prlimit64 0 7 0 0", "fcntl 0 8 0", "fcntl 0 10 29",
		} {
			name, args, _ := strings.Cut(call, " ")
			fmt.Fprintf(&script, "echo %s; ./try syscall %d %s 2>&1\n", name, machine.SyscallNames[name], args)
			fmt.Fprintf(&want, "%s\ndone\n", name)
		}
		require.Equal(t, want.String(), b.sh(t, script.String()+"true"))
	})
}

// TestContainerSockets: a daemon of the host with a socket in the working directory is not reached.
func TestContainerSockets(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, b *box) {
		hostSocket(t, b, "host.sock")
		out := b.sh(t, `for at in "unix host.sock" "unix ./host.sock" "unix $PWD/host.sock" \
			"unix /proc/self/cwd/host.sock" "unixgram host.sock" "unixpacket host.sock"; do
			./try dial $at 2>&1; echo "status $?"; done`)
		require.NotContains(t, out, "status 0")
		require.Equal(t, 6, strings.Count(out, "status "), out)
		require.GreaterOrEqual(t, len(regexp.MustCompile("permission denied|address family not supported").
			FindAllString(out, -1)), 4, out)
		if b.spec.Container.Foreign {
			return // it has no Unix sockets by name at all
		}
		out = b.sh(t, `for path in own.sock /tmp/own.sock @abstract; do rm -f log; ./try listen $path > log &
			until grep -qs listening log; do sleep 0.05; done; ./try dial unix $path; done`)
		require.Equal(t, strings.Repeat("connected\n", 3), out)
	})
}

// TestFoldersWithHostileNames: an agent may have named its own folder so that it would be read as
// options of a mount, or as two paths.
func TestFoldersWithHostileNames(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, b *box) {
		outside := filepath.Join(b.root, "outside")
		require.NoError(t, os.WriteFile(outside, []byte(canary), 0o600))
		names := []string{
			"a:b:rw", "new\nline", `a,source=` + outside, "a,readonly", `"quoted", x`, "spaces  and\ttabs ",
			`back\slash`, "$(id)", "-v", "ü",
		}
		if b.spec.Container.Foreign {
			names = names[:3] // the engine reads the others, whatever the runtime is
		}
		for _, name := range names {
			b.spec.Workdir = filepath.Join(b.home, name)
			require.NoError(t, os.MkdirAll(b.spec.Workdir, 0o755))
			b.give(t)
			out := b.sh(t, "touch made; pwd")
			require.Equal(t, b.spec.Workdir+"\n", out)
			require.FileExists(t, filepath.Join(b.spec.Workdir, "made"))
		}
	})
}

// withLinks is the archive of the image "root", or of its empty folders, with links, by their
// paths, in place of what it has there.
func withLinks(t *testing.T, empty bool, links map[string]string) io.Reader {
	t.Helper()
	var content bytes.Buffer
	w := tar.NewWriter(&content)
	r := tar.NewReader(bytes.NewReader(root))
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		if links[strings.TrimSuffix(header.Name, "/")] == "" && (!empty || header.Typeflag == tar.TypeDir) {
			require.NoError(t, w.WriteHeader(header))
			_, err = io.Copy(w, r) //nolint:gosec // the image is our own
			require.NoError(t, err)
		}
	}
	for at, target := range links {
		if target == "a pipe" {
			require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeFifo, Name: at, Mode: 0o644}))
			continue
		}
		require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: at, Linkname: target}))
	}
	require.NoError(t, w.Close())
	return &content
}

// TestHostileImages: an agent may have made the image.
func TestHostileImages(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		return // only root can start a container engine
	}
	b := newContainer(t, "", "root")
	d, err := engine()
	require.NoError(t, err)
	image := func(empty bool, name string, links map[string]string, changes ...string) {
		require.NoError(t, d.Import(t.Context(), name, withLinks(t, empty, links), changes...))
		b.use(t, name)
	}
	// It asks for a user, programs, variables and a volume of its own.
	image(false, "demands", nil,
		"USER root", "ENTRYPOINT /bin/false", "CMD evil", "WORKDIR /elsewhere", "VOLUME /data", "EXPOSE 80",
		"ENV GODEBUG=madvdontneed=1 HTTPS_PROXY=http://elsewhere.test WANTED=yes HOME=/elsewhere",
		"HEALTHCHECK --interval=1s CMD touch "+filepath.Join(b.spec.Workdir, "checked"), "LABEL dev.postern.owner=1")
	out := b.sh(t, `id -u; pwd; echo $WANTED $HOME $HTTPS_PROXY; grep -c ' /data tmpfs' /proc/mounts
		sleep 3; test -e checked && echo checked; true`)
	require.Equal(t, "1234\n"+b.spec.Workdir+"\nyes /home/agent http://127.0.0.1:3128\n1\n", out)
	// It has links where the sandbox's own files go. No command is started in these: there is none.
	for name, links := range map[string]map[string]string{
		"link-run": {"run": b.spec.Workdir}, "link-own": {"run/postern": b.spec.Workdir},
		"link-inside": {"run/postern/postern-sandbox": filepath.Join(b.spec.Workdir, "try")},
		"link-host":   {"run/postern/host": b.spec.Workdir},
	} {
		image(true, name, links)
		out, status := b.run(t, "true")
		require.Equal(t, 99, status, name)
		require.Contains(t, out, "the image has a link at /run", name)
	}
	// The working directory would be elsewhere in it, also in place of our own files. Or something
	// else would cover it.
	work := strings.TrimPrefix(b.spec.Workdir, "/")
	for name, links := range map[string]map[string]string{
		"link-work": {"tmp": "/etc"}, "link-work-own": {work: "/run/postern"},
		"link-work-relative": {work: strings.Repeat("../", 20) + "run/postern"}, "link-work-run": {work: "/run"},
		"link-work-twice": {filepath.Dir(work): "/other", "other/work": "/run/postern"},
		"link-over-work":  {"home/agent": b.spec.Workdir}, "link-over-own": {"home/agent": "/run/postern"},
		"link-around-work": {"home/agent": "/other", "other": filepath.Dir(b.spec.Workdir)},
		"link-root":        {"home/agent": "/"},
	} {
		image(true, name, links)
		out, status := b.run(t, "true")
		require.Equal(t, 99, status, name)
		require.Contains(t, out, "the image has a link at /", name)
	}
	image(true, "link-volume", map[string]string{"data": "/etc"}, "VOLUME /data/ssl")
	out, status := b.run(t, "true")
	require.Equal(t, 99, status)
	require.Contains(t, out, "the image has a link at /data, on the way to /data/ssl")
	for _, file := range []string{"etc/passwd", "etc/group"} {
		image(true, "pipe", map[string]string{file: "a pipe"})
		out, status := b.run(t, "true")
		require.Equal(t, 99, status, file)
		require.Contains(t, out, "/"+file+" of the image is not a file")
	}
	// Links that lead elsewhere are many images' own.
	image(false, "link-home", map[string]string{"home": "/var/home", "srv": b.spec.Workdir})
	require.Equal(t, "/var/home\n", b.sh(t, "touch $HOME/new && readlink /home"))
	for _, place := range []string{
		"/", "/run/postern/nodes/0", "/proc/x", b.spec.Workdir, filepath.Join(b.spec.Workdir, "sub"),
		filepath.Dir(b.spec.Workdir),
	} {
		image(true, "volume", map[string]string{"any": "thing"}, `VOLUME ["`+place+`"]`)
		out, status := b.run(t, "true")
		require.Equal(t, 99, status, place)
		require.Contains(t, out, "the image wants a volume", place)
	}
	require.NoDirExists(t, filepath.Join(b.spec.Workdir, "sub"))
}

// TestContainerOverlay: the agent works as in the folder, which does not change. What it wrote is
// in the layer, as bubblewrap's agents leave it, and the engine keeps nothing.
func TestContainerOverlay(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, b *box) {
		if b.spec.Container.Foreign {
			b.overlay(t)
			out, status := b.run(t, "true")
			require.Equal(t, 99, status)
			require.Contains(t, out, "gVisor shows no overlay")
			return
		}
		for _, path := range []string{"keep", "edit", "gone", "emptied/a", ".env", "sub/.env", "sub/plain"} {
			b.write(t, "work/"+path, path+"\n")
		}
		b.give(t)
		before := tree(t, b.spec.Workdir)
		run := b.overlay(t, ".env", "sub/.env")
		out := b.sh(t, `exec 2>&1; set -e; echo two >> edit; rm gone; rm -r emptied; mkdir emptied; touch sub/new
			cat .env sub/.env || true; ls; ls sub; ln -s edit link; cp /bin/true tool; ./tool
			ls -A /run/postern/layers || true`)
		require.Equal(t, "cat: .env: No such file or directory\ncat: sub/.env: No such file or directory\n"+
			"edit\nemptied\nkeep\nsub\ntry\nnew\nplain\n"+
			"ls: cannot access '/run/postern/layers': No such file or directory\n", out)
		require.Equal(t, before, tree(t, b.spec.Workdir), "the host's folder changed")
		require.Equal(t, "modified edit \ndeleted emptied/a \ndeleted gone \nadded link \n"+
			"added sub/new \nadded tool a new program\n", changes(t, run))

		b.spec.Workspace.Mode = view.ReadOnly
		require.Equal(t, "refused\n0\nplain\n",
			b.sh(t, "touch keep 2>/dev/null || echo refused; ls -A | grep -c env; ls sub | grep -v new"))

		b.spec.Workspace.Mode = view.Overlay
		b.spec.Agent = "overlay-" + filepath.Base(t.Name())
		cmd := b.command(t, "sh", "-c", "touch late; echo ready; sleep 1000")
		piped, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		require.Equal(t, "ready", lineReader(piped)(t))
		d, err := engine()
		require.NoError(t, err)
		mounts := func() int {
			n := 0
			options, err := d.Volumes(t.Context())
			require.NoError(t, err)
			for _, o := range options {
				n += strings.Count(o, "upperdir="+run.Layers()+"/")
			}
			return n
		}
		require.Equal(t, 1, mounts())
		require.NoError(t, cmd.Process.Kill())
		require.Error(t, cmd.Wait())
		require.Eventually(t, func() bool { return mounts() == 0 }, time.Minute, 50*time.Millisecond)
		require.Contains(t, changes(t, run), "added late")
		require.NoError(t, run.Discard(t.Context()))
		require.NoDirExists(t, run.Layers())

		// Its name would be several layers.
		b.spec.Workdir = filepath.Join(b.home, "work:etc")
		require.NoError(t, os.Mkdir(b.spec.Workdir, 0o755))
		b.overlay(t)
		out, status := b.run(t, "true")
		require.Equal(t, 99, status)
		require.Contains(t, out, "cannot be a layer of an overlay, for it has a comma, a colon, a backslash")
	})
}

// TestContainerWorkspaces: the modes that need no layer.
func TestContainerWorkspaces(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, b *box) {
		b.spec.Input.Workspace.Mode = view.ReadOnly
		require.Equal(t, "refused\n", b.sh(t, "touch new 2>/dev/null || echo refused"))
		b.spec.Input.Workspace.Mode = view.Ephemeral
		require.Equal(t, "/workspace\nnew\nrefused\n",
			b.sh(t, "pwd; touch new && ls; cp /bin/true .; ./true 2>/dev/null || echo refused"))
		b.spec.Input.Workspace.Mode = view.ReadOnly
		at := filepath.Join(b.spec.Workdir, "mounted")
		require.NoError(t, os.Mkdir(at, 0o755))
		require.NoError(t, unix.Mount("tmpfs", at, "tmpfs", 0, "size=64k"))
		defer func() { require.NoError(t, unix.Unmount(at, unix.MNT_DETACH)) }()
		out, status := b.run(t, "touch", "mounted/new")
		require.Equal(t, 99, status)
		require.Contains(t, out, "something is mounted in "+b.spec.Workdir)
	})
}
