package view

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox/trust"
)

const canary = "canary-4f1d"

// TestLists: what the view is made of, written out a second time. Whoever changes a list
// sees here what agents get to see.
func TestLists(t *testing.T) {
	t.Parallel()
	words := func(list string) []string { return strings.Fields(list) }
	require.Equal(t, words(`CARGO_REGISTRIES_CRATES_IO_PROTOCOL CGO_ENABLED CI CLICOLOR COLORTERM COLUMNS EDITOR FORCE_COLOR
		GIT_AUTHOR_EMAIL GIT_AUTHOR_NAME GIT_COMMITTER_EMAIL GIT_COMMITTER_NAME
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
	require.ElementsMatch(t, words(`/etc /proc /sys /dev /run /boot /usr /bin /sbin /lib /lib64 /var/lib/apt /var/lib/dpkg /var/lib/rpm /var/lib/systemd /var/backups /var/mail /var/log /var/spool /var/cache`), whole)
	require.ElementsMatch(t, words(`/home /root /opt /srv /mnt /media /var/lib /var/tmp /tmp`), around)
	require.Equal(t, words(`/bin /sbin /lib /lib32 /lib64 /libx32`), systemDirs)
	require.ElementsMatch(t, words(`alternatives ld.so.cache ld-musl-*.path localtime timezone locale.alias locale.conf default/locale inputrc
		mime.types protocols services rpc gai.conf host.conf shells magic fonts bash.bashrc profile
		os-release debian_version lsb-release redhat-release alpine-release arch-release ssl/openssl.cnf ssl/ct_log_list.cnf pki/tls/openssl.cnf
		crypto-policies gnutls java* python* php ruby* nanorc ImageMagick-* dotnet
		maven/m2.conf maven/logging ant groovy perl vim texmf
		apt/apt.conf.d/* apt/sources.list apt/sources.list.d/* apt/trusted.gpg.d/* apt/preferences.d/*`), etcEntries)
	require.ElementsMatch(t, words(`SSL_CERT_FILE CURL_CA_BUNDLE REQUESTS_CA_BUNDLE PIP_CERT GIT_SSL_CAINFO AWS_CA_BUNDLE CARGO_HTTP_CAINFO
		CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE GRPC_DEFAULT_SSL_ROOTS_FILE_PATH HTTPLIB2_CA_CERTS NIX_SSL_CERT_FILE HEX_CACERTS_PATH
		PERL_LWP_SSL_CA_FILE YARN_HTTPS_CA_FILE_PATH`), trust.BundleVariables)
	require.ElementsMatch(t, words(`NODE_EXTRA_CA_CERTS DENO_CERT`), trust.AuthorityVariables)
	require.ElementsMatch(t, words(`/home /root /Users`), homes)
}

// small is a machine with a distribution's files, a home with a toolchain of each kind, and a JDK.
func small(t *testing.T, uid int) *machine {
	t.Helper()
	root := tree(t, "usr/bin/", "bin -> usr/bin", "lib -> usr/lib", "lib64/", "srv/stack/nodes/n1/agents/demo/", "srv/stack/nodes/n1/lease", "srv/stack/ca", "opt/inside",
		"proc/sys/", "proc/kcore", "proc/keys", "proc/fs/", "etc/shadow", "etc/gitconfig", "etc/localtime -> /usr/share/zoneinfo/UTC", "etc/python3.11/", "etc/services",
		"etc/ssl/certs/java/cacerts", "home/me/.ssh/id", "home/me/.nvm/versions/node/v20/bin/", "home/me/.nvm/versions/node/v20/etc/npmrc", "home/me/.nvm/versions/node/v18/bin/",
		"opt/jdk/bin/java.x", "opt/jdk/bin/java -> java.x", "opt/jdk/lib/security/cacerts", "opt/jdk/.env", "home/me/work/jdk/bin/java", "home/me/work/jdk/lib/security/cacerts", "me -> home/me")
	for path, content := range map[string]string{
		"proc/self/mountinfo": "1 0 8:1 / / rw\n2 1 8:2 /x /home/me/work/sub rw\n3 1 0:5 / /proc rw\n", "etc/services": "http 80\n", "etc/passwd": "me:x:1:1::/home/me:/bin/sh\n",
		"etc/ssl/certs/ca-certificates.crt": "-----BEGIN",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, path), []byte(content), 0o644))
	}
	return &machine{root: root, uid: uid, gid: uid, defaults: Limits{Processes: 7, Memory: 8192, Scratch: 4096}}
}

// input is what somebody at the small machine wants to run.
func (m *machine) input(t *testing.T) *Input {
	t.Helper()
	w, err := m.look("/home/me/work", "/home/me", []string{"/srv/stack"}, environ{})
	require.NoError(t, err)
	return &Input{
		Agent: "My_Agent", Workdir: w, Private: []string{"/srv/stack", "/nowhere/secret"},
		Sockets: []string{"/srv/stack/nodes/n1/agents/demo"}, CA: []byte("authority"), Inside: "/opt/inside",
		Git:       "git",
		Workspace: Workspace{Mode: Write},
		Environ: []string{
			"HOME=/me", "PATH=/usr/bin:bin:/home/me/.ssh:/home/me/.nvm/versions/node/v20/bin:/opt/jdk/bin:/home/me/work/jdk/bin:/nowhere", "VIRTUAL_ENV=/home/me/work/jdk",
			"LANG=" + canary, "TOKEN=" + canary, "GOROOT=/srv/go",
		},
	}
}

// TestView: all of a view, in its order: what is seen, what of it can be written, and what is not
// there and why.
func TestView(t *testing.T) {
	t.Parallel()
	bind := func(path string) Mount { return Mount{Kind: Bind, Source: path, Target: path} }
	link := func(path, to string) Mount { return Mount{Kind: Symlink, Source: to, Target: path} }
	file := func(path, content string) Mount { return Mount{Kind: File, Target: path, Content: []byte(content)} }
	const roots = "-----BEGIN\nauthority"
	store := trust.KeyStore([]byte(roots))
	for name, c := range map[string]struct {
		uid, inside      int
		readOnly, masked []string
	}{
		"ordinary": {uid: 4321, inside: 4321, readOnly: []string{"/proc/sys"}},
		"root":     {uid: 0, inside: 1000, readOnly: []string{"/proc/sys", "/proc/fs"}, masked: []string{"/proc/kcore", "/proc/keys"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := small(t, c.uid)
			v, err := m.view(m.input(t))
			require.NoError(t, err)
			env := v.Env
			v.Env = nil
			require.Empty(t, cmp.Diff(&View{
				Agent: "My_Agent", Hostname: "my-agent",
				Workdir: Workdir{
					Path: "/home/me/work", Device: v.Workdir.Device, Inode: v.Workdir.Inode, Mounts: []string{"8:2 /x"},
					Judged: true,
				},
				Mounts: []Mount{
					bind("/usr"), link("/bin", "usr/bin"), link("/lib", "usr/lib"), bind("/lib64"),
					link("/etc/localtime", "/usr/share/zoneinfo/UTC"), file("/etc/services", "http 80\n"), bind("/etc/python3.11"), link("/etc/mtab", "/proc/self/mounts"),
					file("/etc/gitconfig", "git"),
					file("/etc/group", fmt.Sprintf("agent:x:%d:\nnogroup:x:65534:\n", c.inside)), file("/etc/hostname", "my-agent\n"),
					file("/etc/hosts", "127.0.0.1 localhost my-agent\n::1 localhost ip6-localhost ip6-loopback\n"),
					file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\nethers: files\nrpc: files\n"),
					file("/etc/passwd", fmt.Sprintf("agent:x:%d:%d::/home/me:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n", c.inside, c.inside)),
					file("/etc/resolv.conf", "nameserver 127.0.0.53\noptions timeout:2 attempts:1\n"),
					{Kind: Tmpfs, Target: "/tmp", Mode: 0o1777, Size: 4096},
					link("/var/tmp", "/tmp"), link("/var/run", "/run"),
					{Kind: Tmpfs, Target: "/home/me", Mode: 0o700, Size: 4096},
					link("/me", "home/me"),
					bind("/home/me/.nvm/versions/node/v20/bin"), bind("/opt/jdk/bin"), bind("/opt/jdk/lib"),
					{Kind: Bind, Source: "/home/me/work", Target: "/home/me/work", Writable: true},
					{Kind: Bind, Source: "/opt/inside", Target: "/run/postern/postern-sandbox"},
					{Kind: Bind, Source: "/srv/stack/nodes/n1/agents/demo", Target: "/run/postern/nodes/0"},
					{Kind: Bind, Source: "/srv/stack/nodes/n1/lease", Target: "/run/postern/nodes/0.lease"},
					file("/run/postern/bundle.pem", roots), file("/run/postern/ca.pem", "authority"),
					link("/etc/ssl/certs/ca-certificates.crt", "/run/postern/bundle.pem"), link("/etc/pki/tls/certs/ca-bundle.crt", "/run/postern/bundle.pem"),
					link("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/run/postern/bundle.pem"), link("/etc/ssl/ca-bundle.pem", "/run/postern/bundle.pem"),
					link("/etc/pki/tls/cert.pem", "/run/postern/bundle.pem"), link("/etc/ssl/cert.pem", "/run/postern/bundle.pem"), link("/etc/ssl/certs/ca-bundle.crt", "/run/postern/bundle.pem"),
					{Kind: File, Target: "/run/postern/cacerts", Content: store},
					link("/etc/ssl/certs/java/cacerts", "/run/postern/cacerts"), link("/etc/pki/ca-trust/extracted/java/cacerts", "/run/postern/cacerts"),
					link("/etc/ca-certificates/extracted/java-cacerts.jks", "/run/postern/cacerts"),
					{Kind: Cover, Target: "/opt/jdk/lib/security/cacerts", Content: store},
				},
				ReadOnly: c.readOnly, Masked: c.masked,
				Nodes: []string{"/run/postern/nodes/0"}, UID: c.inside, GID: c.inside, Limits: Limits{Processes: 7, Memory: 8192, Scratch: 4096},
				Omitted: []Omission{
					{"PATH: bin", "it is not an absolute path"},
					{"PATH: /home/me/.ssh", "it is, contains, or is inside a folder for secrets"},
					{"PATH: /nowhere", "it is not a folder"},
					{"GOROOT", "nothing of the place that it names is shown"},
					{"LANG", "its value is not one of those that are known to be harmless: --env LANG passes it"},
				},
			}, v))
			require.NotContains(t, fmt.Sprint(env, v), canary)
			require.Contains(t, env, "HOME=/me")
			require.Contains(t, env, "VIRTUAL_ENV=/home/me/work/jdk")
			require.Contains(t, env, "PATH=/usr/bin:/home/me/.nvm/versions/node/v20/bin:/opt/jdk/bin:/home/me/work/jdk/bin:/usr/local/bin:/bin")
		})
	}
}

// TestPrivateOfTheSystem: hiding a secret that is among the system's programs would take these
// away.
func TestPrivateOfTheSystem(t *testing.T) {
	t.Parallel()
	m := small(t, 1)
	in := m.input(t)
	in.Private = append(in.Private, "/usr/bin")
	_, err := m.view(in)
	require.ErrorContains(t, err, "/usr/bin is among the programs of the system, which every agent can read")
}

// TestNothingIsMountedInTheWorkdir: neither a toolchain nor a mask nor a key store, whatever the
// caller's variables and the links of a toolchain lead to.
func TestNothingIsMountedInTheWorkdir(t *testing.T) {
	t.Parallel()
	m := small(t, 1)
	at := func(path string) string { return filepath.Join(m.root, path) }
	for _, dir := range []string{"home/me/work/v/etc", "home/me/work/v/bin", "home/me/work/v/lib/security", "home/me/.nodenv/versions", "home/me/.nodenv/shims", "home/me/work/.pyenv/versions/3/bin", "home/me/work/.pyenv/shims"} {
		require.NoError(t, os.MkdirAll(at(dir), 0o755))
	}
	for _, f := range []string{"home/me/work/v/etc/npmrc", "home/me/work/.pyenv/versions/3/pip.conf", "home/me/work/v/lib/security/cacerts", "home/me/work/v/bin/java"} {
		require.NoError(t, os.WriteFile(at(f), nil, 0o755))
	}
	require.NoError(t, os.Symlink("../../work/v", at("home/me/.nodenv/versions/v")))
	in := m.input(t)
	in.Environ = []string{
		"HOME=/home/me", "VIRTUAL_ENV=/home/me/.nodenv/versions/v",
		"PATH=/home/me/.nodenv/shims:/home/me/.nodenv/versions/v/bin:/home/me/work/.pyenv/shims:/home/me/work/.pyenv/versions/3/bin:/home/me/work/v/bin",
	}
	v, err := m.view(in)
	require.NoError(t, err)
	require.Contains(t, v.Env, "PATH=/home/me/.nodenv/shims:/home/me/.nodenv/versions/v/bin:/home/me/work/.pyenv/shims:/home/me/work/.pyenv/versions/3/bin:/home/me/work/v/bin:/usr/local/bin:/usr/bin:/bin")
	writable := 0
	for _, mount := range v.Mounts {
		require.False(t, strings.HasPrefix(mount.Target, "/home/me/work/"), "%v", mount)
		if mount.Writable {
			writable++
			require.Equal(t, "/home/me/work", mount.Target, "the one place to write to")
		}
	}
	require.Equal(t, 1, writable)
	for _, path := range v.Masked {
		require.False(t, within(path, "/home/me/work"), path)
	}
}

// TestAnotherFolderThanAMomentAgo: who the working folder was decides, not its name.
func TestAnotherFolderThanAMomentAgo(t *testing.T) {
	t.Parallel()
	m := small(t, 1)
	at := func(path string) string { return filepath.Join(m.root, path) }
	require.NoError(t, os.Mkdir(at("home/me/other"), 0o700))
	in := m.input(t)
	_, err := m.view(in)
	require.NoError(t, err)
	const another = "it is no longer the folder that was checked: run this again"
	for _, w := range []Workdir{
		{Path: in.Workdir.Path, Device: in.Workdir.Device + 1, Inode: in.Workdir.Inode, Judged: true},
		{Path: in.Workdir.Path, Device: in.Workdir.Device, Inode: in.Workdir.Inode + 1, Judged: true},
		{Path: in.Workdir.Path, Judged: true},
		{Path: "/none", Judged: true},
	} {
		require.ErrorContains(t, m.check(w, nil), another)
	}
	unjudged := in.Workdir
	unjudged.Judged = false
	require.ErrorContains(t, m.check(unjudged, nil), "nobody has judged it")
	require.ErrorContains(t, m.check(in.Workdir, []string{in.Workdir.Path + "/key"}), "keeps keys and sockets")
	require.NoError(t, os.Rename(at("home/me/work"), at("home/me/old")))
	require.NoError(t, os.Rename(at("home/me/other"), at("home/me/work")))
	_, err = m.view(in)
	require.ErrorContains(t, err, another)
	// Nor is a link to the same folder the folder.
	require.NoError(t, os.Rename(at("home/me/work"), at("home/me/other")))
	require.NoError(t, os.Symlink("old", at("home/me/work")))
	_, err = m.view(in)
	require.ErrorContains(t, err, another)
}

// TestMounts: what is mounted in a folder, and of what.
func TestMounts(t *testing.T) {
	t.Parallel()
	m := &machine{root: tree(t, "proc/self/")}
	require.NoError(t, os.WriteFile(m.at("/proc/self/mountinfo"), []byte(`1 0 8:1 / / rw
2 1 8:2 /a/b /work rw
3 2 8:3 / /work/in rw
4 1 8:4 / /works rw
5 1 8:5 / /with\040space\134 rw
6 1 8:6 / /a\011b\012c rw
7 1 8:7
broken
`), 0o600))
	for path, want := range map[string]struct {
		whole bool
		below []string
	}{
		"/": {true, []string{"8:1 /", "8:2 /a/b", "8:3 /", "8:4 /", "8:5 /", "8:6 /"}}, "/work": {false, []string{"8:2 /a/b", "8:3 /"}}, "/work/in": {true, []string{"8:3 /"}},
		"/works": {true, []string{"8:4 /"}}, "/work/other": {false, nil}, "/with space\\": {true, []string{"8:5 /"}},
		"/a\tb\nc": {true, []string{"8:6 /"}},
	} {
		whole, below, err := m.mounts(path)
		require.NoError(t, err)
		require.Equal(t, want.whole, whole, path)
		require.Equal(t, want.below, below, path)
	}
	_, _, err := (&machine{root: t.TempDir()}).mounts("/")
	require.Error(t, err)
}

// TestEnviron: what is not NAME=VALUE is nothing.
func TestEnviron(t *testing.T) {
	t.Parallel()
	e := newEnviron([]string{"A=1", "TERM", "B=x=y", "C=", "A=2"})
	require.Equal(t, map[string]string{"A": "2", "B": "x=y", "C": ""}, e.values)
	require.Equal(t, []string{"A=2", "B=x=y", "C="}, e.list())
}

// TestEnvironment: all that a command finds in its environment.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	root := tree(t, "jdk/lib/", "node/")
	environment := func(env []string, environ ...string) []string {
		b := (&machine{uid: 1}).builder(&Input{Agent: "demo", Workdir: Workdir{Path: "/w"}, Environ: environ, Env: env})
		b.visible = []string{filepath.Join(root, "jdk/lib")}
		b.inside = "/h"
		b.environment("/bin")
		return b.Env
	}
	caller := []string{
		"SSH_AUTH_SOCK=/tmp/x", "AWS_PROFILE=prod", "BASH_ENV=/x", "LD_PRELOAD=/x", "LD_LIBRARY_PATH=/x", "PYTHONPATH=/x", "NODE_OPTIONS=--require=/x", "GIT_SSH_COMMAND=x",
		"XDG_RUNTIME_DIR=/run/user/0", "DBUS_SESSION_BUS_ADDRESS=unix:path=/x", "DOCKER_HOST=unix:///x", "KUBECONFIG=/x", "GNUPGHOME=/x", "HTTP_PROXY=http://u:p@corp.test", "ALL_PROXY=http://corp.test",
		"HOME=/elsewhere", "PATH=/elsewhere", "USER=root", "TERM=xterm", "GOTOOLCHAIN=auto",
		"JAVA_HOME=" + filepath.Join(root, "jdk"), "NVM_DIR=" + filepath.Join(root, "node"), "GOROOT=jdk", "CARGO_HOME=/nonexistent",
	}
	extra := []string{"WANTED=yes", "NO_PROXY=*", "SSL_CERT_FILE=/x", "NODE_EXTRA_CA_CERTS=/x", "https_proxy=http://elsewhere.test", "broken"}
	require.Equal(t, []string{
		"AWS_CA_BUNDLE=/run/postern/bundle.pem", "BUNDLE_RETRY=0", "BUN_CONFIG_HTTP_RETRY_COUNT=0",
		"CARGO_HTTP_CAINFO=/run/postern/bundle.pem", "CARGO_NET_RETRY=0",
		"CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE=/run/postern/bundle.pem", "CONDA_REMOTE_MAX_RETRIES=0",
		"CURL_CA_BUNDLE=/run/postern/bundle.pem", "DENO_CERT=/run/postern/ca.pem", "GIT_CONFIG_COUNT=2",
		"GIT_CONFIG_KEY_0=commit.gpgSign", "GIT_CONFIG_KEY_1=tag.gpgSign", "GIT_CONFIG_SYSTEM=/etc/gitconfig",
		"GIT_CONFIG_VALUE_0=false", "GIT_CONFIG_VALUE_1=false", "GIT_SSL_CAINFO=/run/postern/bundle.pem",
		"GIT_TERMINAL_PROMPT=0", "GOTOOLCHAIN=local", "GRADLE_OPTS=-Dorg.gradle.internal.repository.max.retries=1",
		"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=/run/postern/bundle.pem", "HEX_CACERTS_PATH=/run/postern/bundle.pem",
		"HOME=/h", "HTTPLIB2_CA_CERTS=/run/postern/bundle.pem", "HTTPS_PROXY=http://127.0.0.1:3128",
		"HTTP_PROXY=http://127.0.0.1:3128", "JAVA_HOME=" + filepath.Join(root, "jdk"), "LOGNAME=agent",
		"MAVEN_ARGS=-Daether.connector.http.retryHandler.count=0 -Daether.transport.http.retryHandler.count=0",
		"NIX_SSL_CERT_FILE=/run/postern/bundle.pem", "NODE_EXTRA_CA_CERTS=/run/postern/ca.pem",
		"NO_PROXY=localhost,.localhost,demo,127.0.0.1,127.0.0.2,127.0.1.1,127.0.0.0/8,0.0.0.0,::1,::",
		"NUGET_ENHANCED_MAX_NETWORK_TRY_COUNT=1", "PATH=/bin", "PERL_LWP_SSL_CA_FILE=/run/postern/bundle.pem",
		"PIP_CERT=/run/postern/bundle.pem", "PIP_NO_INPUT=1", "PIP_RETRIES=1", "POETRY_REQUESTS_MAX_RETRIES=0",
		"POSTERN_AGENT=demo", "PWD=/w", "REQUESTS_CA_BUNDLE=/run/postern/bundle.pem", "RUSTUP_MAX_RETRIES=0",
		"SSL_CERT_FILE=/run/postern/bundle.pem", "TERM=xterm", "TMPDIR=/tmp", "USER=agent", "UV_HTTP_RETRIES=0",
		"WANTED=yes", "YARN_HTTPS_CA_FILE_PATH=/run/postern/bundle.pem", "YARN_HTTP_RETRY=0",
		"http_proxy=http://127.0.0.1:3128", "https_proxy=http://127.0.0.1:3128",
		"no_proxy=localhost,.localhost,demo,127.0.0.1,127.0.0.2,127.0.1.1,127.0.0.0/8,0.0.0.0,::1,::",
		"npm_config_fetch_retries=0", "npm_config_update_notifier=false",
	}, environment(extra, caller...))
	require.Contains(t, environment(nil, "USER=jane", "LOGNAME=jane"), "USER=jane")
}

// look returns the real path of a folder that may be a working directory.
func look(dir, home string, private ...string) (string, error) {
	w, err := Look(dir, []string{"HOME=" + home}, private)
	return w.Path, err
}

// TestSecretsAreNoWorkdirs: nor is what they are in, in any home.
func TestSecretsAreNoWorkdirs(t *testing.T) {
	t.Parallel()
	for _, secret := range strings.Fields(`.ssh .gnupg .aws .azure .config/gcloud .config/gh .config/hub .docker .kube .password-store .local/share/keyrings
		.mozilla .config/google-chrome .config/chromium .pulumi .terraform.d`) {
		home := tree(t, secret+"/deep/x", "project/")
		for dir := secret + "/deep"; dir != "."; dir = filepath.Dir(dir) {
			_, err := look(filepath.Join(home, dir), home)
			require.ErrorContains(t, err, "as working directory: it is", dir)
		}
		real, err := look(filepath.Join(home, "project"), home)
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
		_, err := look(dir, home, filepath.Join(root, "p/state"))
		require.ErrorContains(t, err, why, dir)
		_, err = look(dir, home, link) // a private folder by another name
		require.ErrorContains(t, err, why, dir)
	}
	real, err := look(filepath.Join(root, "p/other"), home, filepath.Join(root, "p/state"))
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
		real, links, err := new(machine).resolve(root + "/" + path)
		if c.want == "" {
			require.Error(t, err, path)
			continue
		}
		require.NoError(t, err, path)
		require.Equal(t, at(c.want), real, path)
		require.Equal(t, c.links, links, path)
	}
	real, links, err := new(machine).resolve("/")
	require.NoError(t, err)
	require.Equal(t, "/", real)
	require.Empty(t, links)
	_, _, err = new(machine).resolve(at("loop"))
	require.ErrorContains(t, err, "too many symbolic links")
	_, _, err = new(machine).resolve(at("dangling"))
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
		m := new(machine)
		called, links := m.callerHome(home)
		require.Equal(t, want, [2]string{called, m.real(called)}, "%q", home)
		require.Equal(t, called == link, len(links) == 1)
	}
}

// TestSees: what is seen, and what can be shown of it without being seen.
func TestSees(t *testing.T) {
	t.Parallel()
	b := new(machine).builder(&Input{})
	b.visible = []string{"/usr", "/opt/x/bin"}
	for path, want := range map[string][2]bool{"/usr": {true, true}, "/usr/bin": {true, true}, "/usrx": {false, false}, "/opt/x": {false, true}, "/opt/x/bin/y": {true, true}, "/opt/x/lib": {false, false}, "/": {false, true}} {
		require.Equal(t, want, [2]bool{b.sees(path), b.seesPartOf(path)}, path)
	}
	require.True(t, within("/x", "/"))
	require.True(t, overlap("/a", "/a/b"))
	require.True(t, overlap("/a/b", "/a"))
	require.False(t, overlap("/a", "/ab"))
	b.readOnly("/usr/share")
	b.readOnly("/srv")
	b.readOnly("/srv/x")
	b.link("/bin", "usr/bin")
	b.link("/bin", "elsewhere")
	b.link("/srv/link", "elsewhere")
	require.Equal(t, []Mount{{Kind: Bind, Source: "/srv", Target: "/srv"}, {Kind: Symlink, Source: "usr/bin", Target: "/bin"}}, b.Mounts)
	require.Contains(t, b.visible, "/srv")
}

// TestMatch: the folder is not a pattern, whatever it is called.
func TestMatch(t *testing.T) {
	t.Parallel()
	m := &machine{root: tree(t, "a[b]*/v1/etc/npmrc", "a[b]*/v2/etc/", "a[b]*/link -> v1", "ab/v1/etc/npmrc", "file")}
	require.Equal(t, []string{"/a[b]*/link/etc/npmrc", "/a[b]*/v1/etc/npmrc"}, m.match("/a[b]*", "*/etc/npmrc"))
	require.Equal(t, []string{"/a[b]*/v1/etc", "/a[b]*/v2/etc"}, m.match("/a[b]*", "v?/etc"))
	require.Equal(t, []string{"/ab/v1/etc/npmrc"}, m.match("/ab", "v1/etc/npmrc"))
	require.Empty(t, m.match("/ab", "v1/none"))
	require.Empty(t, m.match("/none", "*"))
	require.Empty(t, m.match("/file", "*"))
}
