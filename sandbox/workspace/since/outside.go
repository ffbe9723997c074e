package since

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/postern/postern/sandbox/workspace/beneath"
	"github.com/postern/postern/sandbox/workspace/way"
)

// Where a link that leads out of the folder leads, for a person who writes or removes something
// through it, as `rm -rf build/*` and `cp -r src/ build/` do.
const (
	leadsHome = "it leads into your home, or above it: what you write or remove through it is there"
	leadsOut  = "it leads out of the folder: what you write or remove through it is elsewhere"
)

// outside are links that lead out of a folder. Nothing out there is looked at: paths decide.
type outside struct {
	root beneath.Layers
	// home is the folder of the person, or "".
	home string
	// top are the names in "/", and system the folders in which the person may write nothing.
	top    map[string]bool
	system []string
}

// newOutside returns those of the folder root, for the user of the ID.
func newOutside(root beneath.Layers, home string, user int) *outside {
	if real, err := filepath.EvalSymlinks(home); err == nil {
		home = real
	}
	o := &outside{root: root, home: home, top: map[string]bool{}}
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

// leads says what a person must know of the link at the path, which leads to the end, and where
// out of the folder that is, or "".
func (o *outside) leads(at string, end way.End) (who, there string) {
	switch there = end.Out; {
	case there == "", end.Exact && o.isHarmless(at, there):
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

// python matches the names of Python's programs.
var python = regexp.MustCompile(`^(python|pypy)[0-9.]*t?$`)

// isPython reports whether the link is what a virtual environment has of the Python that it is made
// of: a program, which nobody writes or removes through the link.
func (o *outside) isPython(at, there string) bool {
	if !python.MatchString(path.Base(at)) || !python.MatchString(path.Base(there)) ||
		path.Base(path.Dir(at)) != "bin" || path.Base(path.Dir(there)) != "bin" {
		return false
	}
	f, _, err := o.root.Regular(path.Join(path.Dir(at), "../pyvenv.cfg"))
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
