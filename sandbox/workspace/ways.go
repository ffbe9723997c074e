package workspace

import (
	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/workspace/beneath"
	"github.com/postern/postern/sandbox/workspace/tool"
	"github.com/postern/postern/sandbox/workspace/way"
)

// newWays returns where paths lead in what the agent has made, and in the host's folder: somebody
// may apply a link, and not what it leads through.
func (w *walker) newWays() []*way.Folder {
	merged := way.New(w.run.Workdir, func(at string) (string, bool) {
		if to, known, isLink := layerLink(w.upper, at); known {
			return to, isLink
		}
		return linkIn(w.host, at)
	})
	return []*way.Folder{merged, way.New(w.run.Workdir, func(at string) (string, bool) { return linkIn(w.host, at) })}
}

// layerLink returns the text of the link that a layer has at the path. It is known what is there
// unless the layer shows what the host's folder has.
func layerLink(upper tree, at string) (to string, known, isLink bool) {
	for in, last := at, true; ; last = false {
		dir, name := parent(in)
		if folder, err := upper.folder(dir); err == nil {
			defer folder.Close()
			e, err := beneath.Look(folder, name)
			switch {
			case err != nil:
			case e.Is(unix.S_IFLNK) && last:
				to, err = beneath.ReadLink(folder, name)
				return to, true, err == nil
			case e != nil && !e.Is(unix.S_IFDIR), e != nil && last, isOpaque(folder, "."):
				return "", true, false
			}
		}
		if dir == "." {
			return "", false, false
		}
		in = dir
	}
}

// linkIn returns the text of the link at the path, if there is one.
func linkIn(t tree, at string) (string, bool) {
	in, name := parent(at)
	dir, err := t.folder(in)
	if err != nil {
		return "", false
	}
	defer dir.Close()
	to, err := beneath.ReadLink(dir, name)
	return to, err == nil
}

// link returns what somebody must know of the agent's link at the path.
func (w *walker) link(at, to string) (notes []string) {
	in, _ := parent(at)
	out := false
	for _, way := range w.ways {
		out = out || way.Follow(in, to).Out != ""
	}
	if _, who := tool.Begins(w.asGit(at)); who != "" {
		notes = append(notes, who)
	}
	if out {
		notes = append(notes, "it leads out of the folder")
	}
	return notes
}
