package bundle

import (
	"context"
	"fmt"

	"github.com/postern/postern/xds/api"
)

// Live returns the publication that decides on agents' requests now, or [ErrNone]: the one that a
// control plane says it serves. If no control plane can be asked, or none answers, it is the newest
// one that some control plane has rolled out, and asked is false. It is verified either way.
func (o *Operator) Live(ctx context.Context) (live *Bundle, asked bool, err error) {
	for _, c := range o.Controls {
		s, err := c.Status(ctx)
		if ctx.Err() != nil {
			return nil, false, ctx.Err()
		}
		if err != nil {
			continue // the next one, or the store
		}
		live, err = o.servedBy(ctx, c, s)
		return live, true, err
	}
	v, err := o.Look(ctx)
	if err != nil {
		return nil, false, err
	}
	live, err = o.NewestProven(ctx, v, 0)
	return live, false, err
}

// servedBy returns the publication that a control plane with that status serves. What the
// control plane sends must be signed, and no older than what its status states: one that was
// taken over has every publication that was ever signed.
func (o *Operator) servedBy(ctx context.Context, c *api.Client, s *api.Status) (*Bundle, error) {
	if s.Seq == 0 {
		return nil, ErrNone
	}
	// Mostly the store has it, which is cheaper than to be sent all of it.
	if b, err := o.Get(ctx, s.Seq); err == nil && b.version() == s.Version {
		return b, nil
	}
	sealed, err := c.Live(ctx, s.Seq-1)
	if err != nil {
		return nil, err
	}
	if len(sealed) > 0 {
		b, err := o.Verify(sealed)
		if err != nil || b.Seq >= s.Seq {
			return b, err
		}
	}
	return nil, fmt.Errorf("the control plane said that it serves publication %d, and now answers with an older one: "+
		"try again; if that does not help, read its log, and restart it with `postern up %s`", s.Seq, o.Stack)
}
