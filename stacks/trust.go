package stacks

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/hostpath"
)

// trusted says so if an agent may write the file at the path, which the host would trust. The hint is what to do; "" is
// to copy the file.
func (l *loader) trusted(n *node, path, hint string) {
	folders, err := l.folders()
	if err == nil {
		err = folders.Check(path)
	}
	if writable := (*hostpath.WritableError)(nil); errors.As(err, &writable) {
		if hint == "" {
			hint = "copy it to where no agent works, and name the copy here: " + writable.Advice()
		}
		l.at(n, hint, "%s", writable)
	} else if err != nil {
		l.at(n, "", "%s", err)
	}
}

// maxHelper bounds a helper that is pinned.
const maxHelper = 64 << 20

// pin adds the digest of the helper at path to the reference: the control plane runs that helper and no other. A helper
// that cannot be read here stays without one, and the control plane does not run it.
func pin(reference, path string) string {
	content, err := hostpath.ReadFile(path, maxHelper)
	if err != nil {
		return reference
	}
	sum := sha256.Sum256(content)
	reference, field, selects := strings.Cut(reference, "#")
	separator := "?"
	if strings.Contains(reference, "?") {
		separator = "&"
	}
	reference += separator + "sha256=" + hex.EncodeToString(sum[:])
	if selects {
		reference += "#" + field
	}
	return reference
}

// programsFile lists the programs that the stack was brought up with.
func (h Home) programsFile() string { return filepath.Join(h.Root, "programs.json") }

// KeepPrograms writes down the absolute paths of the programs that the stack is about to be brought up with, so that no
// agent is started where it could write one.
func (h Home) KeepPrograms(paths ...string) error {
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

// Programs returns the paths that [Home.KeepPrograms] wrote down for any stack of this user.
func (h Home) Programs() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(filepath.Dir(h.Root), "*", filepath.Base(h.programsFile())))
	if err != nil {
		return nil, err
	}
	var all []string
	for _, file := range files {
		content, err := os.ReadFile(file)
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
