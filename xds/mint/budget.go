package mint

import (
	"iter"

	"golang.org/x/time/rate"
)

// The bounds on the leaf certificates that agents can make up names for, below
// their wildcards: how many there are at a time, and how fast they come. What is
// in the plan by its own name is not counted.
const (
	maxMadeUp   = 5000
	madeUpRate  = 20 // per second
	madeUpBurst = 500
)

// budgets bound the leaf certificates of each agent. Those that several agents
// could have asked for are counted for these together: a node does not say which
// one it was. An agent that has spent its own leaves that of others alone. The
// lock of [Mint] is held in every call.
type budgets struct {
	owners func(name string) string
	of     map[string]*budget
}

type budget struct {
	rate *rate.Limiter
	// live is at least how many there are.
	live int
}

// allow reports whether there may be one more than there are, and takes it off the rate.
func (b *budgets) allow(name string, there iter.Seq[string]) bool {
	owners := b.owners(name)
	if owners == "" {
		return true
	}
	one := b.of[owners]
	if one == nil {
		one = &budget{rate: rate.NewLimiter(madeUpRate, madeUpBurst)}
		b.of[owners] = one
	}
	if !one.rate.Allow() {
		return false
	}
	if one.live >= maxMadeUp { // some may have gone with a policy
		one.live = 0
		for other := range there {
			if b.owners(other) == owners {
				one.live++
			}
		}
	}
	return one.live < maxMadeUp
}

// spend counts one that was minted.
func (b *budgets) spend(name string) {
	if one := b.of[b.owners(name)]; one != nil {
		one.live++
	}
}
