package inside

import (
	"encoding/binary"
	"net"
	"sync"
)

const (
	// firstAddress and addresses are the part of 198.18.0.0/15 from which names get their
	// addresses. Nobody on the Internet has this range.
	firstAddress = 198<<24 | 18<<16 | 1
	addresses    = 1 << 14
)

// names gives every name an address of its own and remembers which. When all
// are in use the oldest name loses its own, so an agent that asks for endless
// names costs a bounded amount of memory. It may be used by several goroutines.
type names struct {
	mu     sync.Mutex
	byName map[string]uint32
	// byIndex is a ring. next is the place of the next name.
	byIndex []string
	next    uint32
}

func newNames() *names {
	return &names{byName: make(map[string]uint32)}
}

// addressOf returns the address of a canonical name.
func (n *names) addressOf(name string) net.IP {
	n.mu.Lock()
	defer n.mu.Unlock()
	i, ok := n.byName[name]
	if !ok {
		i = n.next
		n.next = (n.next + 1) % addresses
		if int(i) == len(n.byIndex) {
			n.byIndex = append(n.byIndex, name)
		} else {
			delete(n.byName, n.byIndex[i])
			n.byIndex[i] = name
		}
		n.byName[name] = i
	}
	return binary.BigEndian.AppendUint32(nil, firstAddress+i)
}

// nameOf returns the name that has got ip last.
func (n *names) nameOf(ip net.IP) (string, bool) {
	v4 := ip.To4()
	if v4 == nil {
		return "", false
	}
	i := binary.BigEndian.Uint32(v4) - firstAddress // wraps for lower addresses
	n.mu.Lock()
	defer n.mu.Unlock()
	if uint64(i) >= uint64(len(n.byIndex)) {
		return "", false
	}
	return n.byIndex[i], true
}
