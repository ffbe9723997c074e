package mint

import (
	"iter"
	"strings"

	"golang.org/x/time/rate"

	"github.com/postern/postern/guard"
)

// Bounds on the leaf certificates for names that an agent makes up below its wildcards: how many
// there are at a time, and how fast they come. Names that the plan itself has do not count. Both
// are what five nodes let through (package guard, MaxMadeUp; package envoy, madeUpRate).
const (
	maxMadeUp   = 5 * guard.MaxMadeUp
	madeUpRate  = 5 * 20 // per second
	madeUpBurst = 5 * 500
)

// budgets bound the leaf certificates of each agent. If several agents could have asked for a name,
// the name counts against their budgets added up, because a node does not say which of them it was.
// A node lets no agent spend more than its own part. The caller holds the lock of [Mint].
type budgets struct {
	owners func(name string) string
	of     map[string]*budget
}

type budget struct {
	rate *rate.Limiter
	// live is a lower bound of the number of certificates, and most the highest number allowed.
	live, most int
}

// allow reports whether one more certificate may be made, and counts it against the rate.
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

// spend counts a certificate that was made.
func (b *budgets) spend(name string) {
	if one := b.of[b.owners(name)]; one != nil {
		one.live++
	}
}
