package container

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/wire"
)

// labelAgent is a label of our containers, for people who list them.
const labelAgent = "dev.postern.agent"

// Options say how an agent's container is made, besides its view.
type Options struct {
	// Socket is the path of the engine's socket: nobody but root and the caller may write it.
	Socket string
	// Runtime is the name of the engine's OCI runtime; "" is its default.
	Runtime string
	// Image is the ID of an image that the engine has.
	Image string
	// Volumes are the places at which the image wants a volume.
	Volumes []string
	// Folder is a private folder of the host for the files that the container sees. Their names are
	// hashes of their content, so they are written once and never changed.
	Folder string
	// Users are those of the engine's containers.
	Users Users
	// Foreign is true if the runtime has a kernel of its own, as gVisor has.
	Foreign bool
}

// config is a container as Docker's API describes it. Fields that are not here have their zero
// value, which gives nothing.
type config struct {
	Image       string
	Entrypoint  []string
	Cmd         []string
	User        string
	WorkingDir  string
	Hostname    string
	Env         []string
	Labels      map[string]string
	Healthcheck healthcheck
	HostConfig  hostConfig
}

type healthcheck struct{ Test []string }

type hostConfig struct {
	Runtime        string `json:",omitempty"`
	AutoRemove     bool
	NetworkMode    string
	IpcMode        string
	CgroupnsMode   string
	CapDrop        []string
	SecurityOpt    []string
	ReadonlyRootfs bool
	Memory         uint64
	MemorySwap     uint64
	NanoCpus       uint64 //nolint:revive // the API's name
	PidsLimit      uint64
	ShmSize        uint64
	OomScoreAdj    int
	Ulimits        []ulimit
	Tmpfs          map[string]string
	Mounts         []mount
	MaskedPaths    []string
	ReadonlyPaths  []string
	LogConfig      logConfig
}

type (
	ulimit struct {
		Name       string
		Soft, Hard int64
	}
	mount struct {
		Type, Source, Target string
		ReadOnly             bool
		BindOptions          *bindOptions   `json:",omitempty"`
		VolumeOptions        *volumeOptions `json:",omitempty"`
	}
	bindOptions   struct{ Propagation string }
	volumeOptions struct {
		NoCopy       bool
		DriverConfig driver
	}
	driver struct {
		Name    string
		Options map[string]string
	}
	logConfig struct{ Type string }
)

// masked and readOnly are the paths of the kernel that nobody may see, or write: those of Docker
// and Podman together, and what an ordinary user can learn from about the host.
var (
	masked = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/key-users",
		"/proc/latency_stats", "/proc/pressure", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
		"/proc/timer_stats", "/proc/kallsyms", "/proc/modules", "/sys/dev/block",
		"/sys/devices/virtual/powercap", "/sys/firmware",
		"/sys/fs/selinux", "/sys/kernel/debug", "/sys/kernel/security", "/sys/kernel/tracing", "/sys/module",
	}
	readOnly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// settings are the variables that Go's runtime acts on. The image may set them, and its environment
// is also that of the container's first process, which is ours.
var settings = []string{"GODEBUG", "GOGC", "GOMAXPROCS", "GOMEMLIMIT", "GOTRACEBACK", "GORACE", "GOCOVERDIR"}

// render makes the container of a view. host is the folder of the socket for its first process,
// profile the filter of system calls, in Docker's format.
func render(v *view.View, o *Options, host string, profile []byte) (*config, error) {
	c := &config{
		Image: o.Image, Entrypoint: []string{wire.Inside}, Cmd: []string{wire.Join}, WorkingDir: "/",
		User: fmt.Sprintf("%d:%d", o.Users.inside(v.UID), o.Users.inside(v.GID)), Hostname: v.Hostname,
		Labels: map[string]string{labelAgent: v.Agent},
		// An image's own check would run outside of the command's filter.
		Healthcheck: healthcheck{Test: []string{"NONE"}},
		HostConfig: hostConfig{
			Runtime: o.Runtime, AutoRemove: true, NetworkMode: "none", IpcMode: "private", CgroupnsMode: "private",
			CapDrop: []string{"ALL"}, SecurityOpt: []string{"no-new-privileges", "seccomp=" + string(profile)},
			ReadonlyRootfs: true,
			Memory:         v.Limits.Memory, MemorySwap: v.Limits.Memory, NanoCpus: v.Limits.Processors * 1e6,
			PidsLimit: v.Limits.Processes, ShmSize: v.Limits.Scratch, OomScoreAdj: 500,
			Ulimits:     []ulimit{{Name: "core"}},
			Tmpfs:       map[string]string{},
			MaskedPaths: union(masked, v.Masked), ReadonlyPaths: union(readOnly, v.ReadOnly),
			LogConfig: logConfig{Type: "none"},
		},
	}
	if o.Foreign {
		c.Cmd = append(c.Cmd, wire.Foreign)
	}
	for _, name := range settings {
		c.Env = append(c.Env, name+"=")
	}
	if err := c.mounts(v, host, o); err != nil {
		return nil, err
	}
	return c, c.volumes(o.Volumes, v)
}

// mounts adds what the view shows, and the folder of the host's socket.
func (c *config) mounts(v *view.View, host string, o *Options) error {
	c.bind(host, wire.HostDir, false)
	for _, m := range v.Mounts {
		source := m.Source
		switch m.Kind {
		case view.Tmpfs:
			c.HostConfig.Tmpfs[m.Target] = c.tmpfs(m.Size, m.Mode)
			continue
		case view.Layer:
			if o.Foreign { // the one of 2022 cannot open the folders of some
				return errors.New("make container: gVisor shows no overlay, and hides no file of a read-only folder: " +
					"use the runtime container, or another workspace mode")
			}
			if err := c.overlay(m); err != nil {
				return err
			}
			continue
		case view.Bind:
		case view.File:
			var err error
			if source, err = store(o.Folder, m.Content); err != nil {
				return err
			}
		default:
			return fmt.Errorf("make container: a container cannot have a %s at %s", m.Kind, m.Target)
		}
		// The engine gets the path as JSON, which has no other bytes.
		if !utf8.ValidString(source) || !utf8.ValidString(m.Target) {
			return fmt.Errorf("make container: %q is not UTF-8, as paths in a container must be: rename the folder",
				source)
		}
		// Engines before Docker 25 make only the mount itself read-only, not what is mounted in it.
		if m.Target == v.Workdir.Path && !m.Writable && len(v.Workdir.Mounts) > 0 && !layered(v) {
			return fmt.Errorf("make container: something is mounted in %s, which the agent could write though its "+
				"workspace is read-only: unmount it, or use the runtime bubblewrap", m.Target)
		}
		c.bind(source, m.Target, m.Writable)
	}
	c.protect(v)
	return nil
}

func (c *config) bind(source, target string, writable bool) {
	c.HostConfig.Mounts = append(c.HostConfig.Mounts, mount{
		Type: "bind", Source: source, Target: target, ReadOnly: !writable,
		BindOptions: &bindOptions{Propagation: "rprivate"},
	})
}

// protect makes files in the working directory read-only. A mount on the way to them keeps its
// folder from being renamed. The engine looks up their paths, which an agent may have changed
// since they were found: so the inside looks at what is mounted, and the host at what was renamed
// meanwhile, before the command starts.
func (c *config) protect(v *view.View) {
	for _, path := range v.Protected {
		if in := filepath.Dir(path); in != "." && !slices.ContainsFunc(c.HostConfig.Mounts, func(m mount) bool {
			return m.Target == filepath.Join(v.Workdir.Path, in)
		}) {
			c.bind(filepath.Join(v.Workdir.Path, in), filepath.Join(v.Workdir.Path, in), true)
		}
		c.bind(filepath.Join(v.Workdir.Path, path), filepath.Join(v.Workdir.Path, path), false)
	}
}

func layered(v *view.View) bool {
	return slices.ContainsFunc(v.Mounts, func(m view.Mount) bool { return m.Kind == view.Layer })
}

// overlay replaces the mount of the folder at the layer's target by an overlay of both, which the
// engine mounts, and unmounts when the container is gone. What is mounted in the folder is not
// seen.
func (c *config) overlay(m view.Mount) error {
	at := slices.IndexFunc(c.HostConfig.Mounts, func(b mount) bool { return b.Target == m.Target })
	folder := c.HostConfig.Mounts[at].Source
	for _, path := range []string{folder, m.Source} {
		// The engine splits the options at commas, and the kernel splits the layers at colons.
		if strings.ContainsAny(path, `,:\`) || !utf8.ValidString(path) {
			return fmt.Errorf("make container: %q cannot be a layer of an overlay, for it has a comma, a colon, a "+
				"backslash or bytes that are not UTF-8: rename the folder, or use the runtime bubblewrap", path)
		}
	}
	layer := func(name string) string { return filepath.Join(m.Source, name) }
	// userxattr is also what bubblewrap's overlays have, so layers are the same in both.
	options := "nosuid,nodev,userxattr,lowerdir=" + layer(wire.Hidden) + ":" + folder
	if !m.Writable {
		options = "ro," + options // of the mount: a volume without a name is not read-only
	} else {
		options += ",upperdir=" + layer(wire.Upper) + ",workdir=" + layer(wire.Work)
	}
	c.HostConfig.Mounts[at] = mount{
		Type: "volume", Target: m.Target,
		VolumeOptions: &volumeOptions{NoCopy: true, DriverConfig: driver{
			Name: "local", Options: map[string]string{"type": "overlay", "device": "overlay", "o": options},
		}},
	}
	return nil
}

// volumes puts a folder in memory where the image wants a volume: that would be on the host's disk,
// without a bound, and writable.
func (c *config) volumes(places []string, v *view.View) error {
	for _, place := range places {
		clean := filepath.Clean(place)
		taken := !filepath.IsAbs(clean) || clean == "/"
		for _, dir := range []string{v.Workdir.Path, wire.Dir, wire.Home, "/proc", "/sys", "/dev", "/etc"} {
			taken = taken || within(clean, dir) || within(dir, clean)
		}
		if taken {
			return fmt.Errorf("make container: the image wants a volume at %q, where the sandbox has something of "+
				"its own: use an image without it", place)
		}
		if _, ok := c.HostConfig.Tmpfs[clean]; !ok {
			c.HostConfig.Tmpfs[clean] = c.tmpfs(v.Limits.Scratch, 0o700)
		}
	}
	return nil
}

// tmpfs are the options of a folder in memory. It is the user's own: if the image has the folder,
// runc gives the new one that folder's mode.
func (c *config) tmpfs(size uint64, mode uint32) string {
	uid, gid, _ := strings.Cut(c.User, ":")
	return fmt.Sprintf("rw,noexec,nosuid,nodev,size=%d,mode=%04o,uid=%s,gid=%s", size, mode, uid, gid)
}

// within reports whether path is dir or below it.
func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// line returns the `docker run` that makes the same container. profile is the path of a file with
// the filter of system calls. Docker's command line cannot mask more of /proc than Docker masks
// anyway.
func (c *config) line(profile string) []string {
	h := &c.HostConfig
	line := []string{"docker", "run"}
	flag := func(name, value string) { line = append(line, name, value) }
	if h.AutoRemove {
		line = append(line, "--rm")
	}
	if h.Runtime != "" {
		flag("--runtime", h.Runtime)
	}
	flag("--network", h.NetworkMode)
	flag("--ipc", h.IpcMode)
	flag("--cgroupns", h.CgroupnsMode)
	for _, capability := range h.CapDrop {
		flag("--cap-drop", capability)
	}
	for _, option := range h.SecurityOpt {
		if strings.HasPrefix(option, "seccomp=") {
			option = "seccomp=" + profile
		}
		flag("--security-opt", option)
	}
	if h.ReadonlyRootfs {
		line = append(line, "--read-only")
	}
	flag("--user", c.User)
	flag("--hostname", c.Hostname)
	flag("--workdir", c.WorkingDir)
	flag("--memory", number(h.Memory))
	flag("--memory-swap", number(h.MemorySwap))
	flag("--cpus", strconv.FormatFloat(float64(h.NanoCpus)/1e9, 'f', -1, 64))
	flag("--pids-limit", number(h.PidsLimit))
	flag("--shm-size", number(h.ShmSize))
	flag("--oom-score-adj", strconv.Itoa(h.OomScoreAdj))
	for _, u := range h.Ulimits {
		flag("--ulimit", fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard))
	}
	line = append(line, "--no-healthcheck")
	flag("--log-driver", h.LogConfig.Type)
	for _, name := range slices.Sorted(maps.Keys(c.Labels)) {
		flag("--label", name+"="+c.Labels[name])
	}
	for _, kv := range c.Env {
		flag("--env", kv)
	}
	for _, place := range slices.Sorted(maps.Keys(h.Tmpfs)) {
		flag("--tmpfs", place+":"+h.Tmpfs[place])
	}
	for _, m := range h.Mounts {
		flag("--mount", m.option())
	}
	flag("--entrypoint", c.Entrypoint[0])
	return append(append(line, c.Image), c.Cmd...)
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

// option is the mount as a value of --mount, which Docker reads as a line of CSV: a comma, a quote
// or a line's end in a path must not begin another option.
func (m *mount) option() string {
	fields := []string{"type=" + m.Type}
	if m.Source != "" {
		fields = append(fields, "source="+m.Source)
	}
	fields = append(fields, "target="+m.Target)
	if m.BindOptions != nil {
		fields = append(fields, "bind-propagation="+m.BindOptions.Propagation)
	}
	if o := m.VolumeOptions; o != nil {
		fields = append(fields, "volume-nocopy", "volume-driver="+o.DriverConfig.Name)
		for _, name := range slices.Sorted(maps.Keys(o.DriverConfig.Options)) {
			fields = append(fields, "volume-opt="+name+"="+o.DriverConfig.Options[name])
		}
	}
	if m.ReadOnly {
		fields = append(fields, "readonly")
	}
	for i, f := range fields {
		if strings.ContainsAny(f, ",\"\n\r") || strings.TrimSpace(f) != f {
			fields[i] = `"` + strings.ReplaceAll(f, `"`, `""`) + `"`
		}
	}
	return strings.Join(fields, ",")
}

// Line returns the `docker run` that makes the container of a view, as words. Its first process
// waits for `postern run`: started by hand, it ends. The files that the line names are there.
func Line(v *view.View, o *Options, profile []byte) ([]string, error) {
	file, err := store(o.Folder, profile)
	if err != nil {
		return nil, err
	}
	c, err := render(v, o, filepath.Join(o.Folder, runPrefix+Owner()), profile)
	if err != nil {
		return nil, err
	}
	return c.line(file), nil
}
