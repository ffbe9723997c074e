package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/checkout"
	"github.com/postern/postern/cloud"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/stacks"
)

// openAccount opens the account of a stack in a cloud.
func openAccount(ctx context.Context, stack *stacks.Stack, region string) (cloud.Account, error) {
	if !cloud.Linked(stack.Target) {
		return nil, becomeCloud(ctx, os.Stderr, "the stack is in a cloud: target "+stack.Target)
	}
	return cloud.Open(ctx, stack.Target, stack.AWS.Account, region)
}

// becomeCloud runs the same command by postern-cloud, which is next to this program. postern-cloud is
// built from the same sources, with drivers of clouds that would cost every other command time. In a
// source tree it is built if it is missing. becomeCloud returns only an error, and why begins its
// message.
func becomeCloud(ctx context.Context, w io.Writer, why string) error {
	path, err := findCloud(ctx, w)
	if err == nil {
		err = unix.Exec(path, os.Args, os.Environ())
	}
	return fmt.Errorf("%s, for which another program is needed: %w; "+
		"in the source tree `make cloud` builds bin/postern-cloud", why, err)
}

func findCloud(ctx context.Context, w io.Writer) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	folders, err := hostpath.AgentFolders()
	if err != nil {
		return "", err
	}
	path, err := folders.Program(self+"-cloud", hostpath.User)
	if root, ok := checkout.Of(self); ok && errors.Is(err, fs.ErrNotExist) {
		if err := checkout.CheckSources(folders, root); err != nil {
			return "", err
		}
		return checkout.CLI.Build(ctx, folders, root, w)
	}
	return path, err
}
