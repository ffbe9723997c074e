package xds

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/cache"
)

// The kinds of [Event].
const (
	// EventPublished records a publication that every connected node has taken.
	EventPublished = "published"
	// EventRefused records a publication that the control plane has taken back.
	EventRefused = "refused"
	// EventKilled and EventUnkilled record uses of the kill switch.
	EventKilled   = "killed"
	EventUnkilled = "unkilled"
	// EventLeaseEnded records a rule that has ended by itself.
	EventLeaseEnded = "lease-ended"
	// EventSecretRotated records a credential whose secret has changed.
	EventSecretRotated = "secret-rotated"
	// EventCredentialClosed records that a credential's secret is unavailable, so that its routes
	// are closed. EventCredentialOpened records that a credential is in use from now on: for the
	// first time since the control plane started, or again.
	EventCredentialClosed = "credential-closed"
	EventCredentialOpened = "credential-opened"
	// EventPortOpened and EventPortClosed record ports of this machine that lead into a sandbox.
	EventPortOpened = "port-opened"
	EventPortClosed = "port-closed"
	// EventToolCalled and EventToolEnded record a call of a tool of the operator's own.
	EventToolCalled = "tool-called"
	EventToolEnded  = "tool-ended"
	// EventClockSet records a wall clock that was set back.
	EventClockSet = "clock-set-back"
)

// Event is something that has happened to the policy. Nothing in it is secret,
// and nothing comes from an agent.
type Event struct {
	// ID is the same for the same happening, however often it is told: a
	// control plane that starts again tells the ends of leases again. "" if
	// it is told once.
	ID   string
	Kind string
	// Time is the time at which it happened, which may be long before it is recorded.
	Time time.Time
	// Seq and Version identify the publication that it is about. By is its publisher.
	Seq     uint64
	Version string
	By      string
	// Agent, Rule, Reason and Owner describe the rule, if it is about one.
	Agent, Rule, Reason, Owner string
	// Credential is its name, if it is about one.
	Credential string
	// Detail is for people.
	Detail string
}

// tell hands the event on. If the event cannot be written, nothing stops: what the fleet enforces
// does not depend on the log.
func (c *Control) tell(e Event) {
	if c.cfg.Event == nil {
		return
	}
	if err := c.cfg.Event(e); err != nil {
		c.meter.eventErrors.Inc()
		c.cfg.Log.Error("write event", "kind", e.Kind, "error", err)
	}
}

// tellPublished records that b, which follows before, is live.
func (c *Control) tellPublished(before, b *bundle.Bundle, version string) {
	if c.cfg.Event == nil {
		return
	}
	if before == nil {
		before = &bundle.Bundle{Plan: &plan.Plan{}}
	}
	e := Event{Kind: EventPublished, Time: b.Time, Seq: b.Seq, Version: version, By: b.By}
	killed, unkilled := switched(before.Killed, b.Killed), switched(b.Killed, before.Killed)
	if len(killed) > 0 {
		e.Kind, e.Detail = EventKilled, strings.Join(killed, ", ")
		c.tell(e)
	}
	if len(unkilled) > 0 {
		e.Kind, e.Detail = EventUnkilled, strings.Join(unkilled, ", ")
		c.tell(e)
	}
	if was, err := before.Version(); err == nil && was == version && len(killed)+len(unkilled) > 0 {
		return
	}
	e.Kind, e.Detail = EventPublished, summary(before.Plan, b.Plan)
	c.tell(e)
}

// switched returns the agents that are killed in is but not in was.
func switched(was, is bundle.Killed) []string {
	var out []string
	if is.Stack && !was.Stack {
		out = append(out, "everyone")
	}
	for _, a := range is.Agents {
		if !slices.Contains(was.Agents, a) {
			out = append(out, a)
		}
	}
	return out
}

// summary counts what a publication changes. It is not [plan.Diff], which compares every rule with
// all others: every publication waits for summary, whatever the size of the policy.
func summary(was, is *plan.Plan) string {
	var rules, credentials tally
	before := map[string]*plan.Rule{}
	old, others := map[string][]plan.Rule{}, []plan.Rule{}
	for _, a := range was.Agents {
		old[a.Name] = a.Rules
	}
	for _, a := range is.Agents {
		had, has := cache.Between(old[a.Name], a.Rules, (*plan.Rule).Equal)
		old[a.Name], others = had, append(others, has...)
	}
	for _, had := range old {
		for i := range had {
			before[had[i].ID] = &had[i]
		}
	}
	for i := range others {
		r := &others[i]
		o, ok := before[r.ID]
		rules.add(ok, ok && o.Equal(r))
		delete(before, r.ID)
	}
	rules.removed = len(before)
	known := map[string]plan.Credential{}
	for _, c := range was.Credentials {
		known[c.Name] = c
	}
	for _, c := range is.Credentials {
		o, ok := known[c.Name]
		credentials.add(ok, ok && reflect.DeepEqual(o, c))
		delete(known, c.Name)
	}
	credentials.removed = len(known)
	return "rules: " + rules.String() + "; credentials: " + credentials.String()
}

// tally counts what was added, changed and removed.
type tally struct{ added, changed, removed int }

func (t *tally) add(known, same bool) {
	switch {
	case !known:
		t.added++
	case !same:
		t.changed++
	}
}

func (t tally) String() string {
	return fmt.Sprintf("%d added, %d changed, %d removed", t.added, t.changed, t.removed)
}

// lateAfter is the delay up to which the end of a lease is recorded without mentioning it.
const lateAfter = 3 * time.Second

// endLeases records each lease of b that has ended by now once, and remembers it.
func (c *Control) endLeases(b *bundle.Bundle, version string, now time.Time) {
	if b == nil || b.Plan == nil {
		return
	}
	ended := c.leases.End(b.Plan, b.Time, now)
	for _, e := range ended {
		c.meter.leases.Inc()
		detail := ""
		if late := now.Sub(e.At); late > lateAfter {
			detail = "noticed " + late.Round(time.Second).String() + " later, when the control plane was back"
		}
		c.cfg.Log.Info("a lease has ended", "agent", e.Agent, "rule", e.Rule.ID, "expires", e.Rule.Expires)
		c.tell(Event{
			ID: e.ID, Kind: EventLeaseEnded, Time: e.At, Seq: b.Seq, Version: version, By: b.By,
			Agent: e.Agent, Rule: e.Rule.ID, Reason: e.Rule.Reason, Owner: e.Rule.Owner, Detail: detail,
		})
	}
	if len(ended) > 0 {
		c.leases.Save(b.Plan)
	}
}

// checkClock records once that the wall clock was set back.
func (c *Control) checkClock() {
	by := c.leases.SetBack().Round(time.Second)
	if by == 0 {
		return
	}
	c.cfg.Log.Warn("the clock was set back: leases end by the time that has passed", "by", by.String())
	e := Event{Kind: EventClockSet, Time: c.leases.Now().UTC(), Detail: "by " + by.String() +
		": leases end by the time that has passed"}
	if b := c.bundle(); b != nil {
		e.Seq = b.Seq
	}
	c.tell(e)
}
