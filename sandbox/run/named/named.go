// Package named finds what settings and variables outside of a working directory name in it, by
// paths that are others in each folder.
package named

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/hostpath/places"
	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/workspace/tool"
)

// Repository is one above a working directory, or of which that is a worktree, with its settings
// elsewhere.
type Repository struct {
	// Top is the folder with .git, and Files are those of settings.
	Top   string
	Files []string
}

// In returns what settings of people on this machine, and the caller's environment, name by
// relative paths in the folder at the real path, or in the repositories above it. The paths are
// relative to the folder.
func In(folder string, environ []string, of Repository) (all []tool.Named) {
	_ = inEach(folder, environ, of, func(at string, n places.Named) error {
		if filepath.IsLocal(at) || at == n.Path { // of a repository in the folder
			all = append(all, tool.Named{Path: at, Folder: n.Folder, Word: n.Word})
		}
		return nil
	})
	return all
}

// Refuse refuses a working directory that is, or is in, what somebody's settings name by a
// relative path, as a folder of git's hooks in the repository above.
func Refuse(folder string, environ []string, of Repository) error {
	return inEach(folder, environ, of, func(at string, n places.Named) error {
		if n.Folder && strings.Trim(at, "./") == "" {
			return fmt.Errorf("use %s as working directory: programs of its owner run what is there (%s): set that to "+
				"another folder, or give the agent a clone", hostpath.Quote(folder), n.Name)
		}
		return nil
	})
}

// inEach calls visit with each path relative to the folder: a tool may work in the folder, or in a
// repository that the folder is in. The settings of that, too, are where no agent writes.
func inEach(folder string, environ []string, of Repository, visit func(at string, n places.Named) error) error {
	tops := []string{folder}
	for top := folder; top != "/"; {
		top = filepath.Dir(top)
		if _, err := os.Lstat(filepath.Join(top, ".git")); err == nil {
			tops = append(tops, top)
		}
	}
	in := func(top string, named []places.Named) error {
		for _, n := range named {
			at, err := filepath.Rel(folder, filepath.Join(top, n.Path))
			if err != nil {
				return err
			}
			if err := visit(at, n); err != nil {
				return err
			}
		}
		return nil
	}
	for _, file := range of.Files {
		if err := in(of.Top, view.InRepository(file, environ)); err != nil {
			return err
		}
	}
	named := view.InEach(environ)
	for _, top := range tops {
		if err := in(top, named); err != nil {
			return err
		}
	}
	return nil
}

// Protectable returns the paths of what is there in the folder, and can be protected.
func Protectable(folder string, named []tool.Named) (paths []string) {
	for _, n := range named {
		info, err := os.Lstat(filepath.Join(folder, n.Path))
		if err == nil && !n.Word && filepath.IsLocal(n.Path) && (info.Mode().IsRegular() || n.Folder && info.IsDir()) {
			paths = append(paths, n.Path)
		}
	}
	return paths
}
