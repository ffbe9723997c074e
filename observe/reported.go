package observe

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/xds/api"
)

// Reported is the fleet of a stack whose control planes cannot be asked, by what
// they report to the bundle store.
type Reported struct {
	Operator *bundle.Operator
	Stack    string
}

// Watch calls each at first and with each change until ctx is done. It looks as often as a replica
// does.
func (f *Reported) Watch(ctx context.Context, each func(*api.Status) error) error {
	tick := time.NewTicker(f.Operator.Interval())
	defer tick.Stop()
	var last []byte
	for {
		s, err := f.Status(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		said := *s
		said.Replicas = slices.Clone(s.Replicas)
		for i := range said.Replicas {
			said.Replicas[i].Time = time.Time{} // the same report again is not a change
		}
		now, err := json.Marshal(said)
		if err != nil {
			return err
		}
		if !bytes.Equal(now, last) {
			last = now
			if err := each(s); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Status returns one fleet of all that the replicas report.
func (f *Reported) Status(ctx context.Context) (*api.Status, error) {
	s := &api.Status{Stack: f.Stack, Nodes: []api.Node{}}
	live, err := f.Operator.Current(ctx)
	switch {
	case errors.Is(err, bundle.ErrNone):
	case err != nil:
		s.Problem = err.Error()
	default:
		s.Seq = live.Seq
		if s.Version, err = live.Plan.Version(); err != nil {
			return nil, err
		}
		for _, a := range live.Plan.Agents {
			if live.Killed.Agent(a.Name) {
				s.Killed = append(s.Killed, a.Name)
			}
		}
	}
	s.Wanted = s.Version
	if s.Replicas, err = f.Operator.Reports(ctx); err != nil {
		return nil, err
	}
	combine(s)
	return s, nil
}

// combine makes one fleet of the reports of all replicas that still report.
func combine(s *api.Status) {
	nodes, credentials := map[string]api.Node{}, map[string]api.Credential{}
	for _, r := range s.Replicas {
		if r.Stale {
			continue
		}
		if r.Rejected != nil {
			s.Rejected = r.Rejected
		}
		for _, n := range r.Fleet {
			// One that has moved is known to the replica that it has left, too.
			if was, known := nodes[n.ID]; !known || n.Connected && !was.Connected {
				nodes[n.ID] = n
			}
		}
		for _, c := range r.Credentials {
			if was, known := credentials[c.Name]; !known || was.OK && !c.OK {
				credentials[c.Name] = c
			}
		}
	}
	for _, n := range nodes {
		s.Nodes = append(s.Nodes, n)
	}
	for _, c := range credentials {
		s.Credentials = append(s.Credentials, c)
	}
	slices.SortFunc(s.Nodes, func(a, b api.Node) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(s.Credentials, func(a, b api.Credential) int { return cmp.Compare(a.Name, b.Name) })
}
