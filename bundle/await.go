package bundle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern/postern/xds/api"
)

// replicas returns the names of the replicas that have reported recently. A replica whose report is
// overdue may have died, and is behind the others.
func (o *Operator) replicas(ctx context.Context) ([]string, error) {
	all, err := o.Reports(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(all, func(a, b api.Replica) int {
		return cmp.Compare(time.Since(a.Time)/(Heartbeat*3/2), time.Since(b.Time)/(Heartbeat*3/2))
	})
	var ids []string
	for _, r := range all {
		if r.Stale {
			o.say("control plane %s has not reported since %s: it is not waited for", r.ID,
				r.Time.Local().Format(time.DateTime))
			continue
		}
		ids = append(ids, r.ID)
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("no control plane has reported to the bundle store %s within %s: nobody would serve a "+
			"publication; check that one runs (`postern status`), with the stack's authority", o.name(), Stale)
	}
	return ids, nil
}

// throughStore is [Operator.rollOut] where no control plane can be told: one
// replica is asked to try, and when it reports that its nodes have
// acknowledged, the mark lets the others follow.
func (o *Operator) throughStore(ctx context.Context, before, next *Bundle) (*api.Converged, error) {
	start := time.Now()
	withdraw := func(err error) error {
		return errors.Join(err, o.drop(ctx, before, next, err))
	}
	ids, err := o.replicas(ctx)
	if err != nil {
		return nil, withdraw(err)
	}
	if err := o.mark(ctx, kindTry, next, ids[0]); err != nil {
		return nil, withdraw(err)
	}
	o.say("control plane %s tries version %s", ids[0], next.version())
	nodes, newer, err := o.await(ctx, next, ids[:1])
	if newer > 0 {
		return nil, o.conflict(ctx, before, newer)
	}
	var refused *api.Error
	if errors.As(err, &refused) {
		return nil, withdraw(err)
	}
	if err == nil {
		err = o.mark(ctx, kindProven, next, "")
	}
	if err == nil && len(ids) > 1 {
		o.say("live on %d nodes of %s; now %s", nodes, ids[0], strings.Join(ids[1:], ", "))
		var more int
		more, _, err = o.await(ctx, next, ids[1:])
		nodes += more
	}
	if err != nil {
		return nil, errors.Join(err, o.restore(ctx, before, next, err))
	}
	return &api.Converged{Seq: next.Seq, Version: next.version(), Nodes: nodes, Millis: millis(start)}, nil
}

// await returns when each of the replicas reports that its nodes have acknowledged b or something
// newer. It returns the number of those nodes, and the number of the newer publication, or 0. If a
// replica stops reporting meanwhile, await does not wait for it, unless no other is left. The error
// is an [*api.Error] if a replica reports that its nodes have not acknowledged.
func (o *Operator) await(ctx context.Context, b *Bundle, ids []string) (nodes int, newer uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	tick := time.NewTicker(o.Interval())
	defer tick.Stop()
	waiting, gone := slices.Clone(ids), 0
	for len(waiting) > 0 {
		select {
		case <-ctx.Done():
			return nodes, newer, fmt.Errorf("control plane %s has not taken publication %d: %w",
				strings.Join(waiting, ", "), b.Seq, ctx.Err())
		case <-tick.C:
		}
		var left []string
		for _, id := range waiting {
			r, err := o.ReadReport(ctx, id)
			switch {
			case err != nil:
				return nodes, newer, err
			case r == nil:
				left = append(left, id)
			case r.Seq == b.Seq && r.Hash == b.Hash(), r.Seq > b.Seq:
				nodes += r.Connected
				if r.Seq > b.Seq {
					newer = r.Seq
				}
				o.say("control plane %s: live on %d nodes", id, r.Connected)
			case r.Failed == b.Seq && r.FailedHash == b.Hash():
				return nodes, newer, &api.Error{
					Message: fmt.Sprintf("control plane %s: %s", id, r.Problem), Rejection: r.Rejected,
				}
			case r.Stale:
				// It has died, or was replaced, shortly before.
				gone++
				o.say("control plane %s no longer reports: it is not waited for", id)
			default:
				left = append(left, id)
			}
		}
		waiting = left
	}
	if gone == len(ids) && gone > 0 {
		return 0, newer, fmt.Errorf("control plane %s has not taken publication %d, and no longer reports",
			strings.Join(ids, ", "), b.Seq)
	}
	return nodes, newer, nil
}
