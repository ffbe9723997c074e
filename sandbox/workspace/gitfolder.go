package workspace

import (
	"cmp"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/workspace/tool"
)

// deceives says how git deceives because of the content of the file that dir has under the name,
// and what tells that content from another: see [tool.Deceives]. The file is at the path in each of
// the roots, of which the first is asked first, and git has it as the path as.
func deceives(dir *os.File, name, at, as string, roots ...*os.File) (who, state string) {
	if !tool.MayDeceive(as) {
		return "", ""
	}
	f, _, err := openRegular(dir, name)
	if err != nil {
		return "", "" // nor does git
	}
	defer f.Close()
	size := 0
	if tool.IsIndex(as) {
		size = tool.IDSize(at, func(at string) io.ReadCloser {
			for _, root := range roots {
				if config, _, err := openRegular(root, at); err == nil {
					return config
				}
			}
			return nil
		})
	}
	return tool.Deceives(as, size, f)
}

// maxBare bounds how many folders are kept of which it is known whether they are bare.
const maxBare = 100_000

// isBare reports whether git takes the folder, in one of the layers, for its own.
func isBare(layers ...*os.File) bool {
	has := func(name string) bool {
		return slices.ContainsFunc(layers, func(dir *os.File) bool {
			if dir == nil {
				return false
			}
			e, err := look(dir, name)
			return err == nil && e != nil && !e.isWhiteout()
		})
	}
	return has("HEAD") && (has("commondir") || has("objects") && has("refs"))
}

// asGit returns the path as git has it: see [tool.AsGit].
func (w *walker) asGit(at string) string {
	as := "."
	steps := strings.Split(at, "/")
	for i, name := range steps {
		in := path.Join(steps[:i]...)
		bare, known := w.bare[in]
		if !known {
			upper, _ := w.upper.folder(cmp.Or(in, ".")) // nil, if it is only in the other one
			host, _ := w.host.folder(cmp.Or(in, "."))
			bare = path.Base(in) != ".git" && isBare(upper, host)
			upper.Close()
			host.Close()
		}
		if len(w.bare) < maxBare {
			w.bare[in] = bare
		}
		as = tool.AsGit(as, name, bare)
	}
	return as
}

// judge notes who acts on what the agent has made of a path that is there, and why it stays in the
// layer.
func (w *walker) judge(c *Change, name string, upper *os.File) {
	as, kind := w.asGit(c.Path), c.new.fileMode()
	who := tool.Who(as)
	if !kind.IsDir() {
		who = cmp.Or(tool.Acts(as, kind, false, false), tool.Who(c.Path))
	}
	if who == "" && kind.IsRegular() {
		who, _ = deceives(upper, name, c.Path, as, w.upper.root, w.host.root)
	}
	if who != "" {
		c.Notes = append(c.Notes, who)
	}
	c.stays = tool.Stays(as, who, kind)
}

// fileMode returns the type of the entry.
func (e *entry) fileMode() os.FileMode {
	switch e.kind {
	case unix.S_IFREG:
		return 0
	case unix.S_IFDIR:
		return os.ModeDir
	case unix.S_IFLNK:
		return os.ModeSymlink
	}
	return os.ModeIrregular
}
