// Package way says where a path in a folder leads. It follows links as the kernel does: one name
// after the other, so ".." after a link leads above where the link leads. Nothing outside of the
// folder is looked at.
package way

import (
	"cmp"
	"path"
	"strings"
)

// maxLinks and maxSteps bound the way of one path, and maxAll bounds those of all: an agent can
// make any number of paths, and each long. A person's folder with 50,000 links takes fewer.
// maxKnown is in bytes.
const maxLinks, maxSteps, maxAll, maxKnown = 40, 1000, 500_000, 16 << 20

// Folder is a folder in which paths are followed. It is for one goroutine.
type Folder struct {
	at    string
	link  func(at string) (to string, ok bool)
	known map[string]text
	// left are the steps of maxAll, and room the bytes of maxKnown, that are left.
	left, room int
}

// text is that of a link, if there is one.
type text struct {
	to string
	ok bool
}

// New returns the folder at the real path. link returns the text of the link at a path in the
// folder, of which no other name is a link, if there is one. What it says of a path may be kept.
func New(at string, link func(at string) (to string, ok bool)) *Folder {
	return &Folder{at, link, map[string]text{}, maxAll, maxKnown}
}

// read returns the text of the link at the path, if there is one.
func (f *Folder) read(at string) (to string, ok bool) {
	t, known := f.known[at]
	if !known {
		t.to, t.ok = f.link(at)
		if f.room -= 64 + len(at) + len(t.to); f.room >= 0 { // 64 for the entry
			f.known[at] = t
		}
	}
	return t.to, t.ok
}

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
// folder without a link. What is not there counts as a folder: somebody may make it. A path leads
// out, as far as is known, if it is too long, or if too many were followed before.
func (f *Folder) Follow(in, to string) (end End) {
	// The way so far, of which no name is a link. It is clean, but the folder itself is "".
	inside, rest := in, to
	if in == "." {
		inside = ""
	}
	for steps := 0; ; steps++ {
		// The kernel may follow it all the same.
		if f.left--; len(end.Links) > maxLinks || steps > maxSteps || f.left < 0 {
			end.Out = to
			return end
		}
		if path.IsAbs(rest) {
			below, ok := f.enter(rest)
			if !ok {
				end.Out, end.Exact = path.Clean(rest), below == ""
				return end
			}
			inside, rest = "", below
		}
		var step string
		if step, rest, _ = strings.Cut(rest, "/"); step == "" && rest == "" {
			end.In, end.Exact = cmp.Or(inside, "."), true
			return end
		}
		switch {
		case step == "", step == ".":
		case step == ".." && inside == "":
			rest = path.Dir(f.at) + "/" + rest
		case step == "..":
			inside = inside[:max(strings.LastIndexByte(inside, '/'), 0)]
		default:
			at := step
			if inside != "" {
				at = inside + "/" + step
			}
			if next, ok := f.read(at); ok {
				rest = next + "/" + rest
				end.Links = append(end.Links, at)
			} else {
				inside = at
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
