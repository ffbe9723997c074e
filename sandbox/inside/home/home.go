// Package home writes what a program finds in the home of a sandbox.
package home

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/postern/postern/sandbox/wire"
)

// Furnish writes the files into the home. A file that is there is the agent's own, and stays. So
// may links be, which are followed nowhere outside of the home.
func Furnish(home string, files []wire.File) error {
	if len(files) == 0 {
		return nil
	}
	root, err := os.OpenRoot(home)
	if err != nil {
		return fmt.Errorf("open the home: %w", err)
	}
	defer func() { _ = root.Close() }() // it was only read
	for _, f := range files {
		if err := write(root, string(f.Path), string(f.Content)); err != nil {
			return fmt.Errorf("write ~/%s: %w: --no-preset starts it without", f.Path, err)
		}
	}
	return nil
}

func write(root *os.Root, path, content string) error {
	if err := root.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	file, err := root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = file.WriteString(content)
	return errors.Join(err, file.Close())
}
