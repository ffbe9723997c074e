package ledger

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/postern/postern/svid"
	"github.com/postern/postern/xds/api"
)

// away is the time after which a joined node without a stream leaves the list. A fleet that scales
// by itself never removes a node by name.
const away = time.Hour

// maxNodeID bounds the repeated part of a refused node's name, in bytes.
const maxNodeID = 64

// maxJoined bounds the nodes that are part of the stack by their certificate.
const maxJoined = 10000

// admit compares the name that a stream gives with its certificate. It makes a node with a
// certificate part of the stack. A stream without a certificate came over the Unix socket. The
// caller holds the lock.
func (l *Ledger) admit(stream int64, node string) error {
	id, certified := l.peers[stream]
	switch {
	case !certified && l.joined[node]:
		l.log.Warn("refused a node without its certificate", "node", node)
		return status.Errorf(codes.PermissionDenied, "node %.64q is part of this stack by its certificate only", node)
	case !certified:
		return nil
	case id.Node != node:
		l.mismatches++
		l.log.Warn("refused a node that is not its certificate's", "node", fmt.Sprintf("%.64q", node), "certificate",
			id.Node)
		return status.Errorf(codes.PermissionDenied, "node %.64q is not the one of this certificate", node)
	case l.known[node]:
		return nil
	case !l.removed[node].IsZero():
		return nil // it is not known, which the caller reports
	case len(l.joined) >= maxJoined:
		l.log.Error("too many nodes", "node", node, "most", maxJoined)
		return status.Errorf(codes.ResourceExhausted, "this stack has %d nodes, and takes no more", maxJoined)
	}
	l.known[node], l.joined[node] = true, true
	return nil
}

// recognise makes a node known whose supervisor runs on this machine, in case the list of nodes was
// lost. An agent cannot pose as such a node: it reaches neither the control plane's socket nor a
// node's folder, and has no process that holds that folder. Nodes with a certificate and removed
// nodes are excepted.
func (l *Ledger) recognise(stream int64, node string) {
	l.mu.Lock()
	_, named := l.streams[stream]
	_, certified := l.peers[stream]
	unknown := !named && !certified && !l.known[node] && l.removed[node].IsZero()
	l.mu.Unlock()
	if !unknown || !svid.IsNode(node) || !l.vouch(node) {
		return
	}
	l.Allow(node)
	l.mu.Lock()
	l.unsaved = true
	l.mu.Unlock()
	l.log.Warn("a node that runs on this machine was not on the list of nodes: it is back on the list", "node", node)
}

// TakeUnsaved reports whether nodes became known since the last call that must be saved.
func (l *Ledger) TakeUnsaved() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.unsaved
	l.unsaved = false
	return was
}

// strange remembers that the node was refused. The caller holds the lock.
func (l *Ledger) strange(node, reason string) {
	now := time.Now().UTC()
	node = printable(node[:min(len(node), maxNodeID)])
	s := l.strangers[node]
	if s == nil {
		if len(l.strangers) >= maxStrangers {
			return
		}
		s = &stranger{since: now}
		l.strangers[node] = s
	}
	s.reason, s.last = printable(reason), now
}

// RefusedNodes returns the nodes that were refused recently, sorted.
func (l *Ledger) RefusedNodes(now time.Time) []api.RefusedNode {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.strangers, func(_ string, s *stranger) bool { return now.Sub(s.last) > strangeFor })
	var out []api.RefusedNode
	for _, id := range slices.Sorted(maps.Keys(l.strangers)) {
		out = append(out, api.RefusedNode{ID: id, Reason: l.strangers[id].reason, Since: l.strangers[id].since})
	}
	return out
}

// Forget removes from the list the joined nodes that have been away for long.
func (l *Ledger) Forget(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range l.joined {
		if r := l.nodes[id]; r != nil && !r.connected() && now.Sub(r.since) > away {
			l.drop(id)
			l.log.Info("node was away for long, and is no longer part of the stack", "node", id)
		}
	}
}

// Removals returns the nodes that were removed and may still have a certificate.
func (l *Ledger) Removals(now time.Time) map[string]time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.removed, func(_ string, at time.Time) bool { return now.Sub(at) > 2*svid.Lifetime })
	return maps.Clone(l.removed)
}

// Adopt refuses from now on the given nodes, which were evicted or removed at another replica, and
// reports whether that is news. It refuses only certificates: another machine's local node may have
// the same name as one of ours.
func (l *Ledger) Adopt(removed map[string]time.Time, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	news := false
	for id, at := range removed {
		// Old removals are not taken over. Otherwise replicas would pass them on to each other for
		// ever.
		if !l.removed[id].IsZero() || l.known[id] && !l.joined[id] || now.Sub(at) > 2*svid.Lifetime {
			continue
		}
		l.drop(id)
		l.removed[id], news = at, true
		l.log.Warn("node was evicted, or removed at another control plane", "node", id)
	}
	if news {
		l.wake()
	}
	return news
}

// Removed reports whether the node was removed, and may have no certificate.
func (l *Ledger) Removed(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.removed[node].IsZero()
}

// Member reports whether the node may be sent anything.
func (l *Ledger) Member(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known[node]
}

// Mismatched counts the streams that said another node's name than their certificate.
func (l *Ledger) Mismatched() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mismatches
}
