// Package cache holds the Envoy resources that are published, knows which of them each node was
// sent, and sends each node the difference over its delta ADS stream.
package cache

import (
	"context"
	"errors"
	"slices"
	"sync"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/postern/postern/xds/ledger"
	"github.com/postern/postern/xds/mint"
)

// maxSecrets bounds the secrets of a plan, leaf certificates included.
const maxSecrets = 20000

// Cache answers delta watches: it implements go-control-plane's Cache. The library's own caches do
// not answer for a name that does not exist, so a TLS handshake that waits for such a certificate
// would hang. They also scan every subscription again for each request, and do not say whether a
// node has everything. A Cache is safe for concurrent use.
type Cache struct {
	ledger *ledger.Ledger
	mint   *mint.Mint

	mu sync.Mutex
	// begun is set once something was published to all nodes. Until then no node loses a resource
	// that an earlier control plane sent.
	begun bool
	published
	// canary is the node to which next is served instead, or "".
	canary string
	next   published
	// watches are the newest watch of each stream and type.
	watches map[watchKey]*watch
	// waiting counts the parked watches by node and type.
	waiting map[nodeType]int
}

type nodeType struct{ node, url string }

// park keeps the watch until there is news for it.
func (c *Cache) park(key watchKey, w *watch) {
	c.drop(key)
	c.watches[key] = w
	c.waiting[nodeType{key.node, key.url}]++
}

// unpark records that the watch was answered from t.
func (c *Cache) unpark(key watchKey, t *Table) {
	c.watches[key].sent = t
	of := nodeType{key.node, key.url}
	if c.waiting[of]--; c.waiting[of] == 0 {
		delete(c.waiting, of)
	}
}

// drop forgets the watch, if there is one.
func (c *Cache) drop(key watchKey) {
	if w := c.watches[key]; w != nil && w.sent == nil {
		c.unpark(key, nil)
	}
	delete(c.watches, key)
}

// published is one version of everything.
type published struct {
	version string
	tables  map[string]*Table
}

// watchKey is one stream's subscription to a type. A node may have several streams. Each has a
// channel of its own and is served: otherwise a second stream would silence the first.
type watchKey struct {
	node, url string
	stream    chan cachev3.DeltaResponse
}

type watch struct {
	request *cachev3.DeltaRequest
	sub     cachev3.Subscription
	respond chan cachev3.DeltaResponse
	// looked is set once the request was looked at: what it asked for by name was sent or refused.
	looked bool
	// sent is the table from which the watch was answered, or nil while the watch is parked.
	sent *Table
}

// New returns an empty cache for the nodes of l.
func New(l *ledger.Ledger, m *mint.Mint) *Cache {
	c := &Cache{
		ledger: l, mint: m, published: published{tables: map[string]*Table{}}, watches: map[watchKey]*watch{},
		waiting: map[nodeType]int{},
	}
	for _, k := range ledger.Kinds {
		c.tables[k.URL] = NewTable()
	}
	return c
}

// Publish replaces the given tables for every node. It sends each node what is new to it, in the
// order of kinds: the responses of one stream keep their order. It completes what PublishTo began.
func (c *Cache) Publish(version string, tables map[string]*Table) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun = true
	c.published, c.canary, c.next = c.replace(version, tables), "", published{}
	c.send("")
}

// PublishTo is Publish for one node. The other nodes are still served the previous tables.
func (c *Cache) PublishTo(node, version string, tables map[string]*Table) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.canary, c.next = node, c.replace(version, tables)
	c.send(node)
}

// replace returns the published tables with the given ones in their place. Leaf certificates that
// were minted meanwhile stay, if they still may exist.
func (c *Cache) replace(version string, tables map[string]*Table) published {
	p := published{version: version, tables: map[string]*Table{}}
	for _, k := range ledger.Kinds {
		t, ok := tables[k.URL]
		if !ok {
			p.tables[k.URL] = c.tables[k.URL]
			continue
		}
		if k.URL == resource.SecretType {
			for _, old := range []*Table{c.tables[k.URL], c.next.tables[k.URL]} {
				t = t.withLeaves(old, c.mint.Allows)
			}
		}
		p.tables[k.URL] = t
	}
	return p
}

// send answers the parked watches of one node, or of all if it is "".
func (c *Cache) send(node string) {
	for _, k := range ledger.Kinds {
		for key, w := range c.watches {
			if key.url == k.URL && (node == "" || key.node == node) && c.ledger.Member(key.node) {
				c.answer(key, w)
			}
		}
	}
	c.ledger.Notify()
}

// answer answers the watch if it is parked, there is news for it, and its turn has come.
func (c *Cache) answer(key watchKey, w *watch) {
	// Until the first publication, a node keeps what it has.
	held := !c.begun && c.canary != key.node && len(w.sub.ReturnedResources()) > 0
	if w.sent != nil || held || c.early(key, w) {
		return
	}
	t, fresh := c.of(key.node).tables[key.url], !w.looked
	var asked []string
	if fresh {
		asked = w.request.GetResourceNamesSubscribe()
	}
	w.looked = true
	resp := c.diff(w, asked)
	// The first answer is due even if it is empty, because Envoy waits for it. A node that comes
	// back with every resource gets an answer, too: from then on its versions are in the map that
	// all nodes share.
	if resp == nil && fresh && w.request.GetResponseNonce() == "" && w.sub.IsWildcard() {
		next := map[string]string{}
		if key.url != resource.SecretType {
			next = t.versions
		}
		resp = c.response(w, nil, next)
	}
	if resp != nil {
		c.unpark(key, t)
		w.respond <- resp
	}
}

// early reports whether the watch's turn has not come: its stream has yet to be sent something that
// resources of the watch's type may refer to, or would ignore the answer. A type whose last answer
// was not acknowledged has no parked watch. What was published since then can only be sent after
// the acknowledgement, and a node that is sent scopes before their clusters rejects the scopes.
func (c *Cache) early(key watchKey, w *watch) bool {
	of := func(url string) *watch { return c.watches[watchKey{key.node, url, key.stream}] }
	tables := c.of(key.node).tables
	for _, k := range ledger.Kinds {
		if k.URL == key.url {
			break
		}
		// A secret that is late makes what refers to it wait in the node.
		before := of(k.URL)
		if k.URL != resource.SecretType && before != nil && before.sent != nil && before.sent != tables[k.URL] {
			return true
		}
	}
	// Without a listener, an Envoy ignores scopes. It says neither that it has lost its scopes with
	// its last listener, nor that it needs scopes again: only its first request for scopes does.
	first := !w.looked && w.request.GetResponseNonce() == ""
	listeners := of(resource.ListenerType)
	return key.url == resource.ScopedRouteType && !first && len(tables[key.url].versions) > 0 && listeners != nil &&
		(len(listeners.sub.ReturnedResources()) == 0 || listeners.sent != nil && len(listeners.sent.versions) == 0)
}

// of returns what the node is served.
func (c *Cache) of(node string) published {
	if c.canary != "" && c.canary == node {
		return c.next
	}
	return c.published
}

// Table returns the published table of a type. The cache itself changes only secrets; use
// [Cache.Len] and [Cache.Leaves] for these.
func (c *Cache) Table(url string) *Table {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tables[url]
}

// Union returns tables together with everything else that is published, or nil if that adds
// nothing.
func (c *Cache) Union(tables map[string]*Table) map[string]*Table {
	c.mu.Lock()
	defer c.mu.Unlock()
	more := false
	for url, t := range tables {
		more = more || url != resource.SecretType && t.lacks(c.tables[url])
	}
	if !more {
		return nil
	}
	both := map[string]*Table{}
	for url, t := range tables {
		both[url] = t.with(c.tables[url])
	}
	return both
}

// Leaves returns the names of the minted leaf certificates.
func (c *Cache) Leaves() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(c.tables[resource.SecretType].leaves())
}

// CreateDeltaWatch implements [cachev3.ConfigWatcher].
func (c *Cache) CreateDeltaWatch(req *cachev3.DeltaRequest, sub cachev3.Subscription,
	respond chan cachev3.DeltaResponse,
) (func(), error) {
	w := &watch{request: req, sub: sub, respond: respond}
	key := watchKey{req.GetNode().GetId(), req.GetTypeUrl(), respond}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tables[key.url] == nil {
		return nil, errors.New("unknown resource type " + key.url)
	}
	c.park(key, w)
	for _, k := range ledger.Kinds {
		of := watchKey{key.node, k.URL, respond}
		// The other types may have waited for this one. No secret waits.
		if w := c.watches[of]; w != nil && (of == key || k.URL != resource.SecretType) {
			c.answer(of, w)
		}
	}
	if w.sent == nil {
		c.ledger.Notify()
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.watches[key] == w {
			c.drop(key)
		}
	}, nil
}

// diff returns what the watch's node does not have yet, or nil. Names that the node just asked for
// and that do not exist are answered as removed.
func (c *Cache) diff(w *watch, asked []string) cachev3.DeltaResponse {
	t, known := c.of(w.request.GetNode().GetId()).tables[w.request.GetTypeUrl()], w.sub.ReturnedResources()
	// No node gets all secrets, whatever name made Envoy ask for them.
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
			r = c.leaf(t, w.request.GetTypeUrl(), name)
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

// leaf adds the leaf certificate for name to the secrets, if it may exist.
func (c *Cache) leaf(t *Table, url, name string) *discoveryv3.Resource {
	// An agent can make up names below a wildcard: their number is bounded.
	if url != resource.SecretType || len(t.resources) >= maxSecrets {
		return nil
	}
	m := c.mint.Leaf(name, t.leaves())
	if m == nil || t.Add(name, m) != nil {
		return nil
	}
	return t.resources[name]
}

// response returns a response to the watch. body has the resources and removals in wire form, and
// is sent as an unknown field: see [ServerOption].
func (c *Cache) response(w *watch, body []byte, next map[string]string) cachev3.DeltaResponse {
	r := &discoveryv3.DeltaDiscoveryResponse{
		TypeUrl: w.request.GetTypeUrl(), SystemVersionInfo: c.of(w.request.GetNode().GetId()).version,
	}
	r.ProtoReflect().SetUnknown(body)
	return &cachev3.DeltaPassthroughResponse{DeltaRequest: w.request, DeltaDiscoveryResponse: r, NextVersionMap: next}
}

// parked returns the number of the node's streams that wait for news of the type. These have been
// sent all of the published version, if that is so of every earlier type and of listeners.
func (c *Cache) parked(node, url string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting[nodeType{node, url}]
}

// Current returns the version that is published.
func (c *Cache) Current() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version
}

// Len returns how many resources of the type there are.
func (c *Cache) Len(url string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.tables[url].resources)
}

// CreateWatch implements [cachev3.ConfigWatcher]: only delta is spoken.
func (c *Cache) CreateWatch(*cachev3.Request, cachev3.Subscription, chan cachev3.Response) (func(), error) {
	return nil, errors.New("the control plane speaks delta xDS only")
}

// Fetch implements [cachev3.ConfigFetcher]: only streams are served.
func (c *Cache) Fetch(context.Context, *cachev3.Request) (cachev3.Response, error) {
	return nil, errors.New("the control plane serves streams only")
}
