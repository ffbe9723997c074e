// Package atomicfile replaces files so that a reader, and a machine that lost power, has either the
// old content or the new one, whole. State that must survive is written through this package.
// Package hostpath, which may import nothing, does the same for its list. Logs, locks, and files
// that a restart makes again are written in other ways.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// Write replaces the content of the file at path and gives the file the
// permissions perm, whatever the umask is. When Write returns nil, the new
// content is on the disk. When Write returns an error, the file at path has its
// old content, or, if only the last fsync of the folder failed, the new one.
//
// A symbolic link at path is replaced and not followed. Write is safe for
// concurrent use: the last caller wins.
func Write(path string, content []byte, perm fs.FileMode) error {
	s, err := Stage(path, content, perm)
	if err != nil {
		return err
	}
	return s.Commit()
}

// Staged is content that is on the disk next to the file that it will replace.
// A Staged value is for one goroutine.
type Staged struct {
	path string
	file *renameio.PendingFile
}

// Stage does the slow part of Write: it writes the content to a temporary file
// in path's folder and syncs that file. The caller must call Commit or Discard.
func Stage(path string, content []byte, perm fs.FileMode) (*Staged, error) {
	// The folder is given, because renameio prefers $TMPDIR, which others may read.
	f, err := renameio.NewPendingFile(path,
		renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(perm))
	if err != nil {
		return nil, fmt.Errorf("replace %s: %w", path, err)
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync()); err != nil {
		return nil, fmt.Errorf("replace %s: %w", path, errors.Join(err, f.Cleanup()))
	}
	return &Staged{path: path, file: f}, nil
}

// Commit puts the staged content in the place of the file.
func (s *Staged) Commit() error {
	if err := s.file.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("replace %s: %w", s.path, errors.Join(err, s.file.Cleanup()))
	}
	return s.syncFolder()
}

// syncFolder makes the file's new name last: without it a power cut may bring the
// old one back.
func (s *Staged) syncFolder() error {
	dir, err := os.Open(filepath.Dir(s.path))
	if err == nil {
		err = errors.Join(dir.Sync(), dir.Close())
	}
	if err != nil {
		return fmt.Errorf("replace %s: %w", s.path, err)
	}
	return nil
}

// Discard removes the staged content. The file keeps its old content. After
// Commit, Discard does nothing.
func (s *Staged) Discard() error { return s.file.Cleanup() }

// Create is [Write] for a file that must not exist yet. If there is one at path,
// Create changes nothing and the error is [fs.ErrExist]: of several callers one wins.
func Create(path string, content []byte, perm fs.FileMode) error {
	s, err := Stage(path, content, perm)
	if err != nil {
		return err
	}
	// A link, unlike a rename, does not replace what is there.
	err = os.Link(s.file.Name(), path)
	if err = errors.Join(err, s.Discard()); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	return s.syncFolder()
}
