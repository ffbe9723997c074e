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
		at := "."
		if i > 0 {
			at = folder
		}
		found.below(root, at, false)
		root.Close()
	}
	return found, nil
}

// below looks in a folder, which may be among packages.
func (t Tools) below(dir *os.File, at string, among bool) {
	// By this name the kernel also says what a file is where the folder does not.
	entries, err := os.ReadDir(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	if err != nil {
		t[at] = unlisted
	}
	for _, listed := range entries {
		name, child := listed.Name(), path.Join(at, listed.Name())
		if len(child) > maxPath {
			continue
		}
		git := strings.EqualFold(name, ".git")
		if listed.IsDir() {
			if strings.HasSuffix("/"+child, "/.git/objects") {
				continue
			}
			below, err := openBelow(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
			if err == nil {
				t.below(below, child, !git && (among || slices.Contains(packages, name)))
				below.Close()
			} else if !errors.Is(err, unix.ENOENT) {
				t[child] = unlisted
			}
			continue
		}
		if among && !git && !strings.EqualFold(name, "head") ||
			tool.Who(child) == "" && (listed.Type()&fs.ModeSymlink == 0 || !isGits(child)) {
			continue
		}
		if e, err := look(dir, name); err == nil && e != nil && !(e.isPlaceholder() && isOurs(dir, name)) {
			t[child] = state(dir, name, e)
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
