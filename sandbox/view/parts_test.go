package view

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox/trust"
)

// TestListsOfPlaces: the lists that decide where no agent works, and what none sees, written out a
// second time.
func TestListsOfPlaces(t *testing.T) {
	t.Parallel()
	words := strings.Fields
	require.ElementsMatch(t, words(`/etc /proc /sys /dev /boot`), kernelAndSettings)
	require.ElementsMatch(t, words(`/usr/src /usr/local/src`), sources)
	require.ElementsMatch(t, words(`go sdk`), projects)
	require.ElementsMatch(t, words(`.local/bin .local/lib .cache go/bin go/pkg sdk/go* .npm .m2 .gradle .local/share/uv
		.local/share/pipx .local/pipx .local/share/virtualenvs .local/share/gem .gem .bundle .nuget .ivy2 .sbt .conda
		anaconda3 miniforge3 mambaforge micromamba .opam .ghcup .cabal .stack .pub-cache .krew .vscode-server .yarn
		.local/share/cargo .local/share/rustup`), programDirs)
	require.ElementsMatch(t, words(`/usr/sbin/nologin /sbin/nologin /usr/bin/nologin /bin/nologin /bin/false
		/usr/bin/false /bin/sync /usr/bin/sync`), noShells)
	never := words(`/root /run/docker.sock /run/podman/podman.sock /run/containerd/containerd.sock /h/.config`)
	for _, dir := range words(`.ssh .gnupg .aws .azure .config/gcloud .config/gh .config/hub .docker .kube
		.password-store .local/share/keyrings .mozilla .config/google-chrome .config/chromium .netrc .git-credentials .pulumi
		.terraform.d .vault-token`) {
		never = append(never, "/h/"+dir, "/root/"+dir)
	}
	require.ElementsMatch(t, never, Never("/h", ""))
	require.ElementsMatch(t, never, Never("/h", "relative"))
	require.ElementsMatch(t, append(never, "/run/user/1/docker.sock", "/run/user/1/podman/podman.sock"),
		Never("/h", "/run/user/1"))
}

// TestKernel: what of /proc an agent cannot write, and what it cannot read if root called.
func TestKernel(t *testing.T) {
	t.Parallel()
	root := tree(t, strings.Fields(`proc/sys/ proc/pressure/ proc/sysrq-trigger proc/fs/ proc/acpi/ proc/scsi/ proc/mtrr
		proc/kcore proc/keys proc/key-users proc/timer_list proc/sched_debug proc/kpagecount proc/kpageflags
		proc/kpagecgroup proc/cpuinfo`)...)
	for _, c := range []struct {
		uid              int
		readOnly, masked string
	}{
		{1, "/proc/sys /proc/pressure", ""},
		{
			0, "/proc/sys /proc/pressure /proc/sysrq-trigger /proc/fs /proc/acpi /proc/scsi /proc/mtrr",
			`/proc/kcore /proc/keys /proc/key-users /proc/timer_list /proc/sched_debug /proc/kpagecount /proc/kpageflags
				/proc/kpagecgroup`,
		},
	} {
		b := (&machine{root: root, uid: c.uid}).builder(&Input{})
		b.kernel()
		require.ElementsMatch(t, strings.Fields(c.readOnly), b.ReadOnly)
		require.ElementsMatch(t, strings.Fields(c.masked), b.Masked)
	}
}

// TestImage: all of a view of an image, in its order. Of this machine there are the working
// directory, the gate and the roots, and no program.
func TestImage(t *testing.T) {
	t.Parallel()
	m := small(t, 0)
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 { // the owner of the working directory is the user
		uid, gid = 4321, 4322
		require.NoError(t, os.Chown(m.at("/home/me/work"), uid, gid))
	}
	in := m.input(t)
	in.Image = &Image{Env: []string{"PATH=/x:/y", "JAVA_HOME=/opt/java", "TERM=dumb", "OF_IMAGE=1"}}
	in.Environ = append(in.Environ, "TERM=xterm")
	v, err := m.view(in)
	require.NoError(t, err)
	require.Equal(t, []int{uid, gid}, []int{v.UID, v.GID})
	require.Empty(t, v.Program)
	for _, set := range []string{"PATH=/x:/y", "HOME=/home/agent", "TERM=xterm", "OF_IMAGE=1", "USER=agent"} {
		require.Contains(t, v.Env, set)
	}
	const roots = "-----BEGIN\nauthority"
	file := func(path, content string) Mount {
		return Mount{Kind: File, Target: path, Content: []byte(content)}
	}
	bind := func(path, at string) Mount { return Mount{Kind: Bind, Source: path, Target: at} }
	want := []Mount{
		{Kind: Tmpfs, Target: "/tmp", Mode: 0o1777, Size: 4096},
		{Kind: Tmpfs, Target: "/home/agent", Mode: 0o700, Size: 4096},
		{Kind: Bind, Source: "/home/me/work", Target: "/home/me/work", Writable: true},
	}
	etc := slices.IndexFunc(v.Mounts, func(m Mount) bool { return m.Target == "/etc/passwd" })
	require.Contains(t, string(v.Mounts[etc].Content), "::/home/agent:/bin/sh\n")
	for _, name := range strings.Fields("gitconfig group hostname hosts nsswitch.conf passwd resolv.conf") {
		i := slices.IndexFunc(v.Mounts, func(m Mount) bool { return m.Target == "/etc/"+name })
		require.Positive(t, i, name)
		want = append(want, v.Mounts[i]) // what is in them: TestView
	}
	want = append(want, bind("/opt/inside", "/run/postern/postern-sandbox"),
		bind("/srv/stack/nodes/n1/agents/demo", "/run/postern/nodes/0"),
		bind("/srv/stack/nodes/n1/lease", "/run/postern/nodes/0.lease"),
		file("/run/postern/bundle.pem", roots), file("/run/postern/ca.pem", "authority"))
	for _, path := range strings.Fields(`/etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt
		/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem /etc/ssl/ca-bundle.pem /etc/pki/tls/cert.pem /etc/ssl/cert.pem
		/etc/ssl/certs/ca-bundle.crt`) {
		want = append(want, file(path, roots))
	}
	for _, path := range strings.Fields(`/etc/ssl/certs/java/cacerts /etc/pki/ca-trust/extracted/java/cacerts
		/etc/ca-certificates/extracted/java-cacerts.jks /opt/java/lib/security/cacerts`) {
		want = append(want, file(path, string(trust.KeyStore([]byte(roots)))))
	}
	require.Empty(t, cmp.Diff(want, v.Mounts))

	in.Image = &Image{}
	v, err = m.view(in)
	require.NoError(t, err)
	require.Contains(t, v.Env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	in.Home = "/srv/kept"
	v, err = m.view(in)
	require.NoError(t, err)
	require.Contains(t, v.Env, "HOME=/agent")
	in.Sockets, in.Inside = nil, "/none"
	_, err = m.view(in)
	require.ErrorContains(t, err, "find postern-sandbox")
	in.Workspace.Mode = "rw"
	_, err = m.view(in)
	require.ErrorContains(t, err, `"rw" is not a valid mode of a workspace`)
	require.NoError(t, os.MkdirAll(m.at("/agent/x"), 0o755))
	in.Workdir, err = m.look("/agent/x", "/home/me", nil, environ{})
	require.NoError(t, err)
	_, err = m.view(in)
	require.ErrorContains(t, err, "this machine has something at /agent")
}

// TestWhyNotShown: each reason for which a folder of PATH is not shown.
func TestWhyNotShown(t *testing.T) {
	t.Parallel()
	m := &machine{root: tree(t, "home/me/.aws/bin/run.x", "home/me/.ssh/", "opt/a/bin/run.x", "opt/file.x",
		"etc/x/run.x", "srv/state/bin/run.x", "srv/keys/id", "top/run.x", "nix/run.x", "opt/b/bin/run.x"), uid: 1}
	const home, secrets = "it is or contains your home, or is a folder of the root",
		"it is, contains, or is inside a folder for secrets"
	for entry, why := range map[string]string{
		"bin": "it is not an absolute path", "": "it is not an absolute path",
		"/none": "it is not a folder", "/opt/file.x": "it is not a folder",
		"/opt/a/bin": "an agent can write on the way to it",
		"/srv/keys":  "nothing in it is known to be a program",
		"/home/me":   home, "/": home, "/top": home,
		"/etc/x":         "it is the system's, with more in it than programs",
		"/srv/state/bin": "it is, contains, or is inside what no agent may see",
		"/home/me/.aws":  secrets, "/home/me/.aws/bin": secrets,
		"/opt/b/bin": "", "/nix": "",
	} {
		b := m.builder(&Input{Environ: []string{"PATH=/usr/bin:" + entry + ":/bin"}, Private: []string{"/srv/state"}})
		b.home, b.visible = "/home/me", []string{"/usr"}
		b.in.Trusted = func(path string) bool { return path != "/opt/a/bin" }
		b.toolchains()
		got := ""
		for _, o := range b.Omitted {
			if o.What == "PATH: "+entry {
				got = o.Why
			}
		}
		require.Equal(t, why, got, entry)
	}
}

// TestImageUser: only root's command is somebody else's, and never root.
func TestImageUser(t *testing.T) {
	t.Parallel()
	root := tree(t, "work/")
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		uid, gid = 4321, 4322
		require.NoError(t, os.Chown(filepath.Join(root, "work"), uid, gid))
	}
	for _, c := range []struct {
		uid  int
		dir  string
		mode Mode
		want int
	}{
		{0, "/work", Write, uid}, {7, "/work", Write, 7}, {0, "/work", Ephemeral, 1000}, {0, "/none", Write, 1000},
	} {
		b := (&machine{root: root, uid: c.uid, gid: c.uid}).builder(&Input{
			Workdir: Workdir{Path: c.dir}, Workspace: Workspace{Mode: c.mode},
		})
		b.imageUser()
		require.Equal(t, c.want, b.UID, "%+v", c)
	}
	if os.Getuid() == 0 {
		for _, of := range [][2]int{{0, gid}, {uid, 0}} {
			require.NoError(t, os.Chown(filepath.Join(root, "work"), of[0], of[1]))
			b := (&machine{root: root}).builder(&Input{
				Workdir: Workdir{Path: "/work"}, Workspace: Workspace{Mode: Write},
			})
			b.imageUser()
			require.Equal(t, []int{1000, 1000}, []int{b.UID, b.GID})
		}
	}
}

// TestImageJava: a key store goes where an image says that its JDK is, if JDKs are there, and never
// into the working directory.
func TestImageJava(t *testing.T) {
	t.Parallel()
	for home, want := range map[string]bool{
		"/opt/jdk": true, "/opt": false, "/usr/lib/jvm/x/": true, "/usr": false, "/usrx": false, "/home/me/jdk": false,
		"": false, "opt/jdk": false, "/opt/w/jdk": false, "/opt/w": false, "/opt/x/../../etc": false,
	} {
		b := (&machine{root: t.TempDir()}).builder(&Input{Workdir: Workdir{Path: "/opt/w"}})
		b.imageTrust(newEnviron([]string{"JAVA_HOME=" + home}))
		last := b.Mounts[len(b.Mounts)-1].Target
		if want {
			require.Equal(t, filepath.Join(home, "lib/security/cacerts"), last)
		} else {
			require.Equal(t, "/etc/ca-certificates/extracted/java-cacerts.jks", last, home)
		}
	}
}

// TestOwnHome: the home that an agent keeps is at a place of its own, with links to what is shown of
// the caller's.
func TestOwnHome(t *testing.T) {
	t.Parallel()
	m := small(t, 1)
	in := m.input(t)
	in.Home, in.Environ = "/srv/kept", append(in.Environ, "CARGO_HOME=/opt/jdk/bin")
	v, err := m.view(in)
	require.NoError(t, err)
	require.Contains(t, v.Mounts, Mount{Kind: Bind, Source: "/srv/kept", Target: "/agent", Writable: true})
	require.Contains(t, v.Env, "HOME=/agent")
	require.Contains(t, v.Omitted, Omission{"CARGO_HOME", "its caches are in the agent's home"})
	require.Equal(t, "/home/me", v.HostHome)
	require.Equal(t, map[string]string{
		".nvm/versions/node/v20/bin": "/home/me/.nvm/versions/node/v20/bin",
	}, v.HomeLinks)
	i := slices.IndexFunc(v.Mounts, func(m Mount) bool { return m.Target == "/etc/passwd" })
	require.Contains(t, string(v.Mounts[i].Content), "::/agent:/bin/sh\n")

	in.Environ = []string{"HOME=/agent"}
	_, err = m.view(in)
	require.ErrorContains(t, err, "this machine has something at /agent")
	for _, c := range []struct {
		home, workdir, visible string
		ok                     bool
	}{
		{"/home/me", "/w", "/usr", true},
		{"/home/me", "/w", "/agent/x", false},
		{"/home/me", "/w", "/", false},
		{"/home/me", "/agent/x", "/usr", false},
		{"/agent", "/w", "/usr", false},
	} {
		b := m.builder(&Input{Home: "/srv/kept", Workdir: Workdir{Path: c.workdir}})
		b.home, b.visible = c.home, []string{c.visible}
		for _, at := range strings.Fields("/.a/b /.a/b/c /.a/b/c/d /.ax") {
			b.add(Mount{Kind: Bind, Source: "/home/me" + at, Target: "/home/me" + at})
		}
		err := b.ownHome()
		if !c.ok {
			require.ErrorContains(t, err, "where a home that persists would be", "%+v", c)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, map[string]string{".a/b": "/home/me/.a/b", ".ax": "/home/me/.ax"}, b.HomeLinks)
	}
}

// TestRepository: git's folders are shown where they are, each as it says, and by the path that .git
// names.
func TestRepository(t *testing.T) {
	t.Parallel()
	root := tree(t, "git/worktrees/w/", "link -> ROOT/git/worktrees/w")
	at := func(name string) string { return filepath.Join(root, name) }
	r := &Repository{Path: at("link"), Above: true, Folders: []GitFolder{
		{Path: at("git"), Device: 1, Inode: 2},
		{Path: at("git/worktrees/w")},
	}}
	b := new(machine).builder(&Input{Repository: r, Agent: "a"})
	require.NoError(t, b.repository())
	require.Equal(t, []Mount{
		{Kind: Bind, Source: at("git"), Target: at("git")},
		{Kind: Bind, Source: at("git/worktrees/w"), Target: at("git/worktrees/w")},
		{Kind: Symlink, Source: at("git/worktrees/w"), Target: at("link")},
	}, b.Mounts)
	require.Equal(t, r.Folders, b.GitFolders)
	b.environment("/bin")
	for _, set := range []string{
		"GIT_DISCOVERY_ACROSS_FILESYSTEM=1", "GIT_CONFIG_COUNT=3", "GIT_CONFIG_KEY_2=branch.autoSetupMerge",
		"GIT_CONFIG_VALUE_2=false",
	} {
		require.Contains(t, b.Env, set)
	}
	r.Path = at("gone")
	require.ErrorContains(t, b.repository(), "find git's folder")
	b = new(machine).builder(&Input{})
	require.NoError(t, b.repository())
	require.Empty(t, b.Mounts)
}

// TestGate: a node's lease is shown if it is a file, and nothing in place of one that is not.
func TestGate(t *testing.T) {
	t.Parallel()
	m := &machine{root: tree(t, "inside", "n1/lease", "n1/agents/a/", "n2/agents/a/", "n3/agents/a/", "n3/lease/",
		"n4/agents/a/", "n4/lease -> /etc/shadow")}
	b := m.builder(&Input{
		Inside: "/inside", Sockets: []string{"/n1/agents/a", "/n2/agents/a", "/n3/agents/a", "/n4/agents/a"},
	})
	require.NoError(t, b.gate())
	var targets []string
	for _, m := range b.Mounts {
		targets = append(targets, m.Target)
	}
	require.Equal(t, []string{
		"/run/postern/postern-sandbox", "/run/postern/nodes/0", "/run/postern/nodes/0.lease", "/run/postern/nodes/1",
		"/run/postern/nodes/2", "/run/postern/nodes/3",
	}, targets)
	require.Equal(t, []string{
		"/run/postern/nodes/0", "/run/postern/nodes/1", "/run/postern/nodes/2", "/run/postern/nodes/3",
	}, b.Nodes)
}

// TestJavaRoots: Java has roots where a distribution keeps them, or where a JDK in view has its own,
// and has none without a Java.
func TestJavaRoots(t *testing.T) {
	t.Parallel()
	m := &machine{root: tree(t, "opt/jdk/bin/java.x", "opt/jdk/bin/java -> java.x", "opt/jdk/lib/security/cacerts",
		"opt/old/jre/lib/security/cacerts", "w/jdk/lib/security/cacerts")}
	for _, c := range []struct{ path, home, want string }{
		{"/opt/jdk/bin", "", "/opt/jdk/lib/security/cacerts"},
		{"/opt/jdk/bin", "/opt/jdk", "/opt/jdk/lib/security/cacerts"},
		{"/bin", "/opt/old", "/opt/old/jre/lib/security/cacerts"},
		{"/bin", "opt/jdk", ""},
		{"/bin", "/w/jdk", ""},
		{"/bin", "/none", ""},
		{"/bin", "", ""},
	} {
		b := m.builder(&Input{Workdir: Workdir{Path: "/w"}, Environ: []string{"JAVA_HOME=" + c.home}})
		b.visible = []string{"/opt", "/w"}
		b.trust(c.path)
		var covered []string
		java := false
		for _, m := range b.Mounts {
			java = java || m.Target == "/run/postern/cacerts"
			if m.Kind == Cover {
				covered = append(covered, m.Target)
			}
		}
		require.Equal(t, strings.Fields(c.want), append([]string{}, covered...), "%+v", c)
		require.Equal(t, c.want != "", java, "%+v", c)
	}
}

// TestGitSettings: a setting is added after those that a command is given, and takes none's place.
func TestGitSettings(t *testing.T) {
	t.Parallel()
	for count, want := range map[string]string{"": "0", "2": "2", "-1": "0", "x": "0"} {
		e := environ{values: map[string]string{"GIT_CONFIG_COUNT": count}}
		e.git("a.b", "c")
		n := map[string]string{"0": "1", "2": "3"}[want]
		require.Equal(t, map[string]string{
			"GIT_CONFIG_COUNT": n, "GIT_CONFIG_KEY_" + want: "a.b", "GIT_CONFIG_VALUE_" + want: "c",
		}, e.values)
	}
}

// TestIsOthers: nobody but root and the caller owns, and may write, what is taken for the caller's.
func TestIsOthers(t *testing.T) {
	t.Parallel()
	me := os.Getuid()
	at := filepath.Join(tree(t, "x"), "x")
	if me == 0 {
		me = 4321
		require.NoError(t, os.Chown(at, me, me))
	}
	for mode, others := range map[os.FileMode]bool{0o600: false, 0o755: false, 0o620: true, 0o602: true} {
		require.NoError(t, os.Chmod(at, mode))
		require.Equal(t, others, (&machine{uid: me}).isOthers(at), mode)
		require.True(t, (&machine{uid: me + 1}).isOthers(at))
	}
	require.False(t, (&machine{uid: 4321}).isOthers("/usr"), "root's")
	require.True(t, (&machine{}).isOthers("/nonexistent"))
}

// TestLimits: what is not said has a bound all the same.
func TestLimits(t *testing.T) {
	t.Parallel()
	all := Limits{Processes: 1, Memory: 2, Scratch: 3, Processors: 4}
	require.Equal(t, all, Limits{}.or(all))
	require.Equal(t, all, all.or(Limits{5, 6, 7, 8}))
	require.Equal(t, Limits{5, 2, 3, 4}, Limits{Processes: 5}.or(all))
	m, err := thisMachine()
	require.NoError(t, err)
	d := m.defaults
	require.EqualValues(t, 4096, d.Processes)
	require.InDelta(t, float64(3*d.Scratch), float64(d.Memory), 8)
	require.GreaterOrEqual(t, d.Scratch, uint64(1<<20))
	require.GreaterOrEqual(t, d.Processors, uint64(1000))
	require.Equal(t, []int{os.Getuid(), os.Getgid()}, []int{m.uid, m.gid})
	v, err := Make(&Input{Agent: "a", Workspace: Workspace{Mode: Ephemeral}, Inside: "/proc/self/exe"})
	require.NoError(t, err)
	require.Equal(t, Mount{Kind: Bind, Source: "/usr", Target: "/usr"}, v.Mounts[0])
	require.Equal(t, "/workspace", v.Workdir.Path)
}
