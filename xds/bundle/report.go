package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gocloud.dev/gcerrors"

	"github.com/postern/postern/xds/api"
)

const (
	// Heartbeat is how often a replica reports at least.
	Heartbeat = 10 * time.Second
	// Stale is after how long without a report a replica counts as gone. The
	// clocks of operators and replicas differ by less.
	Stale = 3 * Heartbeat
	// takeTimeout bounds how long a replica may take for a publication that it
	// finds in the store: to find it, to roll it out, and to report.
	takeTimeout = 45 * time.Second
)

// Report replaces what the replica says of itself.
func (s *Store) Report(ctx context.Context, r *api.Replica) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	return s.write(ctx, "replicas/"+r.ID+".json", data, false)
}

// Reports returns what the replicas say of themselves, sorted by name. Reports
// are not signed: whoever can write to the store can forge them.
func (s *Store) Reports(ctx context.Context) ([]api.Replica, error) {
	v, err := s.Look(ctx)
	if err != nil {
		return nil, err
	}
	var all []api.Replica
	for id := range v.Reports {
		r, err := s.ReadReport(ctx, id)
		if err != nil {
			return nil, err
		}
		if r != nil {
			all = append(all, *r)
		}
	}
	slices.SortFunc(all, func(a, b api.Replica) int { return strings.Compare(a.ID, b.ID) })
	return all, nil
}

// ReadReport returns the report of one replica, nil if there is none that can
// be read.
func (s *Store) ReadReport(ctx context.Context, id string) (*api.Replica, error) {
	data, err := s.fetch(ctx, "replicas/"+id+".json")
	if gcerrors.Code(err) == gcerrors.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := &api.Replica{}
	if json.Unmarshal(data, r) != nil || r.ID != id {
		return nil, nil // torn: the next one is due soon
	}
	r.Stale = time.Since(r.Time) > Stale
	return r, nil
}

// replicas are the names of those that have reported of late.
func (o *Operator) replicas(ctx context.Context) ([]string, error) {
	all, err := o.Reports(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, r := range all {
		if r.Stale {
			o.say("control plane %s has not reported since %s: it is not waited for", r.ID, r.Time.Local().Format(time.DateTime))
			continue
		}
		ids = append(ids, r.ID)
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("no control plane has reported to the bundle store %s within %s: nobody would serve what is published; look whether one runs (`postern status`)", o.name(), Stale)
	}
	return ids, nil
}

// throughStore is [Operator.rollOut] where no control plane can be told: one
// replica is asked to try, and when it reports that its nodes have
// acknowledged, the mark lets the others follow.
func (o *Operator) throughStore(ctx context.Context, before, next *Bundle) (*api.Converged, error) {
	start := time.Now()
	withdraw := func(err error) error {
		return errors.Join(err, o.undo(ctx, func(ctx context.Context) error { return o.withdraw(ctx, next.Seq) }))
	}
	ids, err := o.replicas(ctx)
	if err != nil {
		return nil, withdraw(err)
	}
	if err := o.mark(ctx, kindTry, next, ids[0]); err != nil {
		return nil, withdraw(err)
	}
	o.say("control plane %s tries version %s", ids[0], next.version())
	nodes, err := o.await(ctx, next, ids[:1])
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
		more, err = o.await(ctx, next, ids[1:])
		nodes += more
	}
	if err != nil {
		return nil, errors.Join(err, o.restore(ctx, before, next, err))
	}
	return &api.Converged{Version: next.version(), Nodes: nodes, Millis: millis(start)}, nil
}

// await returns when every one of the replicas reports that its nodes have
// acknowledged b, or something newer, and how many nodes those are. The error
// is an [*api.Error] if one reports that its nodes have not.
func (o *Operator) await(ctx context.Context, b *Bundle, ids []string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	tick := time.NewTicker(o.Interval())
	defer tick.Stop()
	waiting, nodes := slices.Clone(ids), 0
	for len(waiting) > 0 {
		select {
		case <-ctx.Done():
			return nodes, fmt.Errorf("control plane %s has not taken publication %d: %w", strings.Join(waiting, ", "), b.Seq, ctx.Err())
		case <-tick.C:
		}
		var left []string
		for _, id := range waiting {
			r, err := o.ReadReport(ctx, id)
			switch {
			case err != nil:
				return nodes, err
			case r == nil:
				left = append(left, id)
			case r.Seq >= b.Seq:
				nodes += r.Connected
				o.say("control plane %s: live on %d nodes", id, r.Connected)
			case r.Failed == b.Seq:
				return nodes, &api.Error{Message: fmt.Sprintf("control plane %s: %s", id, r.Problem)}
			default:
				left = append(left, id)
			}
		}
		waiting = left
	}
	return nodes, nil
}

// Interval is how often it is worth to look into the store. A folder costs
// nothing, a cloud a fraction of a cent for a thousand times.
func (s *Store) Interval() time.Duration {
	if s.folder() != "" {
		return 250 * time.Millisecond
	}
	return time.Second
}
