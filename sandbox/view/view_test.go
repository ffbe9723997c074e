package sandbox

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLists: what the view is made of, written out a second time. Whoever changes a list
// sees here what agents get to see.
func TestLists(t *testing.T) {
	t.Parallel()
	words := func(list string) []string { return strings.Fields(list) }
	require.Equal(t, words(`CARGO_REGISTRIES_CRATES_IO_PROTOCOL CGO_ENABLED CI CLICOLOR COLORTERM COLUMNS EDITOR FORCE_COLOR
		GOARCH GOFLAGS GOINSECURE GONOPROXY GONOSUMDB GOOS GOPRIVATE GOPROXY GOSUMDB
		LANG LANGUAGE LC_ADDRESS LC_ALL LC_COLLATE LC_CTYPE LC_IDENTIFICATION LC_MEASUREMENT LC_MESSAGES LC_MONETARY LC_NAME LC_NUMERIC LC_PAPER LC_TELEPHONE LC_TIME
		LINES LOGNAME NODEJS_ORG_MIRROR NODENV_VERSION NO_COLOR NPM_CONFIG_REGISTRY NVM_NODEJS_ORG_MIRROR PAGER
		PIP_DEFAULT_TIMEOUT PIP_DISABLE_PIP_VERSION_CHECK PIP_EXTRA_INDEX_URL PIP_INDEX_URL PYENV_VERSION PYTHONDONTWRITEBYTECODE PYTHONUNBUFFERED
		RBENV_VERSION RUSTUP_DIST_SERVER RUSTUP_TOOLCHAIN RUSTUP_UPDATE_ROOT SHELL TERM TZ USER UV_DEFAULT_INDEX UV_EXTRA_INDEX_URL UV_INDEX UV_INDEX_URL
		YARN_NPM_REGISTRY_SERVER npm_config_registry`), slices.Sorted(maps.Keys(passedVariables)))
	require.ElementsMatch(t, words(`PYENV_ROOT NVM_DIR CARGO_HOME RUSTUP_HOME GOROOT JAVA_HOME VOLTA_HOME FNM_DIR FNM_MULTISHELL_PATH
		ASDF_DIR ASDF_DATA_DIR MISE_DATA_DIR SDKMAN_DIR BUN_INSTALL DENO_INSTALL RBENV_ROOT NODENV_ROOT GOENV_ROOT PNPM_HOME VIRTUAL_ENV
		CONDA_PREFIX DOTNET_ROOT ANDROID_HOME M2_HOME GRADLE_HOME FLUTTER_ROOT`), placeVariables)
	require.ElementsMatch(t, words(`.ssh .gnupg .aws .azure .config/gcloud .config/gh .config/hub .docker .kube .password-store .local/share/keyrings
		.mozilla .config/google-chrome .config/chromium .netrc .git-credentials .pulumi .terraform.d .vault-token`), secretDirs)
	var whole, around []string
	for _, n := range notWorkdirs {
		if n.below {
			whole = append(whole, n.path)
		} else {
			around = append(around, n.path)
		}
	}
	require.ElementsMatch(t, words(`/etc /proc /sys /dev /run /boot /usr/bin /usr/sbin /usr/lib /bin /sbin /lib /lib64 /var/log /var/spool /var/cache`), whole)
	require.ElementsMatch(t, words(`/usr /home /root /opt /srv /mnt /media /var/lib /var/tmp /tmp`), around)
	require.Equal(t, words(`/bin /sbin /lib /lib32 /lib64 /libx32`), systemDirs)
	require.ElementsMatch(t, words(`alternatives ld.so.cache ld-musl-*.path localtime timezone locale.alias locale.conf default/locale inputrc
		mime.types protocols services rpc gai.conf host.conf shells magic fonts bash.bashrc profile
		os-release debian_version lsb-release redhat-release alpine-release arch-release ssl/openssl.cnf ssl/ct_log_list.cnf pki/tls/openssl.cnf
		crypto-policies gnutls java* python* php ruby* nanorc ImageMagick-* dotnet`), etcEntries)
	require.ElementsMatch(t, words(`SSL_CERT_FILE CURL_CA_BUNDLE REQUESTS_CA_BUNDLE PIP_CERT GIT_SSL_CAINFO AWS_CA_BUNDLE CARGO_HTTP_CAINFO
		CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE GRPC_DEFAULT_SSL_ROOTS_FILE_PATH HTTPLIB2_CA_CERTS NIX_SSL_CERT_FILE HEX_CACERTS_PATH
		PERL_LWP_SSL_CA_FILE YARN_HTTPS_CA_FILE_PATH`), bundleVariables)
	require.ElementsMatch(t, words(`NODE_EXTRA_CA_CERTS DENO_CERT`), caVariables)
	require.ElementsMatch(t, words(`/home /root /Users`), homes)
}

// TestIsolation: the namespaces and powers of a sandbox, and what is covered of the kernel's
// files, in the order in which bubblewrap does it.
func TestIsolation(t *testing.T) {
	t.Parallel()
	v := &view{}
	v.isolate(&Spec{Agent: "demo", Limits: Limits{Scratch: 4096}})
	want := []string{
		"--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv", "--hostname", "demo", "--uid", "0", "--gid", "0",
		"--cap-drop", "ALL", "--cap-add", "CAP_NET_ADMIN", "--cap-add", "CAP_NET_BIND_SERVICE", "--cap-add", "CAP_SETFCAP", "--proc", "/proc",
	}
	cover := func(source string, paths ...string) {
		for _, path := range paths {
			if _, err := os.Lstat(path); err == nil { // not every kernel has all
				want = append(want, "--ro-bind", map[bool]string{true: path, false: source}[source == ""], path)
			}
		}
	}
	cover("", "/proc/sys", "/proc/pressure")
	if os.Getuid() == 0 {
		cover("", "/proc/sysrq-trigger", "/proc/fs", "/proc/acpi", "/proc/scsi", "/proc/mtrr")
		cover("/dev/null", "/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/timer_list", "/proc/sched_debug", "/proc/kpagecount", "/proc/kpageflags", "/proc/kpagecgroup")
	}
	want = append(want, "--dev", "/dev", "--size", "4096", "--perms", "1777", "--tmpfs", "/dev/shm", "--remount-ro", "/dev")
	require.Equal(t, want, v.args)
}

// TestArguments: a sandbox in its order: what is seen, what of it is written to, and what
// comes last, because it covers.
func TestArguments(t *testing.T) {
	t.Parallel()
	root := tree(t, "home/work/stacks/local.yaml", "home/work/jdk/lib/security/cacerts", "home/work/jdk/bin/java", "home/.ssh/id", "sockets/", "state/", "inside/x")
	at := func(path string) string { return filepath.Join(root, path) }
	passed := &descriptors{}
	defer passed.close()
	s := &Spec{
		Agent: "demo", Workdir: at("home/work"), Sockets: []string{at("sockets"), at("state")}, Private: []string{at("state")},
		Inside: at("inside/x"), CA: []byte("ca"), Limits: Limits{Scratch: 4096}, Environ: []string{"HOME=" + at("home"), "JAVA_HOME=" + at("home/work/jdk"), "PATH=/usr/bin:relative:" + at("home/work/jdk/bin"), "TOKEN=" + canary},
	}
	args, env, err := arguments(s, passed)
	require.NoError(t, err)
	require.NotContains(t, strings.Join(env, "\n"), canary)
	require.NotContains(t, strings.Join(args, "\n"), canary)
	home := []string{
		"--size", "4096", "--perms", "1777", "--tmpfs", "/tmp", "--symlink", "/tmp", "/var/tmp", "--symlink", "/run", "/var/run",
		"--size", "4096", "--perms", "0700", "--tmpfs", at("home"),
	}
	work := []string{
		"--bind", at("home/work"), at("home/work"),
		"--ro-bind", at("inside/x"), "/run/postern/postern-sandbox", "--ro-bind", at("sockets"), "/run/postern/nodes/0", "--ro-bind", at("state"), "/run/postern/nodes/1",
	}
	last := []string{"--remount-ro", "/", "--chdir", "/", "/run/postern/postern-sandbox"}
	isolated := slices.Index(args, "--remount-ro") // of /dev, the end of the isolation
	first, then := index(args, home), index(args, work)
	require.Greater(t, first, isolated, "%q", args)
	require.Equal(t, first+len(home), then, "%q", args)
	require.Equal(t, last, args[len(args)-len(last):])
	for i, arg := range args {
		require.False(t, strings.HasPrefix(arg, at("home/work")+"/"), "%s: nothing is mounted below the working directory", arg)
		switch arg {
		case "--bind":
			require.Equal(t, at("home/work"), args[i+1], "the one place to write to")
		case "--ro-bind":
			source := args[i+1]
			require.False(t, within(source, root) && !slices.Contains(work, source), source)
			require.NotContains(t, []string{"/", "/etc", "/home", "/root", "/run", "/sys", "/var"}, source)
		case "--dev-bind", "--dev-bind-try", "--bind-try", "--ro-bind-try":
			t.Errorf("%s %s", arg, args[i+1])
		}
	}

	// A home by another name is there by that name, too.
	require.NoError(t, os.Symlink("home", at("called")))
	s.Environ = []string{"HOME=" + at("called"), "PATH=/usr/bin"}
	args, _, err = arguments(s, passed)
	require.NoError(t, err)
	require.NotEqual(t, -1, index(args, []string{"--symlink", "home", at("called")}), "%q", args)

	for _, private := range [][]string{{"/usr/bin"}, {at("state"), "/usr/bin"}} {
		s.Private = private
		_, _, err = arguments(s, passed)
		require.ErrorContains(t, err, "/usr/bin is among the programs of the system, which every agent can read")
	}
}

// TestSystem: the programs of the distribution, where it has them.
func TestSystem(t *testing.T) {
	t.Parallel()
	v := &view{linked: map[string]bool{}}
	v.system()
	want := []string{"--ro-bind", "/usr", "/usr"}
	for _, dir := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
		if target, err := os.Readlink(dir); err == nil {
			want = append(want, "--symlink", target, dir)
		} else if _, err := os.Lstat(dir); err == nil {
			want = append(want, "--ro-bind", dir, dir)
		}
	}
	require.Equal(t, want, v.args)
}

// TestAnotherFolderThanAMomentAgo: who the working folder was decides, not its name.
func TestAnotherFolderThanAMomentAgo(t *testing.T) {
	t.Parallel()
	root := tree(t, "home/", "work/", "other/")
	s := &Spec{Workdir: filepath.Join(root, "work"), Environ: []string{"HOME=" + filepath.Join(root, "home")}}
	for range 2 {
		real, err := s.RealWorkdir()
		require.NoError(t, err)
		require.Equal(t, s.Workdir, real)
	}
	require.NoError(t, os.Rename(filepath.Join(root, "work"), filepath.Join(root, "old")))
	require.NoError(t, os.Rename(filepath.Join(root, "other"), filepath.Join(root, "work")))
	_, err := s.RealWorkdir()
	require.ErrorContains(t, err, "it is no longer the folder that was checked: run this again")
	elsewhere := *s.folder
	elsewhere.Dev++
	s.folder, s.Workdir = &elsewhere, filepath.Join(root, "old")
	_, err = s.RealWorkdir()
	require.ErrorContains(t, err, "it is no longer the folder that was checked")
}

// TestMountsBelow: what is mounted in a folder, and of what.
func TestMountsBelow(t *testing.T) {
	t.Parallel()
	all, err := mountsBelow("/")
	require.NoError(t, err)
	proc, err := mountsBelow("/proc")
	require.NoError(t, err)
	none, err := mountsBelow(t.TempDir())
	require.NoError(t, err)
	require.Empty(t, none)
	require.NotEmpty(t, proc)
	require.Greater(t, len(all), len(proc))
	for _, m := range proc {
		require.Regexp(t, `^[0-9]+:[0-9]+ /`, m)
	}
}

// TestEnviron: what is not NAME=VALUE is nothing.
func TestEnviron(t *testing.T) {
	t.Parallel()
	e := newEnviron([]string{"A=1", "TERM", "B=x=y", "C=", "A=2"})
	require.Equal(t, map[string]string{"A": "2", "B": "x=y", "C": ""}, e.values)
	require.Equal(t, []string{"A=2", "B=x=y", "C="}, e.list())
}

// index is where part is in all, or -1.
func index(all, part []string) int {
	for i := range all {
		if i+len(part) <= len(all) && slices.Equal(all[i:i+len(part)], part) {
			return i
		}
	}
	return -1
}

// TestEnvironment: all that a command finds in its environment.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	root := tree(t, "jdk/lib/", "node/")
	v := &view{visible: []string{filepath.Join(root, "jdk/lib")}}
	caller := newEnviron([]string{
		"SSH_AUTH_SOCK=/tmp/x", "AWS_PROFILE=prod", "BASH_ENV=/x", "LD_PRELOAD=/x", "LD_LIBRARY_PATH=/x", "PYTHONPATH=/x", "NODE_OPTIONS=--require=/x", "GIT_SSH_COMMAND=x",
		"XDG_RUNTIME_DIR=/run/user/0", "DBUS_SESSION_BUS_ADDRESS=unix:path=/x", "DOCKER_HOST=unix:///x", "KUBECONFIG=/x", "GNUPGHOME=/x", "HTTP_PROXY=http://u:p@corp.test", "ALL_PROXY=http://corp.test",
		"HOME=/elsewhere", "PATH=/elsewhere", "USER=root", "TERM=xterm", "GOTOOLCHAIN=auto",
		"JAVA_HOME=" + filepath.Join(root, "jdk"), "NVM_DIR=" + filepath.Join(root, "node"), "GOROOT=jdk", "CARGO_HOME=/nonexistent",
	})
	s := &Spec{Agent: "demo", Env: []string{"WANTED=yes", "NO_PROXY=*", "SSL_CERT_FILE=/x", "NODE_EXTRA_CA_CERTS=/x", "https_proxy=http://elsewhere.test", "broken"}}
	require.Equal(t, []string{
		"AWS_CA_BUNDLE=/run/postern/bundle.pem", "CARGO_HTTP_CAINFO=/run/postern/bundle.pem", "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE=/run/postern/bundle.pem", "CURL_CA_BUNDLE=/run/postern/bundle.pem",
		"DENO_CERT=/run/postern/ca.pem", "GIT_SSL_CAINFO=/run/postern/bundle.pem", "GOTOOLCHAIN=local", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=/run/postern/bundle.pem", "HEX_CACERTS_PATH=/run/postern/bundle.pem",
		"HOME=/h", "HTTPLIB2_CA_CERTS=/run/postern/bundle.pem", "HTTPS_PROXY=http://127.0.0.1:3128", "HTTP_PROXY=http://127.0.0.1:3128", "JAVA_HOME=" + filepath.Join(root, "jdk"), "LOGNAME=agent",
		"NIX_SSL_CERT_FILE=/run/postern/bundle.pem", "NODE_EXTRA_CA_CERTS=/run/postern/ca.pem", "NO_PROXY=localhost,127.0.0.1,::1", "PATH=/bin", "PERL_LWP_SSL_CA_FILE=/run/postern/bundle.pem",
		"PIP_CERT=/run/postern/bundle.pem", "PIP_RETRIES=1", "POSTERN_AGENT=demo", "PWD=/w", "REQUESTS_CA_BUNDLE=/run/postern/bundle.pem", "SSL_CERT_FILE=/run/postern/bundle.pem", "TERM=xterm", "TMPDIR=/tmp",
		"USER=agent", "WANTED=yes", "YARN_HTTPS_CA_FILE_PATH=/run/postern/bundle.pem", "http_proxy=http://127.0.0.1:3128", "https_proxy=http://127.0.0.1:3128",
		"no_proxy=localhost,127.0.0.1,::1", "npm_config_fetch_retries=0", "npm_config_update_notifier=false",
	}, environment(s, caller, v, "/h", "/bin", "/w"))
	require.Contains(t, environment(&Spec{}, newEnviron([]string{"USER=jane", "LOGNAME=jane"}), v, "/h", "/bin", "/w"), "USER=jane")
}

// TestSecretsAreNoWorkdirs: nor is what they are in, in any home.
func TestSecretsAreNoWorkdirs(t *testing.T) {
	t.Parallel()
	for _, secret := range strings.Fields(`.ssh .gnupg .aws .azure .config/gcloud .config/gh .config/hub .docker .kube .password-store .local/share/keyrings
		.mozilla .config/google-chrome .config/chromium .pulumi .terraform.d`) {
		home := tree(t, secret+"/deep/x", "project/")
		for dir := secret + "/deep"; dir != "."; dir = filepath.Dir(dir) {
			_, err := Workdir(filepath.Join(home, dir), home, nil)
			require.ErrorContains(t, err, "as working directory: it is", dir)
		}
		real, err := Workdir(filepath.Join(home, "project"), home, nil)
		require.NoError(t, err)
		require.Equal(t, filepath.Join(home, "project"), real)
	}
}

// TestPlacesThatAreNoWorkdirs: neither those of the system, nor those that are private, nor
// what contains one.
func TestPlacesThatAreNoWorkdirs(t *testing.T) {
	t.Parallel()
	root := tree(t, "home/", "p/state/deep/", "p/other/", "file")
	link := filepath.Join(root, "link")
	require.NoError(t, os.Symlink(filepath.Join(root, "p/state"), link))
	home := filepath.Join(root, "home")
	for dir, why := range map[string]string{
		"/": "it is the whole file system", root: "it is or contains your home (" + home + ")", home: "it is or contains your home",
		filepath.Join(root, "p"): ", where Postern keeps keys and sockets", filepath.Join(root, "p/state"): "keeps keys", filepath.Join(root, "p/state/deep"): "keeps keys", link: "keeps keys",
		filepath.Join(root, "file"): "it is not a folder", filepath.Join(root, "none"): "no such file",
		"/usr": "", "/usr/bin": "", "/usr/lib": "", "/var": "", "/etc/ssl": "configuration and secrets",
	} {
		_, err := Workdir(dir, home, []string{filepath.Join(root, "p/state")})
		require.ErrorContains(t, err, why, dir)
		_, err = Workdir(dir, home, []string{link}) // a private folder by another name
		require.ErrorContains(t, err, why, dir)
	}
	real, err := Workdir(filepath.Join(root, "p/other"), home, []string{filepath.Join(root, "p/state")})
	require.NoError(t, err)
	require.Equal(t, filepath.Join(root, "p/other"), real)
}

// TestResolve: where a path leads in the end, and the links on the way.
func TestResolve(t *testing.T) {
	t.Parallel()
	root := tree(t, "real/sub/file", "one -> real", "two -> ROOT/one/sub", "real/up -> ../real/sub", "loop -> loop", "dangling -> none")
	at := func(path string) string { return filepath.Join(root, path) }
	for path, c := range map[string]struct {
		want  string
		links []symlink
	}{
		"real/sub":         {"real/sub", nil},
		"real/./sub/../":   {"real", nil},
		"one/sub":          {"real/sub", []symlink{{at("one"), "real"}}},
		"two":              {"real/sub", []symlink{{at("two"), at("one/sub")}, {at("one"), "real"}}},
		"one/up/file":      {"real/sub/file", []symlink{{at("one"), "real"}, {at("real/up"), "../real/sub"}}},
		"one/../real/file": {"", nil},
	} {
		real, links, err := resolve(root + "/" + path)
		if c.want == "" {
			require.Error(t, err, path)
			continue
		}
		require.NoError(t, err, path)
		require.Equal(t, at(c.want), real, path)
		require.Equal(t, c.links, links, path)
	}
	real, links, err := resolve("/")
	require.NoError(t, err)
	require.Equal(t, "/", real)
	require.Empty(t, links)
	_, _, err = resolve(at("loop"))
	require.ErrorContains(t, err, "too many symbolic links")
	_, _, err = resolve(at("dangling"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestCallerHome: the home is where its name leads, and is called as the caller calls it.
func TestCallerHome(t *testing.T) {
	t.Parallel()
	root := tree(t, "real/home/", "link -> real")
	link := filepath.Join(root, "link/home")
	for home, want := range map[string][2]string{
		link: {link, filepath.Join(root, "real/home")}, link + "/": {link, filepath.Join(root, "real/home")}, filepath.Join(root, "real/home"): {filepath.Join(root, "real/home"), filepath.Join(root, "real/home")},
		"": {"/home/agent", "/home/agent"}, "/": {"/home/agent", "/home/agent"}, "relative": {"/home/agent", "/home/agent"}, "/nonexistent/x": {"/nonexistent/x", "/nonexistent/x"},
	} {
		v := &view{}
		called, links := v.callerHome(newEnviron([]string{"HOME=" + home}))
		require.Equal(t, want, [2]string{called, v.home}, "%q", home)
		require.Equal(t, called == link, len(links) == 1)
	}
}

// TestSees: what is seen, and what can be shown of it without being seen.
func TestSees(t *testing.T) {
	t.Parallel()
	v := &view{visible: []string{"/usr", "/opt/x/bin"}, linked: map[string]bool{}}
	for path, want := range map[string][2]bool{"/usr": {true, true}, "/usr/bin": {true, true}, "/usrx": {false, false}, "/opt/x": {false, true}, "/opt/x/bin/y": {true, true}, "/opt/x/lib": {false, false}, "/": {false, true}} {
		require.Equal(t, want, [2]bool{v.sees(path), v.seesPartOf(path)}, path)
	}
	require.True(t, within("/x", "/"))
	require.True(t, overlap("/a", "/a/b"))
	require.True(t, overlap("/a/b", "/a"))
	require.False(t, overlap("/a", "/ab"))
	v.readOnly("/usr/share")
	v.readOnly("/srv")
	v.readOnly("/srv/x")
	v.link("/bin", "usr/bin")
	v.link("/bin", "elsewhere")
	v.link("/srv/link", "elsewhere")
	require.Equal(t, []string{"--ro-bind", "/srv", "/srv", "--symlink", "usr/bin", "/bin"}, v.args)
	require.Contains(t, v.visible, "/srv")
}
