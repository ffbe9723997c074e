package bundle

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"gocloud.dev/gcerrors"

	"github.com/postern/postern/xds/api"
)

// restoreTimeout bounds the return to the previous publication.
const restoreTimeout = 40 * time.Second

// rollOut makes one control plane take next first, then marks next as proven, and makes the others
// take it. If the first does not take next, rollOut takes it back.
func (o *Operator) rollOut(ctx context.Context, before, next *Bundle) (*api.Converged, error) {
	if len(o.Controls) == 0 {
		return o.throughStore(ctx, before, next)
	}
	start := time.Now()
	var first *api.Converged
	var rest []*api.Client
	var err error
	for i, c := range o.Controls {
		if first, err = c.Sync(ctx); !unreachable(err) || ctx.Err() != nil {
			rest = o.Controls[i+1:]
			break
		}
	}
	switch refused := (*api.Error)(nil); {
	case err == nil && first.Seq > next.Seq:
		return nil, o.conflict(ctx, before, first.Seq)
	case err == nil:
	case errors.As(err, &refused), unreachable(err) && ctx.Err() == nil:
		// Nobody serves it: it never was.
		return nil, errors.Join(err, o.drop(ctx, before, next, err))
	default:
		return nil, errors.Join(err, o.restore(ctx, before, next, err))
	}
	if err := o.mark(ctx, kindProven, next, ""); err != nil {
		return nil, errors.Join(err, o.restore(ctx, before, next, err))
	}
	if len(rest) > 0 {
		o.say("version %s live on %d nodes of the first control plane; now the other %d", first.Version, first.Nodes,
			len(rest))
	}
	nodes, err := o.sync(ctx, rest)
	if err != nil {
		return nil, errors.Join(err, o.restore(ctx, before, next, err))
	}
	v := &api.Converged{Seq: next.Seq, Version: first.Version, Nodes: first.Nodes + nodes, Millis: millis(start)}
	if len(o.Controls) == 1 { // of several, another may have a node that is missing here
		v.Missing = first.Missing
	}
	return v, nil
}

// everywhere has every control plane take b, which is proven, at once.
func (o *Operator) everywhere(ctx context.Context, b *Bundle) (*api.Converged, error) {
	start := time.Now()
	version := b.version()
	if len(o.Controls) == 0 {
		ids, err := o.replicas(ctx)
		if err != nil {
			return nil, err
		}
		nodes, _, err := o.await(ctx, b, ids)
		return &api.Converged{Seq: b.Seq, Version: version, Nodes: nodes, Millis: millis(start)}, err
	}
	if len(o.Controls) == 1 {
		v, err := o.Controls[0].Sync(ctx)
		if err != nil {
			return nil, err
		}
		v.Millis = millis(start)
		return v, nil
	}
	nodes, err := o.sync(ctx, o.Controls)
	if err != nil {
		return nil, err
	}
	return &api.Converged{Seq: b.Seq, Version: version, Nodes: nodes, Millis: millis(start)}, nil
}

// sync tells all control planes at once, and returns the number of nodes that have acknowledged. If
// only some control planes cannot be reached, that is not a failure: they find the publication in
// the store later.
func (o *Operator) sync(ctx context.Context, controls []*api.Client) (int, error) {
	type result struct {
		nodes int
		err   error
	}
	results := make([]result, len(controls))
	var wg sync.WaitGroup
	for i, c := range controls {
		wg.Go(func() {
			v, err := c.Sync(ctx)
			results[i].err = err
			if err == nil {
				results[i].nodes = v.Nodes
			}
		})
	}
	wg.Wait()
	nodes, away := 0, 0
	var errs, gone []error
	for _, r := range results {
		switch {
		case unreachable(r.err) && ctx.Err() == nil:
			away++
			gone = append(gone, r.err)
			o.say("%v; it takes the publication when it is back", r.err)
		case r.err != nil:
			errs = append(errs, r.err)
		}
		nodes += r.nodes
	}
	if away > 0 && away == len(o.Controls) {
		errs = append(errs, gone...)
	}
	return nodes, errors.Join(errs...)
}

// unreachable reports whether nothing of a call can have arrived.
func unreachable(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// restore publishes the proven publication before next again, and makes every control plane that
// has taken next take it.
func (o *Operator) restore(ctx context.Context, before, next *Bundle, why error) error {
	if before == nil {
		return o.drop(ctx, nil, next, why)
	}
	return o.undo(ctx, func(ctx context.Context) error {
		again := *before
		again.Seq, again.TakesBack = next.Seq+1, next.Seq
		again.Note = fmt.Sprintf("takes back %d: %.200s", next.Seq, why)
		again.Generations = generations(again.Seq, next, before.Plan)
		if err := o.create(ctx, next, &again); err != nil {
			return fmt.Errorf("take back publication %d: %w", next.Seq, err)
		}
		if err := o.mark(ctx, kindProven, &again, ""); err != nil {
			return fmt.Errorf("take back publication %d: %w", next.Seq, err)
		}
		if _, err := o.everywhere(ctx, &again); err != nil {
			return fmt.Errorf("take back publication %d: %w", next.Seq, err)
		}
		return nil
	})
}

// drop removes next, which nobody serves. If this operator may not delete, it publishes the
// previous content again, because the newest object of the store counts. If there was no previous
// publication, next stays. It is not proven, so nobody takes it, and the next publication follows
// it.
func (o *Operator) drop(ctx context.Context, before, next *Bundle, why error) error {
	return o.undo(ctx, func(ctx context.Context) error {
		err := o.withdraw(ctx, next.Seq)
		switch {
		case gcerrors.Code(err) != gcerrors.PermissionDenied:
			return err
		case before == nil:
			o.say("publication %d stays in the store, where you may delete nothing; no control plane takes it",
				next.Seq)
			return nil
		}
		again := *before // with its generations, because next has closed no connections
		again.Seq, again.TakesBack = next.Seq+1, next.Seq
		again.Note = fmt.Sprintf("takes back %d: %.200s", next.Seq, why)
		if err := o.create(ctx, next, &again); err != nil {
			return fmt.Errorf("take back publication %d: %w", next.Seq, err)
		}
		if err := o.mark(ctx, kindProven, &again, ""); err != nil {
			return fmt.Errorf("take back publication %d: %w", next.Seq, err)
		}
		return nil
	})
}

// undo runs do for a caller that has given up. The control planes may not know that yet.
func (o *Operator) undo(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreTimeout)
	defer cancel()
	return do(ctx)
}

func (o *Operator) say(format string, args ...any) {
	if o.Say != nil {
		o.Say(fmt.Sprintf(format, args...))
	}
}

func millis(since time.Time) float64 { return float64(time.Since(since).Microseconds()) / 1000 }
