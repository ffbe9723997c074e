package workspace

import (
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/workspace/beneath"
)

// tree is a folder in which names are looked up without following links or leaving its file system.
type tree struct{ root *os.File }

// folder opens the folder at the path.
func (t tree) folder(at string) (*os.File, error) {
	return beneath.Open(t.root, at, unix.O_RDONLY|unix.O_DIRECTORY)
}

// hasOrigin reports whether the kernel copied the file or folder, which is in the folder dir of a
// layer, from the host's folder. An agent cannot set this.
func hasOrigin(dir *os.File, name string) bool {
	return beneath.Attribute(dir, name, "user.overlay.origin") != ""
}

// parent returns the folder of a path, and the name there.
func parent(at string) (dir, name string) {
	dir, name = path.Split(at)
	if dir == "" {
		dir = "."
	}
	return path.Clean(dir), name
}
