package envoy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/postern/postern/hostpath"
)

// ErrNoBinary means that there is no Envoy on this machine.
var ErrNoBinary = errors.New("there is no Envoy: run `make deps`, put envoy 1.40 on PATH, or set ENVOY to its path")

// Binary returns the real path of Envoy: $ENVOY, or envoy on PATH, or the one that `make deps` put into .cache/bin of
// the working folder or one above it. None of them may be where an agent, or another user, may write.
func Binary(f *hostpath.Folders) (string, error) {
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
	p, err := f.Program("envoy", hostpath.User)
	if notFound := (*hostpath.NotFoundError)(nil); !errors.As(err, &notFound) {
		return p, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		p, err := f.Program(filepath.Join(dir, ".cache", "bin", "envoy"), hostpath.User)
		if !errors.Is(err, fs.ErrNotExist) {
			return p, err
		}
		if dir == filepath.Dir(dir) {
			return "", ErrNoBinary
		}
	}
}
