package bundle

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/api"
)

// Kill stops agents, or the whole stack, at once: no new request, and no
// connection that is open. It needs no valid stack file, and is never taken
// back: an error says where it could not be confirmed. It is based on what is
// live, not on what somebody may be trying out.
func (o *Operator) Kill(ctx context.Context, k Killed) (*api.Converged, error) {
	before, seq, err := o.base(ctx, true, nil)
	if err != nil {
		return nil, err
	}
	if err := o.known(ctx, before, k); err != nil {
		return nil, err
	}
	next := *before
	next.Seq, next.Note, next.TakesBack = seq, "", 0
	next.Killed = before.Killed.And(k)
	return o.impose(ctx, before, &next)
}

// impose publishes what is never taken back.
func (o *Operator) impose(ctx context.Context, before, next *Bundle) (*api.Converged, error) {
	if err := o.create(ctx, before, next); err != nil {
		return nil, err
	}
	if err := o.mark(ctx, kindProven, next, ""); err != nil {
		return nil, err
	}
	return o.everywhere(ctx, next)
}

// Unkill takes back what [Operator.Kill] did.
func (o *Operator) Unkill(ctx context.Context, k Killed) (*api.Converged, error) {
	before, seq, err := o.base(ctx, true, nil)
	if err != nil {
		return nil, err
	}
	for _, a := range k.Agents {
		if !k.Stack && !slices.Contains(before.Killed.Agents, a) {
			if before.Killed.Stack {
				return nil, fmt.Errorf("agent %q is killed with the whole stack: `postern unkill --stack` lets that work again; nothing changes", a)
			}
			return nil, fmt.Errorf("agent %q is not killed; killed are: %s; nothing changes", a, listed(before.Killed.Agents))
		}
	}
	next := *before
	next.Seq, next.Note, next.TakesBack = seq, "", 0
	next.Killed.Stack = before.Killed.Stack && !k.Stack
	next.Killed.Agents = slices.DeleteFunc(slices.Clone(before.Killed.Agents), func(a string) bool { return slices.Contains(k.Agents, a) })
	if err := o.create(ctx, before, &next); err != nil {
		return nil, err
	}
	return o.rollOut(ctx, before, &next)
}

// known makes sure that the agents are of the stack: who mistypes a name in a
// hurry must not believe that somebody was stopped. What is being tried out
// counts too.
func (o *Operator) known(ctx context.Context, live *Bundle, k Killed) error {
	if k.Stack {
		return nil
	}
	plans := []*plan.Plan{live.Plan}
	if newest, err := o.Newest(ctx); err == nil {
		plans = append(plans, newest.Plan)
	}
	var names []string
	for _, p := range plans {
		for _, a := range p.Agents {
			names = append(names, a.Name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for _, a := range k.Agents {
		if !slices.Contains(names, a) {
			return fmt.Errorf("there is no agent %q in what is published, so nobody was stopped; its agents are: %s", a, listed(names))
		}
	}
	return nil
}

func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
