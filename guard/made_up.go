package guard

import (
	"hash/maphash"
	"strings"
	"sync"
)

// MaxMadeUp is the number of names that an agent may make up below its wildcards in one node, for
// as long as its Envoy runs. The control plane mints no more for an agent than five nodes ask for
// (package mint).
const MaxMadeUp = 1000

// Names are the names that agents have made up below their wildcards. Each takes a certificate,
// and the control plane does not learn which agent it is for. The zero value has none.
type Names struct {
	seed maphash.Seed
	mu   sync.Mutex
	of   map[uintptr]map[uint64]struct{}
}

// Take reports whether the agent may connect to the host, which it sent as the authority of a
// CONNECT, and counts a host that is new.
func (n *Names) Take(agent uintptr, authority string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.of == nil {
		n.of, n.seed = map[uintptr]map[uint64]struct{}{}, maphash.MakeSeed()
	}
	names := n.of[agent]
	if names == nil {
		names = map[uint64]struct{}{}
		n.of[agent] = names
	}
	host, _, _ := strings.Cut(strings.ToLower(authority), ":")
	name := maphash.String(n.seed, host)
	if _, ok := names[name]; ok {
		return true
	}
	if len(names) >= MaxMadeUp {
		return false
	}
	names[name] = struct{}{}
	return true
}
