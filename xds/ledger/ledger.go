// Package ledger records which nodes are part of the stack, and for every node and resource type
// what was sent, what was acknowledged and what was refused.
package ledger

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
	"unicode"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/postern/postern/svid"
	"github.com/postern/postern/xds/api"
)

// Bounds of a node, so that a node that was taken over costs the control plane little. An Envoy has
// one stream, or two while it moves, and answers in order.
const (
	maxStreams     = 16
	maxOutstanding = 10000
	// maxMessage is in bytes.
	maxMessage = 2000
)

// printable bounds a node's text, and removes what a terminal would obey.
func printable(message string) string {
	if len(message) > maxMessage {
		message = message[:maxMessage] + "..."
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(message, ""))
}

// Ledger implements the callbacks of go-control-plane's delta server. It is safe for concurrent
// use.
type Ledger struct {
	log *slog.Logger

	mu    sync.Mutex
	known map[string]bool
	// joined are the known nodes that are part of the stack by their certificate, while they are
	// known.
	joined map[string]bool
	// removed are the nodes whose certificate no longer counts.
	removed map[string]time.Time
	nodes   map[string]*record
	// peers maps an open stream to the node that its certificate names. A stream
	// over the Unix socket has none.
	peers map[int64]svid.ID
	// opened is the number of a node's peers.
	opened map[svid.ID]int
	// mismatches counts the refused streams that named another node than their certificate.
	mismatches uint64
	// streams maps an open stream to its node, once the stream has named it.
	streams map[int64]string
	// strangers are the nodes that were refused recently, by ID.
	strangers map[string]*stranger
	// vouch is called without the lock: see [New].
	vouch func(node string) bool
	// unsaved is set when vouch has made a node known, until [Ledger.TakeUnsaved].
	unsaved bool
	// refused counts refusals.
	refused int
	// changed is closed and replaced whenever anything happens.
	changed chan struct{}
}

// record holds what is known about one node since it connected.
type record struct {
	// streams are the open streams. Each may be another process that has the node's ID: only what
	// all of them have acknowledged counts.
	streams map[int64]*streamRecord
	// last is the stream that ended last, for people; nil if none has.
	last *streamRecord
	// since is the time at which the first stream was opened, or the last one ended.
	since    time.Time
	lastAck  time.Time
	lastNack time.Time
	nack     string
}

func (r *record) connected() bool { return len(r.streams) > 0 }

// newest returns the stream that was opened last, or nil.
func (r *record) newest() *streamRecord {
	if len(r.streams) == 0 {
		return nil
	}
	return r.streams[slices.Max(slices.Collect(maps.Keys(r.streams)))]
}

// streamRecord holds what one stream was sent and has answered, by type.
type streamRecord struct{ types map[string]*typeRecord }

// stranger is a node that was refused.
type stranger struct {
	reason      string
	since, last time.Time
}

const (
	// maxStrangers bounds how many are remembered.
	maxStrangers = 20
	// strangeFor is the time for which a refused node is remembered that does not ask again. An
	// Envoy asks again at least every 30 s.
	strangeFor = 2 * time.Minute
)

type typeRecord struct {
	// outstanding maps a nonce that was not answered yet to its version.
	outstanding map[string]string
	acked       string
	ackedAt     time.Time
	// nacked is the version that was refused last, and why.
	nacked, nack string
}

// New returns a ledger without nodes. vouch reports whether a node that is not known runs on this
// machine, supervised by this user.
func New(log *slog.Logger, vouch func(node string) bool) *Ledger {
	return &Ledger{
		log: log, vouch: vouch, known: map[string]bool{}, joined: map[string]bool{}, removed: map[string]time.Time{},
		nodes: map[string]*record{}, peers: map[int64]svid.ID{}, opened: map[svid.ID]int{}, streams: map[int64]string{},
		strangers: map[string]*stranger{}, changed: make(chan struct{}),
	}
}

// Notify wakes everybody that waits for a change.
func (l *Ledger) Notify() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wake()
}

func (l *Ledger) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Next returns a channel that is closed at the next change.
func (l *Ledger) Next() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Allow makes the node part of the stack.
func (l *Ledger) Allow(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known[node] = true
	delete(l.removed, node)
	delete(l.strangers, node)
	l.wake()
}

// Remove refuses the node from now on, whatever its certificate.
func (l *Ledger) Remove(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(node)
	l.removed[node] = time.Now()
	l.wake()
}

// Restore takes over the removals of an earlier control plane.
func (l *Ledger) Restore(removed map[string]time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.Copy(l.removed, removed)
}

// drop forgets the node. The caller holds the lock.
func (l *Ledger) drop(node string) {
	delete(l.known, node)
	delete(l.joined, node)
	delete(l.nodes, node)
}

// Connected returns the nodes that have a stream now, sorted.
func (l *Ledger) Connected() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []string
	for id, r := range l.nodes {
		if r.connected() {
			ids = append(ids, id)
		}
	}
	sort.Strings(ids)
	return ids
}

// Online reports whether the node has a stream now.
func (l *Ledger) Online(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.nodes[node]
	return r != nil && r.connected()
}

// Settled reports whether every stream of the node has subscribed to the type, unless the type is
// optional, and has answered everything of the type that it was sent. asking is the number of
// streams that have subscribed.
func (l *Ledger) Settled(node, url string, optional bool) (asking int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.nodes[node]
	if r == nil || !r.connected() {
		return 0, false
	}
	for _, s := range r.streams {
		t := s.types[url]
		switch {
		case t == nil && !optional, t != nil && len(t.outstanding) > 0:
			return asking, false
		case t != nil:
			asking++
		}
	}
	return asking, true
}

// Refusals returns the number of refusals, of any version.
func (l *Ledger) Refusals() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refused
}

// Rejection returns the refusal of version by any connected node, or nil.
func (l *Ledger) Rejection(version string) *api.Rejection {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, r := range l.nodes {
		for _, s := range r.streams {
			for _, k := range Kinds {
				if t := s.types[k.URL]; t != nil && t.nack != "" && t.nacked == version {
					return &api.Rejection{Version: version, Node: id, Type: k.Name, Message: t.nack}
				}
			}
		}
	}
	return nil
}

// Forgive forgets the refusals of version, so that it can be tried again.
func (l *Ledger) Forgive(version string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.nodes {
		for _, s := range r.streams {
			for _, t := range s.types {
				if t.nacked == version {
					t.nacked, t.nack = "", ""
				}
			}
		}
	}
}

// Status returns the record of every known node, sorted.
func (l *Ledger) Status() []api.Node {
	l.mu.Lock()
	defer l.mu.Unlock()
	nodes := make([]api.Node, 0, len(l.known))
	for id := range l.known {
		n := api.Node{ID: id, Joined: l.joined[id]}
		if r := l.nodes[id]; r != nil {
			n.Connected, n.Since, n.LastAck, n.LastNack, n.Nack = r.connected(), r.since, r.lastAck, r.lastNack, r.nack
			n.Streams = len(r.streams)
			for _, k := range Kinds {
				s := r.newest()
				if s == nil {
					s = r.last
				}
				if t := s.types[k.URL]; t != nil {
					n.Types = append(n.Types,
						api.Type{Name: k.Name, Version: t.acked, AckedAt: t.ackedAt, Nack: t.nack})
				}
			}
		}
		nodes = append(nodes, n)
	}
	sort.Slice(nodes, func(i, j int) bool { return nodes[i].ID < nodes[j].ID })
	return nodes
}

// Missing returns the known nodes that have no stream, sorted.
func (l *Ledger) Missing() []api.Missing {
	var out []api.Missing
	for _, n := range l.Status() {
		if !n.Connected {
			out = append(out, api.Missing{Node: n.ID, Since: n.Since})
		}
	}
	return out
}

// OnDeltaStreamOpen implements the delta callbacks.
func (l *Ledger) OnDeltaStreamOpen(ctx context.Context, stream int64, _ string) error {
	if p, ok := peer.FromContext(ctx); ok {
		if id, ok := svid.Peer(p.AuthInfo); ok {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.opened[id] >= maxStreams {
				return status.Errorf(codes.ResourceExhausted, "node %.64q has %d streams", id.Node, maxStreams)
			}
			l.peers[stream] = id
			l.opened[id]++
		}
	}
	return nil
}

// OnDeltaStreamClosed implements the delta callbacks.
func (l *Ledger) OnDeltaStreamClosed(stream int64, _ *corev3.Node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := l.streams[stream]
	delete(l.streams, stream)
	if peer, ok := l.peers[stream]; ok {
		delete(l.peers, stream)
		if l.opened[peer]--; l.opened[peer] == 0 {
			delete(l.opened, peer)
		}
	}
	if r := l.nodes[id]; r != nil && r.streams[stream] != nil {
		r.last = r.streams[stream]
		delete(r.streams, stream)
		if !r.connected() {
			r.since = time.Now().UTC()
			l.log.Info("node disconnected", "node", id)
		}
	}
	l.wake()
}

// OnStreamDeltaRequest implements the delta callbacks. It refuses unknown nodes, and books
// acknowledgements and refusals.
func (l *Ledger) OnStreamDeltaRequest(stream int64, req *discoveryv3.DeltaDiscoveryRequest) error {
	l.recognise(stream, req.GetNode().GetId())
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.wake()
	id, ok := l.streams[stream]
	if !ok {
		id = req.GetNode().GetId()
		if err := l.admit(stream, id); err != nil {
			l.strange(id, status.Convert(err).Message())
			return err
		}
		if !l.known[id] {
			l.log.Warn("refused unknown node", "node", fmt.Sprintf("%.64q", id))
			err := status.Errorf(codes.PermissionDenied, "node %.64q is not part of this stack", id)
			l.strange(id, status.Convert(err).Message())
			return err
		}
		delete(l.strangers, id)
		l.streams[stream] = id
		r := l.nodes[id]
		if r == nil || !r.connected() {
			r = &record{since: time.Now().UTC(), streams: map[int64]*streamRecord{}}
			l.nodes[id] = r
			l.log.Info("node connected", "node", id)
		} else {
			l.log.Warn("node has another stream: all of them count", "node", id, "streams", len(r.streams)+1)
		}
		r.streams[stream] = &streamRecord{types: map[string]*typeRecord{}}
	} else if !l.known[id] || (req.GetNode() != nil && req.GetNode().GetId() != id) {
		return status.Errorf(codes.PermissionDenied, "node %.64q is not part of this stack", id)
	}
	if req.GetTypeUrl() != resource.SecretType {
		// Every node has all resources of these types. Unsubscribing a name would remove it from
		// the versions that all nodes share.
		req.ResourceNamesUnsubscribe = slices.DeleteFunc(req.GetResourceNamesUnsubscribe(),
			func(name string) bool { return name != "*" })
	}
	r := l.nodes[id]
	if r == nil || r.streams[stream] == nil {
		return nil // it was removed, and added again, meanwhile: it has to connect again
	}
	if KindName(req.GetTypeUrl()) == KindOther {
		return status.Errorf(codes.InvalidArgument, "there is no resource type %.128q", req.GetTypeUrl())
	}
	t := r.streams[stream].typeRecord(req.GetTypeUrl())
	version, ok := t.outstanding[req.GetResponseNonce()]
	if !ok {
		if len(t.outstanding) >= maxOutstanding {
			return status.Errorf(codes.ResourceExhausted, "node %.64q keeps asking without an answer to what it "+
				"was sent", id)
		}
		return nil // a change of subscription
	}
	delete(t.outstanding, req.GetResponseNonce())
	now := time.Now()
	if detail := req.GetErrorDetail(); detail != nil {
		l.refused++
		message := cmp.Or(printable(detail.GetMessage()), "it gives no reason")
		t.nacked, t.nack = version, message
		r.lastNack, r.nack = now, message
		l.log.Error("node rejected resources", "node", id, "type", KindName(req.GetTypeUrl()), "version", version,
			"message", message)
		return nil
	}
	t.acked, t.ackedAt, t.nack, t.nacked = version, now, "", ""
	r.lastAck = now
	return nil
}

// OnStreamDeltaResponse implements the delta callbacks.
func (l *Ledger) OnStreamDeltaResponse(stream int64, _ *discoveryv3.DeltaDiscoveryRequest,
	resp *discoveryv3.DeltaDiscoveryResponse,
) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.nodes[l.streams[stream]]; r != nil && r.streams[stream] != nil {
		r.streams[stream].typeRecord(resp.GetTypeUrl()).outstanding[resp.GetNonce()] = resp.GetSystemVersionInfo()
	}
	l.wake()
}

func (s *streamRecord) typeRecord(url string) *typeRecord {
	t := s.types[url]
	if t == nil {
		t = &typeRecord{outstanding: map[string]string{}}
		s.types[url] = t
	}
	return t
}
