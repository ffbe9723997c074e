package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/checkout"
	"github.com/postern/postern/cloud"
	"github.com/postern/postern/home"
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

// becomeCloud runs the same command by postern-cloud, which is next to this program. postern-cloud
// is built from the same sources, with drivers of clouds that would cost every other command time.
// In a source tree it is built if it is missing. becomeCloud returns only an error, and why begins
// its message.
func becomeCloud(ctx context.Context, w io.Writer, why string) error {
	folders, err := hostpath.AgentFolders()
	path := ""
	if err == nil {
		path, err = checkout.CLI.Find(ctx, folders, w)
	}
	return become(path, err, why)
}

// become returns only an error.
func become(path string, err error, why string) error {
	if err == nil {
		err = unix.Exec(path, os.Args, os.Environ())
	}
	return fmt.Errorf("%s, for which another program is needed: %w", why, err)
}

// killer is operator for a kill, which waits for no compiler, and which a damaged list of agents'
// folders does not stop.
func killer(ctx context.Context, w io.Writer, home home.Folder) (*bundle.Operator, error) {
	if bundle.Linked(home.BundleURL()) {
		return operator(ctx, w, home)
	}
	folders, err := hostpath.AgentFolders()
	if err != nil {
		folders, err = hostpath.NoFolders()
	}
	path := ""
	if err == nil {
		path, err = checkout.CLI.Built(folders)
	}
	return nil, become(path, err, "the bundle store is "+home.BundleURL())
}
