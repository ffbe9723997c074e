package publish

import (
	"bytes"
	"fmt"
	"os"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/home"
	"github.com/postern/postern/stacks"
)

// Trust writes whom the stack file trusts to where all other commands look: a
// kill must work when the stack file does not load. own is the public key of the operator here.
func Trust(home home.Folder, stack *stacks.Stack, own []byte) error {
	trusted := []byte(stack.AWS.Operators)
	if !bytes.Contains(trusted, bytes.TrimSpace(own)) {
		trusted = append(trusted, own...)
	}
	if err := atomicfile.Write(home.Trusted(), trusted, 0o644); err != nil {
		return fmt.Errorf("write the operators' public keys: %w", err)
	}
	if stack.AWS.CA == "" {
		return nil
	}
	if err := os.MkdirAll(home.CADir(), 0o700); err != nil {
		return fmt.Errorf("make state folder: %w", err)
	}
	if err := atomicfile.Write(home.CACert(), []byte(stack.AWS.CA), 0o644); err != nil {
		return fmt.Errorf("write the authority's certificate: %w", err)
	}
	return nil
}
