package workspace

import (
	"github.com/postern/postern/sandbox/workspace/beneath"
	"github.com/postern/postern/sandbox/workspace/tool"
	"github.com/postern/postern/sandbox/workspace/way"
)

// newWays returns where paths lead in what the agent has made, and in the host's folder: somebody
// may apply a link, and not what it leads through.
func (w *walker) newWays() []*way.Folder {
	merged, host := beneath.Layers{w.upper.root, w.host.root}, beneath.Layers{w.host.root}
	return []*way.Folder{way.New(w.run.Workdir, merged.Link), way.New(w.run.Workdir, host.Link)}
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
