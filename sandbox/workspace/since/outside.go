package since

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/workspace/beneath"
)

// Where a link that leads out of the folder leads, for a person who writes or removes something
// through it, as `rm -rf build/*` and `cp -r src/ build/` do.
const (
	leadsHome = "it leads into your home, or above it: what you write or remove through it is there"
	leadsOut  = "it leads out of the folder: what you write or remove through it is elsewhere"
)

// maxLinks and maxSteps bound the way of one link, which an agent can make long.
const maxLinks, maxSteps = 40, 1000

// outside are links that lead out of a folder. Nothing out there is looked at: paths decide.
type outside struct {
	root *os.File
	// at is the folder's real path, and home that of the person, or "".
	at, home string
	// top are the names in "/", and system the folders in which the person may write nothing.
	top    map[string]bool
	system []string
}

// newOutside returns those of the folder root, which is at a real path, for the user of the ID.
func newOutside(root *os.File, at, home string, user int) *outside {
	if real, err := filepath.EvalSymlinks(home); err == nil {
		home = real
	}
	o := &outside{root: root, at: at, home: home, top: map[string]bool{}}
	entries, _ := os.ReadDir("/") // what is not known is there
	for _, e := range entries {
		o.top[e.Name()] = true
	}
	if user != 0 { // root may write everything
		for _, in := range []string{"/usr", ""} {
			for _, name := range []string{"bin", "sbin", "lib", "lib32", "lib64", "libexec", "include", "share"} {
				o.system = append(o.system, in+"/"+name)
			}
		}
		o.system = append(o.system, "/nix/store")
	}
	return o
}

// leads says where the link at the path, whose text is to, leads out of the folder, and what of it
// a person must know, or "".
func (o *outside) leads(at, to string) (who, there string) {
	there, exact := o.end(path.Dir(at), to)
	switch {
	case there == "", exact && o.isHarmless(at, there):
		return "", ""
	case o.home != "" && (isBelow(there, o.home) || isBelow(o.home, there)):
		return leadsHome, there
	}
	return leadsOut, there
}

// isHarmless reports whether nobody writes or removes anything through the link at the path, which
// leads there.
func (o *outside) isHarmless(at, there string) bool {
	return slices.Contains([]string{"/dev/null", "/dev/stdout", "/dev/stderr"}, there) ||
		slices.ContainsFunc(o.system, func(in string) bool { return isBelow(there, in) }) ||
		o.isPython(at, there) || o.isMissing(there)
}

// isBelow reports whether the path is the folder, or in it.
func isBelow(at, folder string) bool {
	return at == folder || folder == "/" || strings.HasPrefix(at, folder+"/")
}

// end returns the path to which a link in the folder in, whose text is to, leads out, or "".
// What is not there yet counts as a folder: a build may make it. The path is exact if no link out
// there can lead it elsewhere.
func (o *outside) end(in, to string) (there string, exact bool) {
	var inside []string // the folders on the way, none of which is a link
	if in != "." {
		inside = strings.Split(in, "/")
	}
	rest := to
	for links, steps := 0, 0; ; steps++ {
		if links > maxLinks || steps > maxSteps { // the kernel may follow it all the same
			return to, false
		}
		if path.IsAbs(rest) {
			below, ok := o.enter(rest)
			if !ok {
				return path.Clean(rest), below == ""
			}
			inside, rest = nil, below
		}
		var step string
		if step, rest, _ = strings.Cut(rest, "/"); step == "" && rest == "" {
			return "", false
		}
		switch {
		case step == "", step == ".":
		case step == ".." && len(inside) == 0:
			rest = path.Dir(o.at) + "/" + rest
		case step == "..":
			inside = inside[:len(inside)-1]
		default:
			inside = append(inside, step)
			if next, ok := o.link(path.Join(inside...)); ok {
				inside, rest = inside[:len(inside)-1], next+"/"+rest
				links++
			}
		}
	}
}

// enter returns what of the absolute path is below the folder, if it leads there. Else below is
// not empty if the path leads up again, from where a link may be.
func (o *outside) enter(abs string) (below string, ok bool) {
	at := "/"
	for rest := abs; rest != ""; {
		if at == o.at {
			return rest, true
		}
		var step string
		step, rest, _ = strings.Cut(rest, "/")
		switch {
		case step == "..":
			if !isBelow(o.at, at) {
				below = abs
			}
			at = path.Dir(at)
		case step != "":
			at = path.Join(at, step)
		}
	}
	return below, at == o.at
}

// link returns the text of the link at the path in the folder, if there is one.
func (o *outside) link(at string) (to string, ok bool) {
	dir, err := beneath.Open(o.root, path.Dir(at), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return "", false
	}
	defer dir.Close()
	to, err = beneath.ReadLink(dir, path.Base(at))
	return to, err == nil
}

// python matches the names of Python's programs.
var python = regexp.MustCompile(`^(python|pypy)[0-9.]*t?$`)

// isPython reports whether the link is what a virtual environment has of the Python that it is made
// of: a program, which nobody writes or removes through the link.
func (o *outside) isPython(at, there string) bool {
	if !python.MatchString(path.Base(at)) || !python.MatchString(path.Base(there)) ||
		path.Base(path.Dir(at)) != "bin" || path.Base(path.Dir(there)) != "bin" {
		return false
	}
	f, _, err := beneath.OpenRegular(o.root, path.Join(path.Dir(at), "../pyvenv.cfg"))
	if err == nil {
		f.Close()
	}
	return err == nil
}

// isMissing reports whether the path begins with a name that is not in "/", such as the home of a
// command in a sandbox: only who administrates the machine makes one.
func (o *outside) isMissing(there string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(there, "/"), "/")
	return first != "" && len(o.top) > 0 && !o.top[first]
}
