// Package xds is the embedded control plane: it serves the Envoy resources of
// the published plan to every node of the fleet over one delta ADS stream
// each, knows what every node has acknowledged, and takes a version back if a
// node refuses it.
package xds

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// kinds are the resource types served, in the order in which they are
// published: what is referred to before what refers to it.
var kinds = []kind{
	{"secrets", resource.SecretType},
	{"clusters", resource.ClusterType},
	{"scopes", resource.ScopedRouteType},
	{"listeners", resource.ListenerType},
}

// maxSecrets bounds the secrets of a plan, leaf certificates included.
const maxSecrets = 20000

// kind is a resource type: its name for people and its type URL.
type kind struct{ name, url string }

// table holds the resources of one type by name. A published table is never
// changed, so that every node can share it; but leaf certificates are added.
type table struct {
	resources map[string]*discoveryv3.Resource
	versions  map[string]string
	// packed are the resources in the order of [envoy.Memo], or nil if they are
	// not known to be just these.
	packed []*discoveryv3.Resource
	// deltas are the ways here that were asked for: see deltaFrom.
	deltas map[uintptr]*delta
}

func newTable() *table {
	return &table{resources: map[string]*discoveryv3.Resource{}, versions: map[string]string{}, deltas: map[uintptr]*delta{}}
}

// tableOf holds what is packed already. What was in the table before is copied
// at once, and how to come here from there is known then.
func tableOf(packed []*discoveryv3.Resource, before *table) *table {
	gone, come := between(before.packed, packed, func(a, b **discoveryv3.Resource) bool { return *a == *b })
	if len(gone)+len(come) > len(packed)/4 {
		t := &table{resources: make(map[string]*discoveryv3.Resource, len(packed)), versions: make(map[string]string, len(packed)), deltas: map[uintptr]*delta{}}
		for _, r := range packed {
			t.put(r)
		}
		t.packed = packed
		return t
	}
	t := &table{resources: maps.Clone(before.resources), versions: maps.Clone(before.versions), deltas: map[uintptr]*delta{}}
	for _, r := range gone {
		delete(t.resources, r.GetName())
		delete(t.versions, r.GetName())
	}
	var send []*discoveryv3.Resource
	for _, r := range come {
		t.put(r)
		if before.versions[r.GetName()] != r.GetVersion() {
			send = append(send, r)
		}
	}
	var removed []string
	for _, r := range gone {
		if t.resources[r.GetName()] == nil {
			removed = append(removed, r.GetName())
		}
	}
	t.packed = packed
	t.deltas[address(before.versions)] = newDelta(before.versions, send, removed)
	return t
}

func (t *table) put(r *discoveryv3.Resource) {
	t.resources[r.GetName()], t.versions[r.GetName()] = r, r.GetVersion()
	if t.packed = nil; len(t.deltas) > 0 {
		clear(t.deltas)
	}
}

// add packs m under name; its version is the hash of its bytes.
func (t *table) add(name string, m proto.Message) error { return t.addSalted(name, m, nil) }

// addSalted is add for a secret: its version can be seen where its bytes cannot,
// and without the salt a weak one could be guessed from it.
func (t *table) addSalted(name string, m proto.Message, salt []byte) error {
	packed := &anypb.Any{}
	if err := anypb.MarshalFrom(packed, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return err
	}
	h := hmac.New(sha256.New, salt)
	h.Write(packed.Value)
	version := hex.EncodeToString(h.Sum(nil)[:8])
	t.put(&discoveryv3.Resource{Name: name, Version: version, Resource: packed})
	return nil
}

// with returns a table that holds t's resources too, where it has none itself.
func (t *table) with(old *table) *table {
	u := &table{resources: maps.Clone(t.resources), versions: maps.Clone(t.versions), deltas: map[uintptr]*delta{}}
	for name, r := range old.resources {
		if u.resources[name] == nil {
			u.put(r)
		}
	}
	return u
}

// lacks reports whether old has a resource that t does not have.
func (t *table) lacks(old *table) bool {
	return len(old.resources) > 0 && t.deltaFrom(old.versions).removes
}

// withLeaves returns t with the leaf certificates of old that may be kept.
func (t *table) withLeaves(old *table, keep func(string) bool) *table {
	if old == nil {
		return t
	}
	u := t.with(newTable())
	for name, r := range old.resources {
		if u.resources[name] == nil && isLeaf(name) && keep(name) {
			u.put(r)
		}
	}
	return u
}

// cache answers delta watches. It is a go-control-plane Cache of our own,
// because the library's answer nothing for a name that does not exist (a TLS
// handshake that waits for such a certificate would hang), rescan every
// subscription for each request, and do not say whether a node has everything.
type cache struct {
	ledger *ledger
	// leaf returns the certificate for a server name, or nil to refuse it;
	// keep reports whether one that was minted may stay.
	leaf    func(name string) proto.Message
	keep    func(name string) bool
	budgets *budgets

	mu sync.Mutex
	// begun is whether anything was published to all. Until then nobody loses
	// anything of what an earlier control plane has given.
	begun bool
	published
	// canary is the node that is served next instead, or "".
	canary string
	next   published
	// watches are the parked ones: their nodes have been sent all there is.
	watches map[watchKey]*watch
	// waiting counts watches by node and type.
	waiting map[nodeType]int
}

type nodeType struct{ node, url string }

// park keeps the watch until there is news for it.
func (c *cache) park(key watchKey, w *watch) {
	c.unpark(key)
	c.watches[key] = w
	c.waiting[nodeType{key.node, key.url}]++
}

func (c *cache) unpark(key watchKey) {
	if c.watches[key] == nil {
		return
	}
	delete(c.watches, key)
	of := nodeType{key.node, key.url}
	if c.waiting[of]--; c.waiting[of] == 0 {
		delete(c.waiting, of)
	}
}

// published is one version of everything.
type published struct {
	version string
	tables  map[string]*table
}

// watchKey is one stream's subscription to a type. A node may have several streams:
// each has a channel of its own, and is served, or else a second one would
// silence the first.
type watchKey struct {
	node, url string
	stream    chan cachev3.DeltaResponse
}

type watch struct {
	request *cachev3.DeltaRequest
	sub     cachev3.Subscription
	respond chan cachev3.DeltaResponse
}

func newCache(l *ledger, leaf func(string) proto.Message, keep func(string) bool) *cache {
	c := &cache{ledger: l, leaf: leaf, keep: keep, published: published{tables: map[string]*table{}}, watches: map[watchKey]*watch{}, waiting: map[nodeType]int{}}
	for _, k := range kinds {
		c.tables[k.url] = newTable()
	}
	return c
}

// publish replaces the tables that are given, for every node, and sends each
// what is new to it, in the order of kinds: responses of one stream keep their
// order. It ends what publishTo began.
func (c *cache) publish(version string, tables map[string]*table) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun = true
	c.published, c.canary, c.next = c.replace(version, tables), "", published{}
	c.send("")
}

// publishTo is publish for one node. The others are served what they were.
func (c *cache) publishTo(node, version string, tables map[string]*table) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.canary, c.next = node, c.replace(version, tables)
	c.send(node)
}

// replace returns what is published with tables in it. Leaf certificates that
// were minted meanwhile stay, if they still may exist.
func (c *cache) replace(version string, tables map[string]*table) published {
	p := published{version: version, tables: map[string]*table{}}
	for _, k := range kinds {
		t, ok := tables[k.url]
		if !ok {
			p.tables[k.url] = c.tables[k.url]
			continue
		}
		if k.url == resource.SecretType {
			for _, old := range []*table{c.tables[k.url], c.next.tables[k.url]} {
				t = t.withLeaves(old, c.keep)
			}
		}
		p.tables[k.url] = t
	}
	return p
}

// send answers the parked watches of one node, or of all if it is "".
func (c *cache) send(node string) {
	for _, k := range kinds {
		for key, w := range c.watches {
			if key.url != k.url || node != "" && key.node != node || !c.ledger.member(key.node) {
				continue
			}
			if resp := c.diff(w, nil); resp != nil {
				c.unpark(key)
				w.respond <- resp
			}
		}
	}
	c.ledger.notify()
}

// of returns what the node is served.
func (c *cache) of(node string) published {
	if c.canary != "" && c.canary == node {
		return c.next
	}
	return c.published
}

// table returns what is published of a type.
func (c *cache) table(url string) *table {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tables[url]
}

// union returns tables with everything that is published beside, or nil if
// that is no more.
func (c *cache) union(tables map[string]*table) map[string]*table {
	c.mu.Lock()
	defer c.mu.Unlock()
	more := false
	for url, t := range tables {
		more = more || url != resource.SecretType && t.lacks(c.tables[url])
	}
	if !more {
		return nil
	}
	both := map[string]*table{}
	for url, t := range tables {
		both[url] = t.with(c.tables[url])
	}
	return both
}

// leaves are the names of the certificates that were minted.
func (c *cache) leaves() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for name := range c.tables[resource.SecretType].resources {
		if isLeaf(name) {
			names = append(names, name)
		}
	}
	return names
}

// isLeaf tells a server name from a credential's secret: envoy.SecretName.
func isLeaf(name string) bool { return !strings.Contains(name, "\x00") }

// CreateDeltaWatch implements [cachev3.ConfigWatcher].
func (c *cache) CreateDeltaWatch(req *cachev3.DeltaRequest, sub cachev3.Subscription, respond chan cachev3.DeltaResponse) (func(), error) {
	w := &watch{request: req, sub: sub, respond: respond}
	key := watchKey{req.GetNode().GetId(), req.GetTypeUrl(), respond}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tables[key.url] == nil {
		return nil, errors.New("unknown resource type " + key.url)
	}
	// A first answer is due even if it is empty: Envoy waits for it. A node that
	// comes back with all there is gets one too: what it has is then a map that
	// all nodes share.
	first := req.GetResponseNonce() == "" && sub.IsWildcard()
	// Before anything is published, what a node has is not ours to take.
	held := !c.begun && c.canary != key.node && len(sub.ReturnedResources()) > 0
	var resp cachev3.DeltaResponse
	if !held {
		resp = c.diff(w, req.GetResourceNamesSubscribe())
	}
	if resp == nil && first && !held {
		next := map[string]string{}
		if key.url != resource.SecretType {
			next = c.of(key.node).tables[key.url].versions
		}
		resp = c.response(w, nil, next)
	}
	if resp != nil {
		c.unpark(key)
		respond <- resp
		return nil, nil
	}
	c.park(key, w)
	c.ledger.notify()
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.watches[key] == w {
			c.unpark(key)
		}
	}, nil
}

// diff returns what the watch's node does not have yet, or nil. Names that
// were just asked for and do not exist are answered as removed.
func (c *cache) diff(w *watch, asked []string) cachev3.DeltaResponse {
	t, known := c.of(w.request.GetNode().GetId()).tables[w.request.GetTypeUrl()], w.sub.ReturnedResources()
	// Nobody gets all secrets, whatever the name is that made Envoy ask for them.
	if w.sub.IsWildcard() && w.request.GetTypeUrl() != resource.SecretType {
		d := t.deltaFrom(known)
		if d.empty() {
			return nil
		}
		return c.response(w, d.body, t.versions)
	}
	var send []*discoveryv3.Resource
	var removed []string
	next := map[string]string{}
	for name := range w.sub.SubscribedResources() {
		r := t.resources[name]
		if r == nil {
			r = c.mint(t, w.request.GetTypeUrl(), name)
		}
		had, ok := known[name]
		switch {
		case r != nil:
			next[name] = r.Version
			if had != r.Version {
				send = append(send, r)
			}
		case ok || slices.Contains(asked, name):
			removed = append(removed, name)
		}
	}
	if len(send)+len(removed) == 0 {
		return nil
	}
	return c.response(w, encode(send, removed), next)
}

// mint adds the leaf certificate for name to the secrets, if it may exist.
func (c *cache) mint(t *table, url, name string) *discoveryv3.Resource {
	if url != resource.SecretType {
		return nil
	}
	// Below a wildcard an agent can make up names; what it can make us keep is
	// bounded. It then has to wait for the next version.
	if len(t.resources) >= maxSecrets || !c.budgets.allow(t, name) {
		return nil
	}
	m := c.leaf(name)
	if m == nil || t.add(name, m) != nil {
		return nil
	}
	c.budgets.spend(name)
	return t.resources[name]
}

// response is one to the watch, with resources and removals in wire form. That
// is a field that nobody knows until it has arrived: see [ServerOption].
func (c *cache) response(w *watch, body []byte, next map[string]string) cachev3.DeltaResponse {
	r := &discoveryv3.DeltaDiscoveryResponse{
		TypeUrl: w.request.GetTypeUrl(), SystemVersionInfo: c.of(w.request.GetNode().GetId()).version,
	}
	r.ProtoReflect().SetUnknown(body)
	return &cachev3.DeltaPassthroughResponse{DeltaRequest: w.request, DeltaDiscoveryResponse: r, NextVersionMap: next}
}

// parked is how many streams of the node wait for news of the type, and so have
// been sent all of the published version.
func (c *cache) parked(node, url string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting[nodeType{node, url}]
}

// current returns the version that is published.
func (c *cache) current() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version
}

// empty reports whether there is no resource of the type.
func (c *cache) empty(url string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.tables[url].resources) == 0
}

// CreateWatch implements [cachev3.ConfigWatcher]: only delta is spoken.
func (c *cache) CreateWatch(*cachev3.Request, cachev3.Subscription, chan cachev3.Response) (func(), error) {
	return nil, errors.New("the control plane speaks delta xDS only")
}

// Fetch implements [cachev3.ConfigFetcher]: only streams are served.
func (c *cache) Fetch(context.Context, *cachev3.Request) (cachev3.Response, error) {
	return nil, errors.New("the control plane serves streams only")
}
