package home

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/hostpath"
)

// programsFile lists the programs that the stack was brought up with.
func (h Folder) programsFile() string { return filepath.Join(h.Root, "programs.json") }

// KeepPrograms writes down the absolute paths of the programs that the stack is about to be brought
// up with, so that no agent is started where it could write one.
func (h Folder) KeepPrograms(paths ...string) error {
	content, err := json.Marshal(paths)
	if err == nil {
		err = os.MkdirAll(h.Root, 0o700)
	}
	if err == nil {
		err = atomicfile.Write(h.programsFile(), content, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write down the stack's programs: %w", err)
	}
	return nil
}

// Programs returns the paths that [Folder.KeepPrograms] wrote down for any stack of this user.
func (h Folder) Programs() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(filepath.Dir(h.Root), "*", filepath.Base(h.programsFile())))
	if err != nil {
		return nil, err
	}
	var all []string
	for _, file := range files {
		content, err := hostpath.ReadFile(file, maxFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue // taken down a moment ago
		}
		var paths []string
		if err == nil {
			err = json.Unmarshal(content, &paths)
		}
		if err != nil {
			return nil, fmt.Errorf("read the programs of a stack, %s: %w: bring the stack up again, which writes it", file, err)
		}
		all = append(all, paths...)
	}
	return all, nil
}
