package container

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox/view"
)

// example is a view with each kind of mount that a container can have.
func example() *view.View {
	return &view.View{
		Agent: "coder", Hostname: "coder-host", UID: 1000, GID: 1001,
		Workdir: view.Workdir{Path: "/home/me/work"},
		Mounts: []view.Mount{
			{Kind: view.Bind, Source: "/home/me/work", Target: "/home/me/work", Writable: true},
			{Kind: view.Bind, Source: "/usr/lib/postern", Target: "/run/postern/postern-sandbox"},
			{Kind: view.Tmpfs, Target: "/tmp", Mode: 0o1777, Size: 4096},
			{Kind: view.File, Target: "/etc/hosts", Content: []byte("127.0.0.1 localhost\n")},
		},
		ReadOnly: []string{"/proc/own", "/proc/sys"}, Masked: []string{"/proc/own-mask", "/proc/keys"},
		Limits: view.Limits{Processes: 77, Memory: 1 << 20, Scratch: 8192, Processors: 1500},
	}
}

// TestConfig: everything that an engine is asked for.
func TestConfig(t *testing.T) {
	t.Parallel()
	o := &Options{Runtime: "runsc", Image: "sha256:1234", Volumes: []string{"/data/", "/tmp"}, Folder: t.TempDir()}
	c, err := render(example(), o, "/state/run-1", []byte(`{"x":1}`))
	require.NoError(t, err)
	got, err := json.Marshal(c)
	require.NoError(t, err)
	// The file is named after the first half of the SHA-256 of its content.
	file := filepath.Join(o.Folder, "081ef9d5367595d16e30b4b4549d9f43")
	require.JSONEq(t, strings.NewReplacer("FILE", file).Replace(`{
		"Image": "sha256:1234", "Entrypoint": ["/run/postern/postern-sandbox"], "Cmd": ["join"],
		"User": "1000:1001", "WorkingDir": "/", "Hostname": "coder-host",
		"Env": ["GODEBUG=", "GOGC=", "GOMAXPROCS=", "GOMEMLIMIT=", "GOTRACEBACK=", "GORACE=", "GOCOVERDIR="],
		"Labels": {"dev.postern.agent": "coder"},
		"Healthcheck": {"Test": ["NONE"]},
		"HostConfig": {
			"Runtime": "runsc", "AutoRemove": true,
			"NetworkMode": "none", "IpcMode": "private", "CgroupnsMode": "private",
			"CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges", "seccomp={\"x\":1}"], "ReadonlyRootfs": true,
			"Memory": 1048576, "MemorySwap": 1048576, "NanoCpus": 1500000000, "PidsLimit": 77, "ShmSize": 8192,
			"OomScoreAdj": 500, "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
			"Tmpfs": {
				"/tmp": "rw,noexec,nosuid,nodev,size=4096,mode=1777,uid=1000,gid=1001",
				"/data": "rw,noexec,nosuid,nodev,size=8192,mode=0700,uid=1000,gid=1001"
			},
			"Mounts": [
				{"Type": "bind", "Source": "/state/run-1", "Target": "/run/postern/host", "ReadOnly": true,
					"BindOptions": {"Propagation": "rprivate"}},
				{"Type": "bind", "Source": "/home/me/work", "Target": "/home/me/work", "ReadOnly": false,
					"BindOptions": {"Propagation": "rprivate"}},
				{"Type": "bind", "Source": "/usr/lib/postern", "Target": "/run/postern/postern-sandbox",
					"ReadOnly": true, "BindOptions": {"Propagation": "rprivate"}},
				{"Type": "bind", "Source": "FILE", "Target": "/etc/hosts", "ReadOnly": true,
					"BindOptions": {"Propagation": "rprivate"}}
			],
			"MaskedPaths": [
				"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kallsyms", "/proc/kcore", "/proc/key-users",
				"/proc/keys",
				"/proc/latency_stats", "/proc/modules", "/proc/own-mask", "/proc/pressure",
				"/proc/sched_debug", "/proc/scsi",
				"/proc/timer_list", "/proc/timer_stats", "/sys/dev/block",
				"/sys/devices/virtual/powercap", "/sys/firmware",
				"/sys/fs/selinux", "/sys/kernel/debug", "/sys/kernel/security", "/sys/kernel/tracing", "/sys/module"
			],
			"ReadonlyPaths": [
				"/proc/bus", "/proc/fs", "/proc/irq", "/proc/own", "/proc/sys", "/proc/sysrq-trigger"
			],
			"LogConfig": {"Type": "none"}
		}
	}`), string(got))
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1 localhost\n", string(content))
}

// TestLine: the command line says the same, but for paths that Docker masks itself.
func TestLine(t *testing.T) {
	t.Parallel()
	v := example()
	v.Mounts = v.Mounts[:3]
	o := &Options{Runtime: "runsc", Image: "sha256:1234", Folder: t.TempDir()}
	line, err := Line(v, o, []byte("{}"))
	require.NoError(t, err)
	text := strings.NewReplacer(o.Folder, "FOLDER", Owner(), "OWNER").Replace(strings.Join(line, "\n"))
	// The first half of the SHA-256 of "{}".
	require.Equal(t, strings.Fields(`docker run --rm --runtime runsc --network none --ipc private --cgroupns private
		--cap-drop ALL --security-opt no-new-privileges
		--security-opt seccomp=FOLDER/44136fa355b3678a1146ad16f7e8649e
		--read-only --user 1000:1001 --hostname coder-host --workdir / --memory 1048576 --memory-swap 1048576
		--cpus 1.5 --pids-limit 77 --shm-size 8192 --oom-score-adj 500 --ulimit core=0:0 --no-healthcheck
		--log-driver none --label dev.postern.agent=coder
		--env GODEBUG= --env GOGC= --env GOMAXPROCS= --env GOMEMLIMIT=
		--env GOTRACEBACK= --env GORACE= --env GOCOVERDIR=
		--tmpfs /tmp:rw,noexec,nosuid,nodev,size=4096,mode=1777,uid=1000,gid=1001
		--mount type=bind,source=FOLDER/run-OWNER,target=/run/postern/host,bind-propagation=rprivate,readonly
		--mount type=bind,source=/home/me/work,target=/home/me/work,bind-propagation=rprivate
		--mount type=bind,source=/usr/lib/postern,target=/run/postern/postern-sandbox,bind-propagation=rprivate,readonly
		--entrypoint /run/postern/postern-sandbox sha256:1234 join`), strings.Split(text, "\n"))
	content, err := os.ReadFile(filepath.Join(o.Folder, "44136fa355b3678a1146ad16f7e8649e"))
	require.NoError(t, err)
	require.Equal(t, "{}", string(content))
	o.Runtime = ""
	line, err = Line(v, o, []byte("{}"))
	require.NoError(t, err)
	require.NotContains(t, line, "--runtime")
}

// TestMountOptions: no path begins another option.
func TestMountOptions(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"/a b": "source=/a b", "/a,readonly": `"source=/a,readonly"`, `/a"`: `"source=/a"""`,
		"/a\nb": "\"source=/a\nb\"",
		"/a\rb": "\"source=/a\rb\"", "/a ": `"source=/a "`,
	} {
		m := mount{Type: "bind", Source: source, Target: "/t"}
		require.True(t, strings.HasPrefix(m.option(), "type=bind,"+want+",target=/t"), m.option())
	}
}

// TestNoSuchContainer: what an engine could carry out in another way than it is meant is refused.
func TestNoSuchContainer(t *testing.T) {
	t.Parallel()
	at := func(m view.Mount) func(*view.View, *Options) {
		return func(v *view.View, _ *Options) { v.Mounts = append(v.Mounts, m) }
	}
	bind := func(source, target string) func(*view.View, *Options) {
		return at(view.Mount{Kind: view.Bind, Source: source, Target: target})
	}
	volume := func(place string) func(*view.View, *Options) {
		return func(_ *view.View, o *Options) { o.Volumes = []string{"/fine", place} }
	}
	readOnly := func(v *view.View, _ *Options) {
		v.Mounts[0].Writable, v.Workdir.Mounts = false, []string{"0:1 /"}
	}
	for name, c := range map[string]struct {
		change func(*view.View, *Options)
		want   string
	}{
		"a link":             {at(view.Mount{Kind: view.Symlink, Target: "/b"}), "cannot have a symlink at /b"},
		"a cover":            {at(view.Mount{Kind: view.Cover, Target: "/b"}), "cannot have a cover at /b"},
		"a source's bytes":   {bind("/a\xff", "/b"), `"/a\xff" is not UTF-8`},
		"a target's bytes":   {bind("/a", "/b\xff"), "is not UTF-8"},
		"a mount inside":     {readOnly, "something is mounted in /home/me/work"},
		"volume /":           {volume("/"), `wants a volume at "/"`},
		"volume relative":    {volume("data"), `wants a volume at "data"`},
		"volume nothing":     {volume(""), `wants a volume at ""`},
		"volume the folder":  {volume("/home/me/work"), `wants a volume at "/home/me/work"`},
		"volume in it":       {volume("/home/me/work/x"), `wants a volume at "/home/me/work/x"`},
		"volume around it":   {volume("/home/me"), `wants a volume at "/home/me"`},
		"volume by dots":     {volume("/x/../home/me"), `wants a volume at "/x/../home/me"`},
		"volume ours":        {volume("/run/postern"), `wants a volume at "/run/postern"`},
		"volume around ours": {volume("/run"), `wants a volume at "/run"`},
		"volume the home":    {volume("/agent"), `wants a volume at "/agent"`},
		"volume /proc":       {volume("/proc/x"), `wants a volume at "/proc/x"`},
		"volume /sys":        {volume("/sys"), `wants a volume at "/sys"`},
		"volume /dev":        {volume("/dev/shm"), `wants a volume at "/dev/shm"`},
		"volume /etc":        {volume("/etc/ssl"), `wants a volume at "/etc/ssl"`},
	} {
		v, o := example(), &Options{Folder: t.TempDir()}
		c.change(v, o)
		_, err := render(v, o, "/state/run-1", nil)
		require.ErrorContains(t, err, c.want, name)
		_, err = Line(v, o, nil)
		require.ErrorContains(t, err, c.want, name)
	}
	// Names that only look alike are not in the way. Neither is a mount in a folder to write to.
	v, o := example(), &Options{Folder: t.TempDir(), Volumes: []string{"/home/me/work2", "/run/postern2", "/etcetera"}}
	v.Workdir.Mounts = []string{"0:1 /"}
	c, err := render(v, o, "/state/run-1", nil)
	require.NoError(t, err)
	require.Len(t, c.HostConfig.Tmpfs, 4)
}

// TestStore: a file is what it was written as, whatever is at its path.
func TestStore(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "new")
	path, err := store(folder, []byte("{}"))
	require.NoError(t, err)
	require.Equal(t, filepath.Join(folder, "44136fa355b3678a1146ad16f7e8649e"), path)
	for _, there := range []func() error{
		func() error { return nil },
		func() error { return os.WriteFile(path, []byte("longer"), 0o600) },
		func() error { return os.Symlink("/dev/null", path) },
	} {
		require.NoError(t, os.Remove(path))
		require.NoError(t, there())
		again, err := store(folder, []byte("{}"))
		require.NoError(t, err)
		require.Equal(t, path, again)
		info, err := os.Lstat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o444), info.Mode())
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, "{}", string(content))
	}
	before, err := os.Stat(path)
	require.NoError(t, err)
	_, err = store(folder, []byte("{}"))
	require.NoError(t, err)
	after, err := os.Stat(path)
	require.NoError(t, err)
	require.True(t, os.SameFile(before, after), "it is written once")
	info, err := os.Stat(folder)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	file := filepath.Join(folder, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = store(file, nil)
	require.Error(t, err)
}
