package mint

import (
	"iter"
	"strings"

	"golang.org/x/time/rate"
)

// Bounds on the leaf certificates for names that an agent makes up below its wildcards: how many
// there are at a time, and how fast they come. Names that the plan itself has do not count. The
// rate is what five nodes let through (package envoy, madeUpRate).
const (
	maxMadeUp   = 5000
	madeUpRate  = 5 * 20 // per second
	madeUpBurst = 5 * 500
)

// budgets bound the leaf certificates of each agent. Those that several agents could have
// asked for are counted for these together, because a node does not say which one it was:
// these agents have as much as each of them would have alone, added up. A node lets no
// agent spend more than its own part. The lock of [Mint] is held in every call.
type budgets struct {
	owners func(name string) string
	of     map[string]*budget
}

type budget struct {
	rate *rate.Limiter
	// live is at least how many there are, and most how many there may be.
	live, most int
}

// allow reports whether there may be one more than there are, and takes it off the rate.
func (b *budgets) allow(name string, there iter.Seq[string]) bool {
	owners := b.owners(name)
	if owners == "" {
		return true
	}
	one := b.of[owners]
	if one == nil {
		n := len(strings.Fields(owners))
		one = &budget{rate: rate.NewLimiter(rate.Limit(n*madeUpRate), n*madeUpBurst), most: n * maxMadeUp}
		b.of[owners] = one
	}
	if !one.rate.Allow() {
		return false
	}
	if one.live >= one.most { // some may have gone with a policy
		one.live = 0
		for other := range there {
			if b.owners(other) == owners {
				one.live++
			}
		}
	}
	return one.live < one.most
}

// spend counts one that was minted.
func (b *budgets) spend(name string) {
	if one := b.of[b.owners(name)]; one != nil {
		one.live++
	}
}
