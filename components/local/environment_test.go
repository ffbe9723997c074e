package local

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/home"
	"github.com/postern/postern/plan"
)

// registered remembers what each resource depends on.
type registered struct {
	mu   sync.Mutex
	deps map[string][]string
}

func (r *registered) NewResource(args pulumi.MockResourceArgs) (string, resource.PropertyMap, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deps[args.Name] = args.RegisterRPC.GetDependencies()
	return args.Name, args.Inputs, nil
}

func (*registered) Call(pulumi.MockCallArgs) (resource.PropertyMap, error) { return nil, nil }

// TestNodesOneByOne: each node waits for the one before it, so that an upgrade never has
// all of them down.
func TestNodesOneByOne(t *testing.T) {
	t.Parallel()
	r := &registered{deps: map[string][]string{}}
	require.NoError(t, pulumi.RunErr(func(ctx *pulumi.Context) error {
		_, err := NewEnvironment(ctx, "env", &EnvironmentArgs{Home: home.Folder{Root: t.TempDir()}, Plan: &plan.Plan{Stack: "test"}, Nodes: 3})
		return err
	}, pulumi.WithMocks("postern", "test", r)))
	after := func(node, before string) bool {
		return slices.ContainsFunc(r.deps["env-"+node], func(urn string) bool { return strings.HasSuffix(urn, "::env-"+before) })
	}
	require.False(t, after("node-1", "node-2"))
	require.True(t, after("node-2", "node-1"), "%v", r.deps)
	require.True(t, after("node-3", "node-2"), "%v", r.deps)
}
