package workspace

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/sandbox/workspace/tool"
)

// Tools are the files of a folder that programs of the host run or take commands from: by path,
// what tells one content from another.
type Tools map[string]string

// unlisted says in Tools that nobody can list the folder, which has everything.
const unlisted = "unlisted"

// packages hold what package managers put there: thousands of such files, which are no project's
// own. Only what makes a folder a repository of git is looked for there.
var packages = []string{"node_modules", ".venv", "venv", "__pycache__", "target", ".tox"}

// maxIncluded bounds the files of settings that are read.
const maxIncluded = 20

// maxHashed is the size of the largest file that is compared by content, in bytes.
const maxHashed = 1 << 20

// HostTools looks for such files in the host's folders. The paths are relative to the first one;
// the others are git's. No link is followed.
func HostTools(folders ...string) (Tools, error) {
	found := Tools{}
	for i, folder := range folders {
		root, err := openFolder(folder)
		if err != nil {
			return nil, fmt.Errorf("look for files that programs run: %w", err)
		}
		at, named := ".", []string(nil)
		if i > 0 {
			at = folder
		} else {
			named = namedByGit(root)
		}
		found.below(root, at, named, false)
		root.Close()
	}
	return found, nil
}

// byGit ends the state of a file that the repository's own configuration names.
const byGit = " named by .git/config"

// namedByGit returns the paths in the folder that its repository's configuration may name, such as
// that of hooks, of a file that it includes, with what that names, or of a filter's program.
func namedByGit(root *os.File) (paths []string) {
	home, _ := os.UserHomeDir() // without one, ~ leads nowhere
	files := []string{".git/config", ".git/config.worktree"}
	own := len(files)
	for i := 0; i < len(files) && i < maxIncluded; i++ {
		f, _, err := openRegular(root, files[i])
		if err != nil {
			continue
		}
		content, _ := io.ReadAll(io.LimitReader(f, maxHashed)) // of what is not read nothing is known
		f.Close()
		for line := range strings.Lines(string(content)) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "[") {
				_, line, _ = strings.Cut(line, "]")
			}
			key, _, _ := strings.Cut(line, "=")
			includes := i < own && strings.EqualFold(strings.TrimSpace(key), "path")
			between := func(r rune) bool { return strings.ContainsRune(" \t\r\n\"'=;|&()!<>", r) }
			for _, word := range strings.FieldsFunc(line, between) {
				if below, ok := strings.CutPrefix(word, "~/"); ok {
					word = path.Join(home, below)
				}
				word = strings.TrimPrefix(word, root.Name()+"/")
				for _, p := range []string{word, path.Join(path.Dir(files[i]), word)} {
					if p = path.Clean(p); p == "." || !filepath.IsLocal(p) {
						continue
					}
					if includes {
						files = append(files, p)
					}
					if includes || !strings.HasPrefix(p, ".git/") {
						paths = append(paths, p)
					}
				}
			}
		}
	}
	return paths
}

// below looks in a folder, which may be among packages.
func (t Tools) below(dir *os.File, at string, named []string, among bool) {
	// By this name the kernel also says what a file is where the folder does not.
	entries, err := os.ReadDir(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	if err != nil {
		t[at] = unlisted
	}
	has := func(name string) bool {
		return slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == name })
	}
	if path.Base(at) != ".git" && has("HEAD") && has("objects") && has("refs") { // git takes it for its own
		named = append(slices.Clip(named), path.Join(at, "config"), path.Join(at, "config.worktree"),
			path.Join(at, "hooks"))
	}
	for _, listed := range entries {
		name, child := listed.Name(), path.Join(at, listed.Name())
		if len(child) > maxPath {
			continue
		}
		git := strings.EqualFold(name, ".git")
		if listed.IsDir() {
			if strings.HasSuffix("/"+child, "/.git/objects") { // nothing else there has a name
				name, child = name+"/info", child+"/info"
			}
			below, err := openBelow(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
			if err == nil {
				t.below(below, child, named, !git && (among || slices.Contains(packages, name)))
				below.Close()
			} else if !errors.Is(err, unix.ENOENT) {
				t[child] = unlisted
			}
			continue
		}
		isNamed := slices.ContainsFunc(named, func(p string) bool { return strings.HasPrefix(child+"/", p+"/") })
		mark := ""
		if among && !git && !strings.EqualFold(name, "head") ||
			tool.Who(child) == "" && (listed.Type()&fs.ModeSymlink == 0 || !isGits(child)) {
			if !isNamed {
				continue
			}
			mark = byGit
		}
		if e, err := look(dir, name); err == nil && e != nil && !(e.isPlaceholder() && isOurs(dir, name)) {
			t[child] = state(dir, name, e) + mark
		}
	}
}

// state returns what tells the file's content and mode from others.
func state(dir *os.File, name string, e *entry) string {
	switch {
	case e.is(unix.S_IFLNK):
		to, err := readLink(dir, name)
		return fmt.Sprint("link ", to, err)
	case e.is(unix.S_IFREG) && e.size <= maxHashed:
		f, _, err := openRegular(dir, name)
		if err != nil {
			break
		}
		defer f.Close()
		sum := sha256.New()
		if _, err := io.Copy(sum, io.LimitReader(f, maxHashed)); err == nil {
			return fmt.Sprintf("%o %x", e.mode, sum.Sum(nil))
		}
	}
	return fmt.Sprint(*e)
}

// isOurs reports whether the file has what [Protect] writes.
func isOurs(dir *os.File, name string) bool {
	content, err := hostpath.ReadIn(dir, name, len(ownCommon))
	return err == nil && (string(content) == ownCommon || string(content) == anyEmpty)
}

// isGits reports whether git writes the file itself, by way of a link too.
func isGits(at string) bool {
	return strings.Contains("/"+at, "/.git/") || path.Base(at) == ".git"
}

// Since returns the paths that are other files than before, new or gone, with who acts on them. The
// first so many, which are returned too, are those that git and shells act on without being asked.
func (t Tools) Since(before Tools) (changed []string, worst int) {
	type line struct {
		at, text string
		rank     int
	}
	var lines []line
	for at, now := range t {
		if before[at] == now {
			continue
		}
		who := tool.Who(at)
		if now == unlisted {
			who = "its names cannot be listed, and git and others may still use what is in it"
		} else if who == "" && strings.HasSuffix(now, byGit) {
			who = tool.Who(".git/config")
		} else if who == "" {
			who = "git writes where this link leads"
		}
		lines = append(lines, line{at, fmt.Sprintf("%s (%s)", Quote(at), who), tool.Rank(who)})
	}
	for at := range before {
		if _, there := t[at]; !there {
			lines = append(lines, line{at, Quote(at) + " (removed)", math.MaxInt})
		}
	}
	slices.SortFunc(lines, func(a, b line) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), strings.Compare(a.at, b.at))
	})
	for _, l := range lines {
		if changed = append(changed, l.text); l.rank < tool.ByThemselves {
			worst++
		}
	}
	return changed, worst
}
