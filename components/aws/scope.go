package aws

import (
	"fmt"
	"maps"
	"slices"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/graph"
)

// scope is a place where resources are declared: a component, and the names and tags of its
// children. A declaration that fails ends [NewEnvironment] with its error; see [declared].
type scope struct {
	ctx   *pulumi.Context
	args  *EnvironmentArgs
	stack string
	// name is the component's, and prefix what the names of its children begin with.
	name, prefix string
	role         string
	parent       pulumi.Resource
	// silent are the components that have registered no outputs yet, by name.
	silent map[string]bool
	order  *order
}

// open returns the scope from which a public part of an environment is declared, by a program of
// ours or of somebody else.
func open(ctx *pulumi.Context, name string, args *EnvironmentArgs) *scope {
	return &scope{
		ctx: ctx, args: args, stack: args.Plan.Stack, name: name, prefix: name, role: "environment",
		silent: map[string]bool{}, order: &order{},
	}
}

// again returns the scope for another part of the same environment, below no component.
func (s *scope) again(ctx *pulumi.Context, name string) *scope {
	out := *s
	out.ctx, out.name, out.prefix, out.parent, out.role = ctx, name, name, nil, "environment"
	return &out
}

// order has what starts come last.
type order struct {
	// made are the resources that were declared so far.
	made   []pulumi.Resource
	starts []func(after pulumi.ResourceOption)
}

// start has declare called when all else is declared. What starts (a service, a group of machines)
// needs the network, the fence, the policies of roles and secrets, and the way of its events into
// the log. It depends on all of that, so that nothing runs unguarded or unrecorded, neither while
// the stack comes up nor while it is destroyed.
func (s *scope) start(declare func(after pulumi.ResourceOption)) {
	s.order.starts = append(s.order.starts, declare)
}

// begin declares what starts.
func (o *order) begin() {
	after := pulumi.DependsOn(slices.Clone(o.made))
	starts := o.starts
	o.starts = nil // another part may have starts of its own
	for _, declare := range starts {
		declare(after)
	}
}

// group is a component that only holds other resources together.
type group struct{ pulumi.ResourceState }

// failure carries the error of a failed declaration out of its component.
type failure struct{ error }

// declared turns a failure below it into an error.
func declared(err *error) {
	switch r := recover().(type) {
	case nil:
	case failure:
		*err = r.error
	default:
		panic(r)
	}
}

// component is the scope of a new component below s. Its children are named
// after it, and tagged with the role that it plays.
func (s *scope) component(kind, name string) *scope {
	return s.part(kind, s.prefix+"-"+name, &group{}, pulumi.Map{})
}

// part is the scope of a new component, of which c gets the outputs. Its children are named name-.
// The engine shows inputs in its state and to policies about resources.
func (s *scope) part(
	kind, name string, c pulumi.ComponentResource, inputs pulumi.Map, opts ...pulumi.ResourceOption,
) *scope {
	token := "postern:aws:" + kind
	inner := *s
	inner.name, inner.prefix = name, name
	if role := graph.RoleOf(token, nil, ""); role != "other" {
		inner.role = role
	}
	if s.parent != nil {
		opts = append(opts, pulumi.Parent(s.parent))
	}
	if err := s.ctx.RegisterComponentResourceV2(token, name, inputs, c, opts...); err != nil {
		panic(failure{fmt.Errorf("declare %s: %w", name, err)})
	}
	inner.parent = c
	s.silent[name] = true
	return &inner
}

// outputs registers what the component has for others.
func (s *scope) outputs(m pulumi.Map) {
	if err := s.ctx.RegisterResourceOutputs(s.parent, m); err != nil {
		panic(failure{fmt.Errorf("declare outputs of %s: %w", s.name, err)})
	}
	delete(s.silent, s.name)
}

// complete fails if a component has registered no outputs: the engine would
// show it as unfinished.
func (s *scope) complete() {
	if len(s.silent) > 0 {
		panic(failure{fmt.Errorf("components without outputs: %s", slices.Sorted(maps.Keys(s.silent)))})
	}
}

// tags returns the tags of the resource with that suffix.
func (s *scope) tags(suffix string) pulumi.StringMap {
	return s.tagsOf(s.resource(suffix))
}

func (s *scope) tagsOf(name string) pulumi.StringMap { return pulumi.ToStringMap(s.tagged(name)) }

// tagged are the tags of the resource of that name.
func (s *scope) tagged(name string) map[string]string {
	all := maps.Clone(s.args.AWS.Tags)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, map[string]string{"Name": name, graph.TagStack: s.stack, graph.TagRole: s.role})
	return all
}

// resource is the name of the child with that suffix.
func (s *scope) resource(suffix string) string {
	if suffix == "" {
		return s.prefix
	}
	return s.prefix + "-" + suffix
}

// constructor is the form of the functions that declare a resource of the SDK.
type constructor[R pulumi.Resource, A any] func(*pulumi.Context, string, A, ...pulumi.ResourceOption) (R, error)

// add declares a child of s.
func add[R pulumi.Resource, A any](s *scope, construct constructor[R, A], suffix string, args A, opts ...pulumi.ResourceOption) R {
	name := s.resource(suffix)
	r, err := construct(s.ctx, name, args, append([]pulumi.ResourceOption{pulumi.Parent(s.parent)}, opts...)...)
	if err != nil {
		panic(failure{fmt.Errorf("declare %s: %w", name, err)})
	}
	s.order.made = append(s.order.made, r)
	return r
}

// within is s with children of the resource r.
func (s *scope) within(r pulumi.Resource) *scope {
	inner := *s
	inner.parent = r
	return &inner
}
