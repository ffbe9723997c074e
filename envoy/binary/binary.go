// Package binary finds the Envoy of this machine, and says whether it is one that package envoy
// configures.
package binary

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/postern/postern/hostpath"
)

// ErrNone means that no Envoy was found on this machine.
var ErrNone = errors.New("there is no Envoy: run `make install` or `make deps` in the source tree, " +
	"put envoy 1.40 on PATH, or set ENVOY to its path")

// Find returns the real path of Envoy: $ENVOY, the file in dir, where `make install` puts it, the
// one on PATH, or the one of `make deps` in .cache/bin of dir or above. It refuses a file that an
// agent or another user could replace; see [hostpath.Folders.Program].
func Find(f *hostpath.Folders, dir string) (string, error) {
	if p := os.Getenv("ENVOY"); p != "" {
		p, err := filepath.Abs(p)
		if err == nil {
			p, err = f.Program(p, hostpath.User)
		}
		if err != nil {
			return "", fmt.Errorf("use $ENVOY: %w", err)
		}
		return p, nil
	}
	p, err := f.Program(filepath.Join(dir, "envoy"), hostpath.User)
	if !errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	p, err = f.Program("envoy", hostpath.User)
	if notFound := (*hostpath.NotFoundError)(nil); !errors.As(err, &notFound) {
		return p, err
	}
	for ; ; dir = filepath.Dir(dir) {
		p, err := f.Program(filepath.Join(dir, ".cache", "bin", "envoy"), hostpath.User)
		if !errors.Is(err, fs.ErrNotExist) {
			return p, err
		}
		if dir == filepath.Dir(dir) {
			return "", ErrNone
		}
	}
}
