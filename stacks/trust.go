package stacks

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/stacks/yaml"
)

// trusted reports a problem if an agent may write the file at the path, which the host would trust.
// The hint says what to do; "" means to copy the file, unless the stack file may be the agent's, too.
func (l *loader) trusted(n *yaml.Node, path, hint string) {
	folders, err := l.folders()
	if err == nil {
		err = folders.Check(path)
	}
	if writable := (*hostpath.WritableError)(nil); errors.As(err, &writable) {
		if folders.Check(l.Dir) != nil {
			hint = "an agent may have written this stack file, too: if you did not write this line, take it out"
		} else if hint == "" {
			hint = "copy it to where no agent works, and name the copy here: " + writable.Advice()
		}
		l.At(n, hint, "%s", writable)
	} else if err != nil {
		l.At(n, "", "%s", err)
	}
}

// pin adds the digest of the helper at path to the reference: the control plane runs that helper
// and no other. A helper that cannot be read here stays without one, and the control plane does not
// run it.
func pin(reference, path string) string {
	content, err := hostpath.ReadFile(path, 64<<20) // the largest one that is pinned
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
