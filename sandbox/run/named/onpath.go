package named

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/hostpath"
)

// mostLinks bounds the entries of one folder on PATH that are looked at.
const mostLinks = 10_000

// OnPath returns what of the caller's PATH leads into the folder at the real path, in which an
// agent writes: a folder on PATH, or a link in one that is the caller's. A program there runs when
// its name is typed. It also returns the relative folders from which programs load code.
func OnPath(environ []string, folder string) (found []string) {
	into := func(path string) bool { return through(path, folder) }
	value := ""
	for _, v := range environ {
		if rest, ok := strings.CutPrefix(v, "PATH="); ok {
			value = rest
		}
	}
	for _, dir := range filepath.SplitList(value) {
		if !filepath.IsAbs(dir) {
			found = append(found, hostpath.Quote(dir)+" on PATH, which is another folder wherever you are")
			continue
		}
		if into(dir) {
			found = append(found, hostpath.Quote(dir)+" on PATH")
			continue
		}
		var st unix.Stat_t
		if unix.Stat(dir, &st) != nil || int(st.Uid) != os.Getuid() || st.Uid == 0 && slices.Contains(systemPath, dir) {
			continue
		}
		for _, name := range linksIn(dir) {
			if into(name) {
				found = append(found, "the link "+hostpath.Quote(name)+" on PATH")
			}
		}
	}
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		for _, dir := range filepath.SplitList(value) {
			if slices.Contains(libraries, name) && !filepath.IsAbs(dir) {
				found = append(found, hostpath.Quote(dir)+" in "+name+", which is another folder wherever you are")
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// libraries are variables with folders from which programs load code.
var libraries = []string{"PYTHONPATH", "LD_LIBRARY_PATH", "NODE_PATH", "PERL5LIB", "RUBYLIB", "CLASSPATH", "GEM_PATH"}

// through reports whether the path leads into the folder, or through it: an agent can have a link
// there lead elsewhere later.
func through(path, folder string) bool {
	at, rest := "/", strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		next := filepath.Join(at, name)
		if strings.HasPrefix(next+"/", folder+"/") {
			return true
		}
		to, err := os.Readlink(next)
		if err != nil {
			at = next
			continue
		}
		if links++; links > 40 { // as the kernel counts
			return false
		}
		if filepath.IsAbs(to) {
			at = "/"
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	return false
}

// systemPath are the folders of the distribution's programs.
var systemPath = []string{"/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/games"}

// linksIn returns the paths of the links in the folder.
func linksIn(dir string) (links []string) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	entries, _ := f.ReadDir(mostLinks)
	for _, e := range entries {
		if e.Type() == os.ModeSymlink {
			links = append(links, filepath.Join(dir, e.Name()))
		}
	}
	return links
}
