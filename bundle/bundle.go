// Package bundle defines publications: a plan, and what was decided about it since. A publication
// is an object in a blob store, the source of truth for every replica of the control plane.
//
// Each publication is an object of its own, numbered upwards from 1, signed by the operator and
// never changed. The highest number counts, and the others are its history. An object is only ever
// created. So if two operators publish at once, one wins, and the other is told.
//
// Next to publication N, a store may hold its signed marks. N.ok says that a control plane has
// rolled it out, so that every other may. N.try names the control plane that is to try it. Each
// replica of the control plane keeps a report below replicas/, signed with its reporter's key. The
// report is for people, for an operator who has no other way to see the fleet, and for the other
// replicas.
package bundle

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postern/postern/plan"
)

// Bundle is one publication.
type Bundle struct {
	// Seq is its number.
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	// By names the publisher, as the publisher's machine knows the user.
	By string `json:"by"`
	// Note gives the reason for a publication that takes back the publication with the number
	// TakesBack. No operator asked for it.
	Note      string     `json:"note,omitempty"`
	TakesBack uint64     `json:"takes_back,omitempty"`
	Plan      *plan.Plan `json:"plan"`
	// Generations tell, by agent, a policy from one that was narrower or other
	// than before: connections of an earlier generation are cut. An agent that
	// is missing has never lost anything.
	Generations map[string]string `json:"generations,omitempty"`
	Killed      Killed            `json:"killed,omitzero"`
	// Evicted says when nodes were evicted: see [Operator.Evict].
	Evicted map[string]time.Time `json:"evicted,omitempty"`

	// planVersion is the version of Plan, or "" if it is not known: see Version.
	planVersion string
	// encoded is [plan.Plan.Encode] of Plan, or nil, until it is published.
	encoded []byte
	// sealed is the object it was read from, or is written to.
	sealed []byte
	// broken, if set, is why it cannot be used; only Seq is then known.
	broken error
}

// Killed names the agents that may do nothing at all, whatever the plan says.
type Killed struct {
	// Stack stops every agent.
	Stack bool `json:"stack,omitempty"`
	// Agents are sorted.
	Agents []string `json:"agents,omitempty"`
}

// Agent reports whether the agent is stopped.
func (k Killed) Agent(name string) bool { return k.Stack || slices.Contains(k.Agents, name) }

// Includes reports whether k stops everybody that o stops.
func (k Killed) Includes(o Killed) bool {
	return k.Stack || !o.Stack && !slices.ContainsFunc(o.Agents, func(a string) bool { return !k.Agent(a) })
}

// And stops everybody that k or o stops.
func (k Killed) And(o Killed) Killed {
	all := Killed{Stack: k.Stack || o.Stack, Agents: slices.Concat(k.Agents, o.Agents)}
	slices.Sort(all.Agents)
	all.Agents = slices.Compact(all.Agents)
	return all
}

// Sealed is the signed object that the store holds: what [Store.Verify] takes.
func (b *Bundle) Sealed() []byte { return b.sealed }

// Broken is why a publication of the history cannot be used; nothing but its
// number is then known.
func (b *Bundle) Broken() error { return b.broken }

// ErrNone means that nothing was published yet.
var ErrNone = errors.New("nothing was published yet")

// ConflictError means that somebody else published in the meantime.
type ConflictError struct {
	Theirs *Bundle
	// Changes describe the other publication's changes for people, one line each.
	Changes []string
}

func (e *ConflictError) Error() string {
	s := fmt.Sprintf("%s published version %s at %s, meanwhile; your change was not published: look at the "+
		"difference (`postern diff`) and try again",
		e.Theirs.By, e.Theirs.version(), e.Theirs.Time.Format(time.RFC3339))
	for _, c := range e.Changes {
		s += "\n  they changed: " + c
	}
	return s
}

// Version returns the [plan.Plan.Version] of its plan. For a publication that was read it usually
// costs nothing, because the hash covers the verified bytes.
func (b *Bundle) Version() (string, error) {
	if b.planVersion != "" {
		return b.planVersion, nil
	}
	return b.Plan.Version()
}

func (b *Bundle) version() string {
	v, err := b.Version()
	if err != nil {
		return "unknown"
	}
	return v
}
