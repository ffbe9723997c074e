package main

import (
	"context"
	"os"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/engine"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/visible"
)

// orphans are programs for clouds that declare nothing. Each fails if the cloud has the stack.
var orphans = map[string]func(*pulumi.Context, *stacks.Stack) error{}

// elsewhere returns the stack if its file says that the stack is in a cloud, and nil otherwise. Of a
// file that is lost or damaged nothing is known besides the state folder.
func (d *driver) elsewhere(ctx context.Context) (*stacks.Stack, error) {
	stack, err := d.file.Load()
	if err != nil || stack.Target == stacks.TargetLocal {
		if err == nil || d.lost != nil {
			return nil, nil //nolint:nilerr // said where it matters: see known
		}
		if !engine.Exists(d.home, d.name) {
			return nil, err // the stack may be in a cloud
		}
		visible.Printf(os.Stderr, "warning: the stack file is not valid, and the state in %s decides: %s\n", d.home.Root,
			err)
		return nil, nil //nolint:nilerr // said
	}
	return stack, d.inCloud(ctx, stack)
}

// inCloud finds the backend of a stack in a cloud. See [become]. Everything that asks a cloud comes
// by here, also what only shows something: the stack file says where the credentials of this user
// are sent, and whose state is believed.
func (d *driver) inCloud(ctx context.Context, stack *stacks.Stack) error {
	if err := publish.RefuseProposal(d.file); err != nil {
		return err
	}
	if err := become(ctx, stack); err != nil {
		return err
	}
	folders, err := hostpath.AgentFolders()
	if err != nil {
		return err
	}
	d.cloud = true
	d.backend, err = engine.Backend(folders, stack.AWS.State)
	return err
}

// refuseOrphans returns an error if the cloud has the stack, or cannot be asked. The engine has no
// state of the stack.
func (d *driver) refuseOrphans(ctx context.Context, stack *stacks.Stack) error {
	if stack == nil {
		return nil
	}
	d.scratch = true
	return d.engine(ctx, func(ctx *pulumi.Context) error { return orphans[stack.Target](ctx, stack) },
		func(e *engine.Engine) error {
			_, err := e.Preview(ctx)
			return err
		})
}
