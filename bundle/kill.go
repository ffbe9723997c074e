package bundle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/api"
)

const (
	// imposePatience bounds the wait of a publication that is never taken back for the store, or
	// for its lock. It then continues without it.
	imposePatience = 2 * time.Second
	// imposeTries is the number of times that such a publication is made again because somebody
	// else has published meanwhile.
	imposeTries = 5
)

var errHung = errors.New("the control plane is there, but does not answer: it hangs, or is stopped")

// Outcome says how far a publication that is never taken back has come.
type Outcome struct {
	// Seq is its number.
	Seq uint64
	// Converged is what the control planes have confirmed, or nil if none has answered.
	Converged *api.Converged
	// Unrecorded is why the store does not hold the publication; nil if it does.
	// A control plane that has it puts it there as soon as it can.
	Unrecorded error
	// Unconfirmed is the reason why not every control plane has confirmed that its nodes have the
	// publication; nil if all have. A recorded publication applies as soon as a control plane sees
	// it.
	Unconfirmed error
}

// UnknownAgentError means that no agent has the name, so that nobody was stopped.
type UnknownAgentError struct {
	Agent string
	// Known are the agents of the publication.
	Known []string
}

func (e *UnknownAgentError) Error() string {
	return fmt.Sprintf("the publication has no agent %q, so nobody was stopped; its agents are: %s", e.Agent, listed(e.Known))
}

// NotKilledError means that the agent is not killed, so that nothing changed.
type NotKilledError struct {
	Agent string
	// Killed are the agents that are killed.
	Killed []string
}

func (e *NotKilledError) Error() string {
	return fmt.Sprintf("agent %q is not killed; killed are: %s; nothing changes", e.Agent, listed(e.Killed))
}

// Kill stops agents, or the whole stack, at once: no new request, and no open connection. It needs
// no valid stack file, and is never taken back. It is based on what is live, not on a publication
// that somebody is trying out.
//
// Kill first records the kill, and tells the control planes in any case. The store, its lock and
// the control planes may each be missing, hung or full; Kill waits only a few seconds for each. The
// error says what is not done yet. The outcome is nil if nothing was recorded and no control plane
// was told.
func (o *Operator) Kill(ctx context.Context, k Killed) (*Outcome, error) {
	return o.impose(ctx, func(before *Bundle) (*Bundle, error) {
		if err := o.known(ctx, before, k); err != nil {
			return nil, err
		}
		next := *before
		next.Killed = before.Killed.And(k)
		return &next, nil
	})
}

// InForce returns who is killed, or [ErrNone].
func (o *Operator) InForce(ctx context.Context) (Killed, error) {
	b, _, _, err := o.ground(ctx)
	if err != nil {
		return Killed{}, err
	}
	return b.Killed, nil
}

// Unkill takes back what [Operator.Kill] did, in the same way.
func (o *Operator) Unkill(ctx context.Context, k Killed) (*Outcome, error) {
	return o.impose(ctx, func(before *Bundle) (*Bundle, error) {
		for _, a := range k.Agents {
			if !k.Stack && !slices.Contains(before.Killed.Agents, a) {
				if before.Killed.Stack {
					return nil, fmt.Errorf("agent %q is killed with the whole stack: `postern unkill --stack` lets that work again; nothing changes", a)
				}
				return nil, &NotKilledError{Agent: a, Killed: before.Killed.Agents}
			}
		}
		next := *before
		next.Killed.Stack = before.Killed.Stack && !k.Stack
		next.Killed.Agents = slices.DeleteFunc(slices.Clone(before.Killed.Agents), func(a string) bool { return slices.Contains(k.Agents, a) })
		return &next, nil
	})
}

// impose applies change to what is live, publishes the result, and never takes it back.
func (o *Operator) impose(ctx context.Context, change func(before *Bundle) (*Bundle, error)) (*Outcome, error) {
	for tries := 1; ; tries++ {
		before, seq, hung, err := o.ground(ctx)
		if err != nil {
			return nil, err
		}
		next, err := change(before)
		if err != nil {
			return nil, err
		}
		next.Seq, next.Note, next.TakesBack = seq, "", 0
		if err := o.sign(next); err != nil {
			return nil, err
		}
		mark, err := o.signMark(kindProven, next, "")
		if err != nil {
			return nil, err
		}
		out, err := o.imposeOnce(ctx, before, next, mark, hung)
		var conflict *ConflictError
		if errors.As(err, &conflict) && tries < imposeTries && ctx.Err() == nil {
			continue // it is based on what they published
		}
		return out, err
	}
}

func (o *Operator) imposeOnce(ctx context.Context, before, next *Bundle, mark []byte, hung map[*api.Client]bool) (*Outcome, error) {
	out := &Outcome{Seq: next.Seq}
	recorded := make(chan error, 1)
	go func() { recorded <- o.record(ctx, before, next, mark) }()
	late := time.NewTimer(imposePatience)
	defer late.Stop()
	waiting := false
	select {
	case out.Unrecorded = <-recorded:
		var conflict *ConflictError
		if errors.As(out.Unrecorded, &conflict) {
			return nil, out.Unrecorded
		}
	case <-late.C:
		waiting = true
		o.say("the bundle store %s has not answered for %s: the control planes are told meanwhile", o.name(), imposePatience)
	}
	out.Converged, out.Unconfirmed = o.told(ctx, next, mark, hung, waiting || out.Unrecorded != nil)
	if waiting {
		out.Unrecorded = <-recorded
	}
	err := errors.Join(out.Unrecorded, out.Unconfirmed)
	if out.Unrecorded != nil && out.Converged == nil {
		return nil, err
	}
	return out, err
}

// record stores next and its mark. It does without the lock when another process
// does not give it back: an object is created in one step anyway.
func (o *Operator) record(ctx context.Context, before, next *Bundle, mark []byte) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	short, end := context.WithTimeout(ctx, imposePatience/2)
	defer end()
	unlock, err := o.lock(short)
	if err == nil {
		defer unlock()
	} else {
		o.say("%v; this continues without the lock", err)
	}
	if err := o.put(ctx, before, next); err != nil {
		return err
	}
	return o.putMark(ctx, kindProven, next, mark)
}

// ground returns the newest publication that counts, and the number that follows
// all that are known: of the store, of the control planes, and of what these keep. hung
// are the control planes that do not answer.
func (o *Operator) ground(ctx context.Context) (b *Bundle, next uint64, hung map[*api.Client]bool, err error) {
	short, cancel := context.WithTimeout(ctx, imposePatience)
	defer cancel()
	var newest uint64
	var best *Bundle
	view, err := o.Look(short)
	if err == nil {
		newest = view.Newest
		best, err = o.NewestProven(short, view, 0)
	}
	seq := func() uint64 {
		if best == nil {
			return 0
		}
		return best.Seq
	}
	consider := func(sealed []byte) error {
		if len(sealed) == 0 {
			return nil
		}
		b, failed := o.Verify(sealed)
		if failed == nil && b.Seq > seq() {
			best = b
		}
		return failed
	}
	hung = map[*api.Client]bool{}
	for _, c := range o.Controls {
		short, cancel := context.WithTimeout(ctx, imposePatience)
		sealed, failed := c.Live(short, seq())
		cancel()
		hung[c] = errors.Is(failed, context.DeadlineExceeded)
		if failed == nil {
			if failed := consider(sealed); failed != nil {
				return nil, 0, nil, fmt.Errorf("the control plane's publication: %w", failed)
			}
		}
	}
	for _, file := range o.Kept {
		sealed, failed := ReadKept(file)
		if failed == nil {
			// A kill does not fail because a kept publication is damaged.
			_ = consider(sealed)
		}
	}
	if best == nil {
		return nil, 0, nil, err
	}
	if err != nil && !errors.Is(err, ErrNone) {
		o.say("%v; based on publication %d, which the control plane serves", err, best.Seq)
	}
	next = max(newest, seq()) + 1
	if len(o.Controls) == 0 && view != nil {
		lost, failed := o.lost(ctx, view)
		if failed != nil {
			return nil, 0, nil, failed
		}
		next = max(next, lost+1)
	}
	if next > maxSeq {
		return nil, 0, nil, fmt.Errorf("the bundle store %s has an object with the number %d, which belongs to no publication: remove it", o.name(), next-1)
	}
	return best, next, hung, nil
}

// told has every control plane take b, all at once. Where none can be told they
// find b in the store, unless it is not there.
func (o *Operator) told(ctx context.Context, b *Bundle, mark []byte, hung map[*api.Client]bool, unrecorded bool) (*api.Converged, error) {
	start := time.Now()
	all := &api.Converged{Seq: b.Seq, Version: b.version()}
	if len(o.Controls) == 0 {
		if unrecorded {
			return nil, errors.New("no control plane can be told but through the store")
		}
		ids, err := o.replicas(ctx)
		if err != nil {
			return nil, err
		}
		all.Nodes, _, err = o.await(ctx, b, ids)
		all.Millis = millis(start)
		return all, err
	}
	type result struct {
		v   *api.Converged
		err error
	}
	results := make(chan result, len(o.Controls))
	for _, c := range o.Controls {
		go func() {
			ctx := ctx
			if hung[c] { // it gets the request when it continues
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, imposePatience)
				defer cancel()
			}
			v, err := c.Impose(ctx, api.Imposed{Publication: b.sealed, Mark: mark})
			if hung[c] && errors.Is(err, context.DeadlineExceeded) {
				err = errHung
			}
			results <- result{v, err}
		}()
	}
	var errs []error
	for range o.Controls {
		r := <-results
		if r.err != nil {
			errs = append(errs, r.err)
			continue
		}
		all.Nodes += r.v.Nodes
		all.Confirmed = append(all.Confirmed, r.v.Confirmed...)
		all.Missing = append(all.Missing, r.v.Missing...)
		for _, problem := range []string{r.v.Late, r.v.Unkept} {
			if problem != "" {
				errs = append(errs, errors.New(problem))
			}
		}
	}
	all.Millis = millis(start)
	if len(errs) == len(o.Controls) && len(all.Confirmed) == 0 && all.Missing == nil {
		return nil, errors.Join(errs...)
	}
	return all, errors.Join(errs...)
}

// known checks that the agents are part of the stack. Somebody who mistypes a name in a hurry must
// not believe that an agent was stopped. A publication that is being tried out counts too.
func (o *Operator) known(ctx context.Context, live *Bundle, k Killed) error {
	if k.Stack {
		return nil
	}
	plans := []*plan.Plan{live.Plan}
	short, cancel := context.WithTimeout(ctx, imposePatience)
	defer cancel()
	if newest, err := o.Current(short); err == nil {
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
			return &UnknownAgentError{Agent: a, Known: names}
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
