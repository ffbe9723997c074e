// Package way says where a path in a folder leads. It follows links as the kernel does: one name
// after the other, so ".." after a link leads above where the link leads. Nothing outside of the
// folder is looked at.
package way

import (
	"path"
	"strings"
)

// maxLinks and maxSteps bound the way of one path, which an agent can make long.
const maxLinks, maxSteps = 40, 1000

// Folder is a folder in which paths are followed.
type Folder struct {
	at   string
	link func(at string) (to string, ok bool)
}

// New returns the folder at the real path. link returns the text of the link at a path in the
// folder, of which no other name is a link, if there is one.
func New(at string, link func(at string) (to string, ok bool)) *Folder { return &Folder{at, link} }

// End is where a path leads: into the folder or out of it.
type End struct {
	// In is the path in the folder, and no name of it is a link. It is "" if the path leads out.
	In string
	// Out is the path outside, or "" if the path stays in the folder.
	Out string
	// Exact is false if a link out there can lead elsewhere, or into the folder again.
	Exact bool
	// Links are the paths of the links in the folder that are on the way.
	Links []string
}

// Follow returns where a path leads that is relative to the folder in, which is a path in the
// folder without a link. What is not there counts as a folder: somebody may make it.
func (f *Folder) Follow(in, to string) (end End) {
	var inside []string // the folders on the way, none of which is a link
	if in != "." {
		inside = strings.Split(in, "/")
	}
	rest := to
	for steps := 0; ; steps++ {
		if len(end.Links) > maxLinks || steps > maxSteps { // the kernel may follow it all the same
			end.Out = to
			return end
		}
		if path.IsAbs(rest) {
			below, ok := f.enter(rest)
			if !ok {
				end.Out, end.Exact = path.Clean(rest), below == ""
				return end
			}
			inside, rest = nil, below
		}
		var step string
		if step, rest, _ = strings.Cut(rest, "/"); step == "" && rest == "" {
			end.In, end.Exact = path.Join(append([]string{"."}, inside...)...), true
			return end
		}
		switch {
		case step == "", step == ".":
		case step == ".." && len(inside) == 0:
			rest = path.Dir(f.at) + "/" + rest
		case step == "..":
			inside = inside[:len(inside)-1]
		default:
			inside = append(inside, step)
			at := path.Join(inside...)
			if next, ok := f.link(at); ok {
				inside, rest = inside[:len(inside)-1], next+"/"+rest
				end.Links = append(end.Links, at)
			}
		}
	}
}

// enter returns what of the absolute path is below the folder, if it leads there. Else below is
// not empty if the path leads up again, from where a link may be.
func (f *Folder) enter(abs string) (below string, ok bool) {
	at := "/"
	for rest := abs; rest != ""; {
		if at == f.at {
			return rest, true
		}
		var step string
		step, rest, _ = strings.Cut(rest, "/")
		switch {
		case step == "..":
			if at != f.at && !strings.HasPrefix(f.at, strings.TrimSuffix(at, "/")+"/") {
				below = abs
			}
			at = path.Dir(at)
		case step != "":
			at = path.Join(at, step)
		}
	}
	return below, at == f.at
}
