package envoy

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
)

// ErrNoBinary means that there is no Envoy on this machine.
var ErrNoBinary = errors.New("there is no Envoy: run `make deps`, put envoy 1.40 on PATH, or set ENVOY to its path")

// Binary returns the path of Envoy: $ENVOY, or envoy on PATH, or the one that
// `make deps` put into .cache/bin of the working folder or one above it.
func Binary() (string, error) {
	if p := os.Getenv("ENVOY"); p != "" {
		return p, nil
	}
	if p, err := exec.LookPath("envoy"); err == nil {
		return filepath.Abs(p)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		p := filepath.Join(dir, ".cache", "bin", "envoy")
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
			return p, nil
		}
		if dir == filepath.Dir(dir) {
			return "", ErrNoBinary
		}
	}
}
