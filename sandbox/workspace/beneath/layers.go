package beneath

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/visible"
)

// atOnce is how many names of a folder are read at once.
const atOnce = 1000

// Layers is a folder as an overlay of the kernel shows it: each layer hides what the next ones have
// under the same name. The last one is the host's. A layer may have been opened as a path only.
type Layers []*os.File

// Close closes the layers.
func (l Layers) Close() {
	for _, layer := range l {
		layer.Close()
	}
}

// Of returns the layer that shows what is under the name, or nil.
func (l Layers) Of(name string) *os.File {
	for i, layer := range l {
		switch e, err := Look(layer, name); {
		case err != nil, l.hides(i, e):
			return nil
		case e != nil:
			return layer
		}
	}
	return nil
}

// hides reports whether what the layer has hides the name. What the host has hides nothing.
func (l Layers) hides(layer int, e *Entry) bool { return layer < len(l)-1 && e.IsWhiteout() }

// Each calls visit with each name, and its layer, until visit returns false.
func (l Layers) Each(visit func(layer *os.File, e os.DirEntry) bool) error {
	for _, layer := range l {
		// By this name the kernel also says what a file is where the folder does not.
		listed, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", layer.Fd()))
		if err != nil {
			return err
		}
		more, err := l.each(layer, listed, visit)
		listed.Close()
		if err != nil || !more {
			return err
		}
	}
	return nil
}

func (l Layers) each(layer, listed *os.File, visit func(layer *os.File, e os.DirEntry) bool) (more bool, err error) {
	for {
		entries, err := listed.ReadDir(atOnce)
		for _, e := range entries {
			if (len(l) == 1 || l.Of(e.Name()) == layer) && !visit(layer, e) {
				return false, nil
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return true, err
		}
	}
}

// Folder opens the folder at the path.
func (l Layers) Folder(at string) (Layers, error) {
	if len(l) == 1 {
		f, err := Open(l[0], at, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return nil, err
		}
		return Layers{f}, nil
	}
	in, err := l.next(".")
	for name := range strings.SplitSeq(at, "/") {
		if err != nil || name == "." {
			continue
		}
		var below Layers
		below, err = in.next(name)
		in.Close()
		in = below
	}
	return in, err
}

// next opens the folder under the name.
func (l Layers) next(name string) (below Layers, err error) {
	for i, layer := range l {
		e, err := Look(layer, name)
		if err == nil && e == nil {
			continue
		}
		if err == nil && !e.Is(unix.S_IFDIR) {
			break
		}
		f, err := Open(layer, name, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			below.Close()
			return nil, err
		}
		below = append(below, f)
		if i < len(l)-1 && IsOpaque(layer, name) {
			break
		}
	}
	if below == nil {
		return nil, &fs.PathError{Op: "open", Path: visible.Quote(name), Err: unix.ENOENT}
	}
	return below, nil
}

// Regular opens the regular file at the path for reading.
func (l Layers) Regular(at string) (*os.File, *Entry, error) {
	in, err := l.Folder(path.Dir(at))
	if err != nil {
		return nil, nil, err
	}
	defer in.Close()
	layer := in.Of(path.Base(at))
	if layer == nil {
		return nil, nil, &fs.PathError{Op: "open", Path: visible.Quote(at), Err: unix.ENOENT}
	}
	return OpenRegular(layer, path.Base(at))
}

// Link returns the text of the link at the path, if there is one.
func (l Layers) Link(at string) (to string, ok bool) {
	in, err := l.Folder(path.Dir(at))
	if err != nil {
		return "", false
	}
	defer in.Close()
	layer := in.Of(path.Base(at))
	if layer == nil {
		return "", false
	}
	to, err = ReadLink(layer, path.Base(at))
	return to, err == nil
}

// IsOpaque reports whether the folder in a layer hides the host's files of the same folder.
func IsOpaque(dir *os.File, name string) bool {
	return Attribute(dir, name, "user.overlay.opaque") == "y"
}

// Attribute returns an extended attribute of a file or folder, or "".
func Attribute(dir *os.File, name, key string) string {
	f, err := Open(dir, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return ""
	}
	defer f.Close()
	buf := make([]byte, 256)
	n, err := unix.Fgetxattr(int(f.Fd()), key, buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}
