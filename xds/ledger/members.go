package xds

import (
	"crypto/ecdsa"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/postern/postern/svid"
	"github.com/postern/postern/xds/api"
)

// away is how long a node that joined may be without a stream before it leaves
// the list: a fleet that scales by itself never takes one away by name.
const away = time.Hour

// maxNodeID bounds what is repeated of the name of a node that was refused, in bytes.
const maxNodeID = 64

// maxJoined bounds the nodes that are there by their certificate.
const maxJoined = 10000

// admit compares who a stream says it is with its certificate, and makes a
// node that has one part of the stack. A stream without a certificate came over
// the Unix socket. The lock is held.
func (l *ledger) admit(stream int64, node string) error {
	id, certified := l.peers[stream]
	switch {
	case !certified && l.joined[node]:
		l.log.Warn("refused a node without its certificate", "node", node)
		return status.Errorf(codes.PermissionDenied, "node %.64q is part of this stack by its certificate only", node)
	case !certified:
		return nil
	case id.Node != node:
		l.mismatches++
		l.log.Warn("refused a node that is not its certificate's", "node", fmt.Sprintf("%.64q", node), "certificate", id.Node)
		return status.Errorf(codes.PermissionDenied, "node %.64q is not the one of this certificate", node)
	case l.known[node]:
		return nil
	case !l.removed[node].IsZero():
		return nil // it is not known, and that is what the caller says
	case len(l.joined) >= maxJoined:
		l.log.Error("too many nodes", "node", node, "most", maxJoined)
		return status.Errorf(codes.ResourceExhausted, "this stack has %d nodes, and takes no more", maxJoined)
	}
	l.known[node], l.joined[node] = true, true
	return nil
}

// recognise makes a node known whose supervisor runs on this machine, when the
// list of nodes was lost. An agent cannot be taken for one: it reaches neither the
// control plane's socket nor the folder of a node, and has no process that holds
// that folder. A node with a certificate, and one that was removed, is not meant.
func (l *ledger) recognise(stream int64, node string) {
	l.mu.Lock()
	_, named := l.streams[stream]
	_, certified := l.peers[stream]
	unknown := !named && !certified && !l.known[node] && l.removed[node].IsZero()
	vouch := l.vouch
	l.mu.Unlock()
	if !unknown || vouch == nil || !svid.IsNode(node) || !vouch(node) {
		return
	}
	l.allow(node, true)
	l.mu.Lock()
	l.unsaved = true
	l.mu.Unlock()
	l.log.Warn("a node that runs on this machine was not on the list of nodes: it is again", "node", node)
}

// takeUnsaved reports whether nodes became known that were not saved, once.
func (l *ledger) takeUnsaved() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.unsaved
	l.unsaved = false
	return was
}

// strange remembers that the node was refused. The lock is held.
func (l *ledger) strange(node, reason string) {
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

// refusedNodes returns the nodes that were refused of late, sorted.
func (l *ledger) refusedNodes(now time.Time) []api.RefusedNode {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.strangers, func(_ string, s *stranger) bool { return now.Sub(s.last) > strangeFor })
	var out []api.RefusedNode
	for _, id := range slices.Sorted(maps.Keys(l.strangers)) {
		out = append(out, api.RefusedNode{ID: id, Reason: l.strangers[id].reason, Since: l.strangers[id].since})
	}
	return out
}

// forget takes nodes off the list that joined and have been away for long.
func (l *ledger) forget(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range l.joined {
		if r := l.nodes[id]; r != nil && !r.connected() && now.Sub(r.since) > away {
			delete(l.joined, id)
			delete(l.known, id)
			delete(l.nodes, id)
			l.log.Info("node has been away for long, and is not part of the stack any more", "node", id)
		}
	}
}

// removals returns the nodes that were removed and may still have a certificate.
func (l *ledger) removals(now time.Time) map[string]time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.removed, func(_ string, at time.Time) bool { return now.Sub(at) > 2*svid.Lifetime })
	return maps.Clone(l.removed)
}

// adopt refuses nodes from now on that were evicted, or removed at another
// replica, and reports whether that is news. Only their certificates are meant: another
// machine's local node may have the same name as one of ours.
func (l *ledger) adopt(removed map[string]time.Time, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	news := false
	for id, at := range removed {
		// Too old, or else it would go to and fro for ever.
		if !l.removed[id].IsZero() || l.known[id] && !l.joined[id] || now.Sub(at) > 2*svid.Lifetime {
			continue
		}
		delete(l.known, id)
		delete(l.joined, id)
		delete(l.nodes, id)
		l.removed[id], news = at, true
		l.log.Warn("node was evicted, or removed at another control plane", "node", id)
	}
	if news {
		l.wake()
	}
	return news
}

func (l *ledger) wasRemoved(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.removed[node].IsZero()
}

// member reports whether the node may be sent anything.
func (l *ledger) member(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known[node]
}

func (l *ledger) mismatched() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mismatches
}

// deriveSalt returns what keeps the versions of secrets from telling anything
// of them. Replicas have it in common, so that a node that moves from one to the
// other is sent nothing again: it is derived from a key that they share. If no
// key is in memory, it is random.
func (c *Control) deriveSalt() ([]byte, error) {
	keys := []any{c.ca.key}
	if c.cfg.Fleet != nil {
		keys = append(keys, c.cfg.Fleet.Authority.Key())
	}
	for _, key := range keys {
		if k, ok := key.(*ecdsa.PrivateKey); ok {
			b, err := k.Bytes()
			if err != nil {
				return nil, fmt.Errorf("derive a salt: %w", err)
			}
			return hkdf.Key(sha256.New, b, nil, "postern: versions of secrets", sha256.Size)
		}
	}
	salt := make([]byte, sha256.Size)
	_, _ = rand.Read(salt) // it never fails: crypto/rand
	return salt, nil
}
