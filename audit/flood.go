package audit

import (
	"errors"
	"fmt"
	"time"

	"github.com/postern/postern/plan"
)

// An agent could send requests only to be refused, and so fill the log until other agents' events
// are removed. So beyond this many denials at once, and so many a second afterwards, an agent's
// denials are counted instead: one event a second for each reason.
const (
	denialsAtOnce    = 10_000
	denialsPerSecond = 100
	countEvery       = time.Second
)

// denials counts the denials of one agent.
type denials struct {
	// left returns how many denials may still be written one by one, at the given time.
	left float64
	at   time.Time
	// more counts the denials without an event of their own. They began at since.
	more  map[denial]uint64
	since time.Time
}

type denial struct {
	verdict string
	reason  plan.Reason
}

// flood reports whether e is counted instead of written. If an upstream was tried, e is always
// written: something may have been sent, whatever ended the request.
func (w *Writer) flood(e *Event) bool {
	if e.Verdict != Deny && e.Verdict != Error || e.Agent == "" || e.Count != 0 || e.Stream != "" || e.tried {
		return false
	}
	now := time.Now()
	d := w.denied[e.Agent]
	if d == nil {
		d = &denials{left: denialsAtOnce, at: now, more: map[denial]uint64{}}
		w.denied[e.Agent] = d
	}
	d.left = min(denialsAtOnce, d.left+now.Sub(d.at).Seconds()*denialsPerSecond)
	d.at = now
	if d.left >= 1 {
		d.left--
		return false
	}
	if len(d.more) == 0 {
		d.since = now
	}
	d.more[denial{e.Verdict, e.Reason}]++
	return true
}

// Tell writes how many denials were counted, and signs new events, if that is due. The owner of a
// Writer must call it about as often as it is due.
func (w *Writer) Tell() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.tell(countEvery), w.checkpoint(checkpointEvery))
}

// tell writes the counts of denials that are at least that old.
func (w *Writer) tell(due time.Duration) error {
	var events []*Event
	for agent, d := range w.denied {
		if len(d.more) == 0 {
			if time.Since(d.at).Seconds()*denialsPerSecond > denialsAtOnce {
				delete(w.denied, agent) // its whole allowance is restored
			}
			continue
		}
		if time.Since(d.since) < due {
			continue
		}
		for kind, n := range d.more {
			events = append(events, &Event{
				Time: time.Now().UTC(), Agent: agent, Verdict: kind.verdict, Reason: kind.reason, Rule: plan.DefaultRule(agent), Count: n,
				Detail: fmt.Sprintf("more than %d a second: the individual requests are not kept", denialsPerSecond),
			})
		}
		clear(d.more)
	}
	if len(events) == 0 {
		return nil
	}
	if err := w.turn(); err != nil {
		return err
	}
	return w.write(events)
}
