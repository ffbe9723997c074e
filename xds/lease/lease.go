// Package lease ends rules at their time, whatever the wall clock is set to, and remembers which
// have ended, so that a restart does not extend a lease.
package lease

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/state"
)

// Leases knows the time, and the leases that have ended. It is safe for concurrent use.
type Leases struct {
	files *state.Folder
	log   *slog.Logger
	clock *clock

	mu sync.Mutex
	// ended are the leases that have ended, by their ID.
	ended map[string]bool
	// setBack is set while the wall clock is behind the latest time that was seen.
	setBack bool
}

// past is what is remembered about time.
type past struct {
	// Seen is a time that has been reached.
	Seen time.Time `json:"seen"`
	// Ended are the IDs of the leases that have ended. A clock that is set forward and back again
	// does not revive them.
	Ended []string `json:"ended,omitempty"`
}

// Load reads what is remembered about time. If that is lost, time is at least as far as the last
// change of the state files: a lease that had ended by then does not begin again, whatever the
// clock says.
func Load(files *state.Folder, wall func() time.Time, log *slog.Logger) (*Leases, error) {
	var p past
	written := files.LastWritten()
	there, err := files.Read(state.Leases, &p)
	if err != nil && !errors.Is(err, state.ErrDamaged) {
		return nil, err
	}
	if !there {
		p = past{Seen: written}
	}
	l := &Leases{files: files, log: log, ended: map[string]bool{}}
	for _, id := range p.Ended {
		l.ended[id] = true
	}
	started := time.Now()
	l.clock = newClock(wall, func() time.Duration { return time.Since(started) }, p.Seen)
	return l, nil
}

// Now returns the time by which leases end.
func (l *Leases) Now() time.Time { return l.clock.now() }

// setBackAfter is the time by which a wall clock may be set back without a message.
const setBackAfter = 5 * time.Second

// SetBack returns by how much the wall clock was set back, once, or 0.
func (l *Leases) SetBack() time.Duration {
	behind := l.clock.behind()
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.setBack
	if l.setBack = behind > setBackAfter; !l.setBack || was {
		return 0
	}
	return behind
}

// id names a lease. The same rule with another end is another lease. The event has the same ID.
func id(r *plan.Rule) string { return "lease-ended/" + r.ID + "/" + r.Expires }

// Valid returns the part of p that is valid at a moment. A lease that has ended once stays ended.
func (l *Leases) Valid(p *plan.Plan, now time.Time) *plan.Plan {
	p = p.At(now)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ended) == 0 {
		return p
	}
	return p.Without(func(r *plan.Rule) bool { return r.Expires != "" && l.ended[id(r)] })
}

// Ended is a lease that has ended.
type Ended struct {
	// ID is the same for the same lease, however often its end is told.
	ID    string
	Agent string
	Rule  *plan.Rule
	At    time.Time
}

// End returns the leases of p that have ended by now, each once. A rule that had ended before p was
// published was never a lease. The caller calls [Leases.Save] once it has recorded them.
func (l *Leases) End(p *plan.Plan, published, now time.Time) []Ended {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []Ended
	for _, a := range p.Agents {
		for i := range a.Rules {
			r := &a.Rules[i]
			if r.Expires == "" {
				continue
			}
			end, err := time.Parse(time.RFC3339, r.Expires)
			// The file has whole seconds.
			if err != nil || now.Before(end) || end.Before(published.Add(-time.Second)) || l.ended[id(r)] {
				continue
			}
			l.ended[id(r)] = true
			all = append(all, Ended{ID: id(r), Agent: a.Name, Rule: r, At: end})
		}
	}
	return all
}

// Save remembers the leases of p that have ended, and the time.
func (l *Leases) Save(p *plan.Plan) {
	is := past{Seen: l.clock.lived()}
	l.mu.Lock()
	for _, a := range p.Agents {
		for i := range a.Rules {
			if r := &a.Rules[i]; r.Expires != "" && l.ended[id(r)] {
				is.Ended = append(is.Ended, id(r))
			}
		}
	}
	l.mu.Unlock()
	slices.Sort(is.Ended)
	if err := l.files.SaveJSON(state.Leases, is); err != nil {
		l.log.Error("remember leases", "error", err)
	}
}
