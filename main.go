// Command postern is what `pulumi up` and `go run .` start: it builds the Pulumi program,
// cmd/postern-stack, and becomes it. Both would compile Pulumi's SDK once more for themselves (see
// package checkout); this takes a second.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/postern/postern/checkout"
	"github.com/postern/postern/hostpath"
)

func main() {
	hostpath.KeepDescriptors()
	fmt.Fprintln(os.Stderr, "error:", become())
	os.Exit(1)
}

// become returns only an error.
func become() error {
	root, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("find the working directory: %w", err)
	}
	folders, err := hostpath.AgentFolders()
	if err != nil {
		return err
	}
	return checkout.Stack("local").Become(context.Background(), folders, root, os.Stderr)
}
