// Package bubblewrap renders a sandbox's view as arguments of bwrap, makes the user that root's
// sandbox is on the host, and says what to do if bwrap complains.
package bubblewrap

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/wire"
)

// Render returns the arguments with which bwrap starts postern-sandbox in the view, and the
// contents that it reads: of the descriptor first, the one after that, and so on.
func Render(v *view.View, first int) (args []string, contents [][]byte) {
	r := renderer{next: first}
	r.add("--unshare-all", "--new-session", "--as-pid-1", "--clearenv",
		"--hostname", v.Hostname,
		// User 0 is only for postern-sandbox, in a namespace where 0 stands for the caller. For
		// root, bubblewrap keeps every capability unless told otherwise.
		"--uid", "0", "--gid", "0", "--cap-drop", "ALL",
		"--cap-add", "CAP_NET_ADMIN", "--cap-add", "CAP_NET_BIND_SERVICE", "--cap-add", "CAP_SETFCAP",
		// For what bwrap 0.8 cannot do to mounts: postern-sandbox does it, and gives the capability up.
		"--cap-add", "CAP_SYS_ADMIN")
	if slices.ContainsFunc(v.Mounts, func(m view.Mount) bool { return m.Kind == view.Layer }) {
		// The kernel keeps these for its own work on the layer.
		r.add("--cap-add", "CAP_DAC_OVERRIDE", "--cap-add", "CAP_FOWNER", "--cap-add", "CAP_CHOWN")
	}
	r.add("--proc", "/proc")
	for _, path := range v.ReadOnly {
		r.add("--ro-bind", path, path)
	}
	// Only files that are meant to be written hold data.
	r.add("--dev", "/dev")
	r.mount(view.Mount{Kind: view.Tmpfs, Target: "/dev/shm", Mode: 0o1777, Size: v.Limits.Scratch})
	for _, m := range v.Mounts {
		if m.Kind == view.Device {
			r.add("--dev-bind", m.Source, m.Target)
		}
	}
	r.add("--remount-ro", "/dev")
	for _, m := range v.Mounts {
		r.mount(m)
	}
	for _, path := range v.Masked {
		r.add("--ro-bind", os.DevNull, path)
	}
	// The agent may not change folders that were made on the way, such as /etc.
	r.add("--remount-ro", "/", "--chdir", "/", wire.Inside)
	return r.args, r.contents
}

// FirstProcess reads the number of the sandbox's first process from what bwrap writes to its
// --info-fd.
func FirstProcess(info io.Reader) (int, error) {
	var said struct {
		Child int `json:"child-pid"`
	}
	err := json.NewDecoder(info).Decode(&said)
	if err == nil && said.Child <= 1 {
		err = fmt.Errorf("child-pid is %d", said.Child)
	}
	if err != nil {
		return 0, fmt.Errorf("find the sandbox's first process in what bwrap says: %w", err)
	}
	return said.Child, nil
}

type renderer struct {
	args     []string
	contents [][]byte
	next     int
}

func (r *renderer) add(args ...string) { r.args = append(r.args, args...) }

func (r *renderer) mount(m view.Mount) {
	switch m.Kind {
	case view.Bind:
		how := "--ro-bind"
		if m.Writable {
			how = "--bind"
		}
		r.add(how, m.Source, m.Target)
	case view.Tmpfs:
		r.add("--size", strconv.FormatUint(m.Size, 10), "--perms", fmt.Sprintf("%#o", m.Mode), "--tmpfs", m.Target)
	case view.Device: // is in /dev already
	case view.Symlink:
		r.add("--symlink", m.Source, m.Target)
	case view.File:
		perms := "0444"
		if m.Writable {
			perms = "0600"
		}
		r.add("--perms", perms, "--file", r.content(m.Content), m.Target)
	case view.Layer:
		r.add("--bind", m.Source, wire.Layers)
	case view.Cover:
		r.add("--ro-bind-data", r.content(m.Content), m.Target)
	}
}

// content returns the number of the descriptor from which content is read.
func (r *renderer) content(content []byte) string {
	r.contents = append(r.contents, content)
	r.next++
	return strconv.Itoa(r.next - 1)
}
