package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"time"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/api"
)

// restoreTimeout bounds how long it may take to go back to what was published before.
const restoreTimeout = 10 * time.Second

// Publish makes p what counts, has the control plane roll it out, and returns
// when every connected node has acknowledged all of it. If it is not taken (the
// error is then an [*api.Error], with Envoy's message if a node refused it) or
// ctx ends, what was published before counts again.
//
// An agent that loses anything by p loses its connections too; see
// [Bundle.Generations]. Who is killed stays so.
func Publish(ctx context.Context, store string, c *api.Client, p *plan.Plan) (*api.Converged, error) {
	return change(ctx, store, c, func(b *Bundle) error {
		before, generations := b.Plan, b.Generations
		b.Plan, b.Generations = p, map[string]string{}
		for _, a := range p.Agents {
			gen := ""
			if before != nil {
				if i := slices.IndexFunc(before.Agents, func(o plan.Agent) bool { return o.Name == a.Name }); i >= 0 && narrows(before.Agents[i], a) {
					gen = generation(b.Seq, a.Name)
				}
			}
			if gen == "" {
				gen = generations[a.Name]
			}
			if gen != "" {
				b.Generations[a.Name] = gen
			}
		}
		return nil
	})
}

// Kill stops agents, or the whole stack, at once: no new request, and no
// connection that is open. It needs no valid stack file.
func Kill(ctx context.Context, store string, c *api.Client, k Killed) (*api.Converged, error) {
	return change(ctx, store, c, func(b *Bundle) error {
		b.Killed.Stack = b.Killed.Stack || k.Stack
		b.Killed.Agents = append(slices.Clone(b.Killed.Agents), k.Agents...)
		slices.Sort(b.Killed.Agents)
		b.Killed.Agents = slices.Compact(b.Killed.Agents)
		return published(b)
	})
}

// Unkill takes back what [Kill] did.
func Unkill(ctx context.Context, store string, c *api.Client, k Killed) (*api.Converged, error) {
	return change(ctx, store, c, func(b *Bundle) error {
		b.Killed.Stack = b.Killed.Stack && !k.Stack
		b.Killed.Agents = slices.DeleteFunc(slices.Clone(b.Killed.Agents), func(a string) bool { return slices.Contains(k.Agents, a) })
		return published(b)
	})
}

func published(b *Bundle) error {
	if b.Plan == nil {
		return ErrNone
	}
	return nil
}

// change publishes what edit makes of the current bundle, which has the next
// number already and no plan if nothing was published yet.
func change(ctx context.Context, store string, c *api.Client, edit func(*Bundle) error) (*api.Converged, error) {
	next := &Bundle{Seq: 1}
	switch b, err := Current(ctx, store); {
	case errors.Is(err, ErrNone):
	case err != nil:
		return nil, err
	default:
		*next = *b
		next.Seq++
	}
	next.Time, next.By = time.Now().UTC(), whoami()
	if err := edit(next); err != nil {
		return nil, err
	}
	if err := create(ctx, store, next); err != nil {
		return nil, err
	}
	v, err := c.Sync(ctx)
	if err == nil {
		return v, nil
	}
	// Also when the caller gave up; the control plane may not know that yet.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreTimeout)
	defer cancel()
	err = errors.Join(err, withdraw(ctx, store, next.Seq))
	var refused *api.Error
	if !errors.As(err, &refused) && next.Seq > 1 {
		_, again := c.Sync(ctx)
		err = errors.Join(err, again)
	}
	return nil, err
}

// narrows reports whether an agent loses anything from was to is: everything
// but new rules that allow, in any place, loses.
func narrows(was, is plan.Agent) bool {
	kept := slices.DeleteFunc(slices.Clone(is.Rules), func(r plan.Rule) bool {
		return !r.Deny && !slices.ContainsFunc(was.Rules, func(o plan.Rule) bool { return o.ID == r.ID })
	})
	return !slices.EqualFunc(kept, was.Rules, plan.Rule.Equal)
}

// generation is a name that no other publication gives the agent.
func generation(seq uint64, agent string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d/%s", seq, agent))
	return hex.EncodeToString(sum[:4])
}

// whoami is for people: nothing is decided by it.
func whoami() string {
	name := "somebody"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}
