package workspace

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // git's names
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path"

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
		size = idSize(path.Dir(at), roots)
	}
	return tool.Deceives(as, size, io.MultiReader(io.LimitReader(f, maxIndex), over{f}))
}

// over is what a file has beyond the bound of what is read of it.
type over struct{ io.Reader }

func (o over) Read([]byte) (int, error) {
	n, err := o.Reader.Read(make([]byte, 1))
	if n > 0 {
		err = errors.New("it is larger than what is read of it")
	}
	return 0, err
}

// idSize returns how many bytes the names of objects have in the repository with the index in the
// folder: its settings say so, which an agent cannot write unnoticed.
func idSize(git string, roots []*os.File) int {
	if in := path.Dir(git); path.Base(in) == "worktrees" {
		git = path.Dir(in)
	}
	for _, root := range roots {
		f, _, err := openRegular(root, path.Join(git, "config"))
		if err != nil {
			continue
		}
		defer f.Close()
		content, _ := io.ReadAll(io.LimitReader(f, maxHashed)) // what is not read says nothing
		if bytes.Contains(bytes.ToLower(content), []byte("sha256")) {
			return sha256.Size
		}
		break
	}
	return sha1.Size
}

// isBare reports whether git takes the folder, in one of the layers, for its own.
func isBare(layers ...*os.File) bool {
	for _, name := range []string{"HEAD", "objects", "refs"} {
		there := false
		for _, dir := range layers {
			if dir == nil || there {
				continue
			}
			e, err := look(dir, name)
			there = err == nil && e != nil && !e.isWhiteout()
		}
		if !there {
			return false
		}
	}
	return true
}

// asGit returns the path as git has it of what is under the name in a folder of the path, which may
// be a bare one.
func asGit(in, name string, bare bool) string {
	if bare && tool.InGit(name) {
		in = ".git"
	}
	return path.Join(in, name)
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
