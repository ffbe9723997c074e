package xds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/postern/postern/envoy"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/api"
	"github.com/postern/postern/xds/bundle"
	"github.com/postern/postern/xds/secret"
)

// convergeTimeout bounds a roll-out: a node that has not acknowledged by then
// is not going to, and the version is taken back.
const convergeTimeout = 30 * time.Second

// rollBackTimeout bounds how long an answer waits for the roll-back.
const rollBackTimeout = 5 * time.Second

// Config is what a control plane depends on.
type Config struct {
	// Store is the URL of the bundle store.
	Store string
	// CACert and CAKey are PEM files.
	CACert, CAKey string
	// State is a private folder for what must survive a restart: the nodes
	// that are part of the stack, and the last version that converged.
	State string
	Envoy envoy.Options
	// Prepare, if set, is called before a plan is served to a node: on one
	// machine it makes the folders of the agents' sockets.
	Prepare func(node string, p *plan.Plan) error
	Log     *slog.Logger
}

// Control is the control plane of one stack. Its methods are safe for
// concurrent use.
type Control struct {
	cfg     Config
	ledger  *ledger
	cache   *cache
	secrets *secret.Store
	ca      *authority
	kick    chan struct{}

	// rollout is held by whoever changes what is served.
	rollout sync.Mutex

	mu       sync.Mutex
	live     *plan.Plan
	version  string
	wanted   string
	rejected *api.Rejection
	// expiry is when the next rule of live ends, or zero.
	expiry time.Time
	// leaves are the names that a certificate may be minted for: of the live
	// plan, and of the one that is being rolled out.
	leaves envoy.LeafHosts
}

// New returns a control plane that serves the last version that converged, if
// there was one. Run makes it read the store.
func New(cfg Config) (*Control, error) {
	ca, err := loadAuthority(cfg.CACert, cfg.CAKey)
	if err != nil {
		return nil, err
	}
	c := &Control{cfg: cfg, ledger: newLedger(cfg.Log), ca: ca, kick: make(chan struct{}, 1)}
	c.cache = newCache(c.ledger, c.leaf)
	c.secrets = secret.NewStore(func() {
		select {
		case c.kick <- struct{}{}:
		default:
		}
	})
	var nodes []string
	if err := readJSON(c.nodesFile(), &nodes); err != nil {
		return nil, err
	}
	for _, id := range nodes {
		c.ledger.allow(id, true)
	}
	return c, nil
}

// Run serves the last good version, tries what the store holds, and then keeps
// secrets and certificates fresh until ctx is done.
func (c *Control) Run(ctx context.Context) error {
	defer c.secrets.Close()
	var good *plan.Plan
	if err := readJSON(c.goodFile(), &good); err != nil {
		return err
	}
	if good != nil {
		if err := c.serve(ctx, good); err != nil {
			return err
		}
	}
	switch published, err := bundle.Read(ctx, c.cfg.Store); {
	case errors.Is(err, bundle.ErrNone):
	case err != nil:
		c.cfg.Log.Error("serving the last good version only", "error", err)
	case good == nil:
		if err := c.serve(ctx, published); err != nil {
			c.cfg.Log.Error("serving nothing", "error", err)
		}
	default:
		if v, err := published.Version(); err == nil && v != c.cache.current() {
			c.cfg.Log.Warn("the store holds a version that never converged; serving the last good one", "store", v, "serving", c.cache.current())
		}
	}
	renew := time.NewTicker(leafLifetime / 4)
	defer renew.Stop()
	// A timer would run by the monotonic clock; a lease ends by the wall's.
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-second.C:
			c.expire(ctx, now.Round(0))
		case <-c.kick:
			c.refresh(false)
		case <-renew.C:
			c.refresh(true)
		}
	}
}

// Register adds the aggregated discovery service to g.
func (c *Control) Register(ctx context.Context, g *grpc.Server) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, serverv3.NewServer(ctx, c.cache, serverv3.CallbackFuncs{
		DeltaStreamOpenFunc:     c.ledger.OnDeltaStreamOpen,
		DeltaStreamClosedFunc:   c.ledger.OnDeltaStreamClosed,
		StreamDeltaRequestFunc:  c.ledger.OnStreamDeltaRequest,
		StreamDeltaResponseFunc: c.ledger.OnStreamDeltaResponse,
	}))
}

// Sync rolls out what the store holds. See [api.Client.Sync].
func (c *Control) Sync(ctx context.Context) (*api.Converged, error) {
	c.rollout.Lock()
	defer c.rollout.Unlock()
	start := time.Now()
	p, err := bundle.Read(ctx, c.cfg.Store)
	if err != nil {
		return nil, err
	}
	version, err := p.Version()
	if err != nil {
		return nil, err
	}
	before := c.plan()
	resources, err := envoy.Build(p.At(start), c.cfg.Envoy)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, convergeTimeout)
	defer cancel()
	c.mu.Lock()
	c.wanted = version
	c.mu.Unlock()
	c.ledger.forgive(version)
	nodes, err := c.roll(ctx, p.At(start), version, resources)
	if err != nil {
		c.rollBack(context.WithoutCancel(ctx), before)
		var r *api.Rejection
		if errors.As(err, &r) {
			c.mu.Lock()
			c.rejected = r
			c.mu.Unlock()
			return nil, &api.Error{Message: err.Error() + "; the previous version stays live", Rejection: r}
		}
		return nil, fmt.Errorf("%w; the previous version stays live", err)
	}
	c.mu.Lock()
	c.live, c.version, c.rejected, c.expiry = p, version, nil, p.NextExpiry(start)
	c.mu.Unlock()
	if err := writeJSON(c.goodFile(), p); err != nil {
		return nil, err
	}
	took := time.Since(start)
	c.cfg.Log.Info("converged", "version", version, "nodes", nodes, "millis", took.Milliseconds())
	return &api.Converged{Version: version, Nodes: nodes, Millis: float64(took.Microseconds()) / 1000}, nil
}

// roll publishes p in two steps: first everything that is new or changed beside
// what is removed, then the removal, so that no node ever refers to what it
// does not have. It returns the number of nodes that acknowledged.
func (c *Control) roll(ctx context.Context, p *plan.Plan, version string, r *envoy.Resources) (int, error) {
	tables, err := c.tables(ctx, p, r)
	if err != nil {
		return 0, err
	}
	both, removes := map[string]*table{}, false
	c.cache.mu.Lock()
	for url, t := range tables {
		both[url] = t.with(c.cache.tables[url])
		removes = removes || len(both[url].resources) > len(t.resources)
	}
	c.cache.mu.Unlock()
	if removes {
		c.cache.publish(version, both)
		if _, err := c.converge(ctx, version); err != nil {
			return 0, err
		}
	}
	c.cache.publish(version, tables)
	c.mu.Lock()
	c.leaves = envoy.Leaves(p)
	c.mu.Unlock()
	return c.converge(ctx, version)
}

// rollBack serves before again, and gives the nodes a moment to take it.
func (c *Control) rollBack(ctx context.Context, before *plan.Plan) {
	if before == nil {
		before = &plan.Plan{}
	}
	ctx, cancel := context.WithTimeout(ctx, rollBackTimeout)
	defer cancel()
	err := c.serve(ctx, before)
	if err == nil {
		_, err = c.converge(ctx, c.cache.current())
	}
	if err != nil {
		c.cfg.Log.Error("roll back", "error", err)
	}
}

// serve publishes p at once and does not wait for acknowledgement. The empty
// plan serves nothing.
func (c *Control) serve(ctx context.Context, p *plan.Plan) error {
	version, err := p.Version()
	if err != nil {
		return err
	}
	now := time.Now()
	valid := p.At(now)
	r := &envoy.Resources{}
	if p.Stack != "" {
		if r, err = envoy.Build(valid, c.cfg.Envoy); err != nil {
			return err
		}
	}
	tables, err := c.tables(ctx, valid, r)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.leaves, c.expiry = envoy.Leaves(valid), p.NextExpiry(now)
	if c.live, c.version = p, version; p.Stack == "" {
		c.live, c.version = nil, ""
	}
	c.wanted = c.version
	c.mu.Unlock()
	c.cache.publish(version, tables)
	return nil
}

// tables packs the resources of p and the secrets they refer to. Leaf
// certificates that were minted already and are still allowed are kept.
func (c *Control) tables(ctx context.Context, p *plan.Plan, r *envoy.Resources) (map[string]*table, error) {
	if c.cfg.Prepare != nil {
		for _, n := range c.ledger.status() {
			if err := c.cfg.Prepare(n.ID, p); err != nil {
				return nil, err
			}
		}
	}
	if err := c.secrets.Watch(ctx, p.Credentials); err != nil {
		return nil, err
	}
	c.mu.Lock()
	// The names of both plans, until one of them is live.
	c.leaves = c.leaves.Or(envoy.Leaves(p))
	c.mu.Unlock()
	tables := map[string]*table{}
	for _, k := range kinds {
		tables[k.url] = newTable()
	}
	var errs []error
	for _, m := range r.Clusters {
		m, err := c.secrets.Sign(m)
		if err != nil {
			return nil, err
		}
		errs = append(errs, tables[resource.ClusterType].add(m.GetName(), m))
	}
	for _, m := range r.Scopes {
		errs = append(errs, tables[resource.ScopedRouteType].add(m.GetName(), m))
	}
	for _, m := range r.Listeners {
		errs = append(errs, tables[resource.ListenerType].add(m.GetName(), m))
	}
	errs = append(errs, c.addSecrets(tables[resource.SecretType], p, true))
	return tables, errors.Join(errs...)
}

// addSecrets adds the credentials of p, and the leaves that exist already: the
// same if keep is set, otherwise minted anew.
func (c *Control) addSecrets(t *table, p *plan.Plan, keep bool) error {
	for _, cred := range p.Credentials {
		name := envoy.SecretName(cred.Name)
		if err := t.add(name, c.secrets.Envoy(cred.Name, name)); err != nil {
			return err
		}
	}
	c.cache.mu.Lock()
	defer c.cache.mu.Unlock()
	leaves := envoy.Leaves(p)
	for name, old := range c.cache.tables[resource.SecretType].resources {
		switch {
		case !leaves.Allow(name):
		case keep:
			t.resources[name], t.versions[name] = old, old.Version
		default:
			if m := c.leaf(name); m != nil {
				if err := t.add(name, m); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// refresh publishes the live plan's secrets again: some have changed, or, if
// renew is set, the leaf certificates are due.
func (c *Control) refresh(renew bool) {
	c.rollout.Lock()
	defer c.rollout.Unlock()
	p := c.plan()
	if p == nil {
		return
	}
	t := newTable()
	if err := c.addSecrets(t, p, !renew); err != nil {
		c.cfg.Log.Error("refresh secrets", "error", err)
		return
	}
	tables := map[string]*table{resource.SecretType: t}
	switch signed, err := c.resign(p); {
	case err != nil:
		c.cfg.Log.Error("refresh secrets", "error", err)
		return
	case signed != nil:
		tables[resource.ClusterType] = signed
	}
	c.cache.publish(c.cache.current(), tables)
}

// expire serves the live plan again if one of its rules has ended.
func (c *Control) expire(ctx context.Context, now time.Time) {
	c.mu.Lock()
	due := !c.expiry.IsZero() && !now.Before(c.expiry)
	c.mu.Unlock()
	if !due {
		return
	}
	c.rollout.Lock()
	defer c.rollout.Unlock()
	if p := c.plan(); p != nil {
		if err := c.serve(ctx, p); err != nil {
			c.cfg.Log.Error("end leases", "error", err)
			return
		}
		c.cfg.Log.Info("a lease has ended", "version", c.cache.current())
	}
}

// leaf mints the certificate for a server name if the plan allows that host.
func (c *Control) leaf(name string) proto.Message {
	c.mu.Lock()
	allowed := c.leaves.Allow(name)
	c.mu.Unlock()
	if !allowed {
		return nil
	}
	s, err := c.ca.mint(name, time.Now())
	if err != nil {
		c.cfg.Log.Error("mint leaf certificate", "error", err)
		return nil
	}
	return s
}

// converge waits until every connected node has acknowledged all of version,
// and returns how many those are.
func (c *Control) converge(ctx context.Context, version string) (int, error) {
	for {
		changed := c.ledger.next()
		if r := c.ledger.rejection(version); r != nil {
			return 0, r
		}
		nodes, behind := c.ledger.connected(), ""
		for _, id := range nodes {
			if !c.converged(id) {
				behind = id
				break
			}
		}
		if behind == "" {
			return len(nodes), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, fmt.Errorf("node %s did not acknowledge version %s: %w", behind, version, ctx.Err())
		}
	}
}

// converged reports whether the node has acknowledged everything that is
// published. A type that it never asked for counts only if nothing can refer
// to it: secrets.
func (c *Control) converged(node string) bool {
	for _, k := range kinds {
		asked := c.ledger.asked(node, k.url)
		if !asked && (k.url == resource.SecretType || c.cache.empty(resource.ListenerType) && k.url == resource.ScopedRouteType) {
			continue
		}
		if !c.cache.parked(node, k.url) || !c.ledger.settled(node, k.url) {
			return false
		}
	}
	return true
}

// Status returns the state of the fleet.
func (c *Control) Status() *api.Status {
	c.mu.Lock()
	s := &api.Status{Version: c.version, Wanted: c.wanted, Rejected: c.rejected, PID: os.Getpid()}
	p := c.live
	c.mu.Unlock()
	s.Nodes = c.ledger.status()
	for i := range s.Nodes {
		if n := &s.Nodes[i]; n.Connected && c.converged(n.ID) {
			n.Version = s.Version
		}
	}
	if p == nil {
		return s
	}
	s.Stack = p.Stack
	problems := map[string]secret.Problem{}
	for _, pr := range c.secrets.Problems() {
		problems[pr.Credential] = pr
	}
	for _, cred := range p.Credentials {
		pr := problems[cred.Name]
		s.Credentials = append(s.Credentials, api.Credential{Name: cred.Name, OK: pr.Text == "" || pr.Working, Problem: pr.Text})
	}
	return s
}

// AddNode accepts the node from now on, also after a restart.
func (c *Control) AddNode(id string) error {
	c.rollout.Lock()
	defer c.rollout.Unlock()
	if p := c.plan(); p != nil && c.cfg.Prepare != nil {
		if err := c.cfg.Prepare(id, p); err != nil {
			return err
		}
	}
	c.ledger.allow(id, true)
	return c.saveNodes()
}

// RemoveNode refuses the node from now on.
func (c *Control) RemoveNode(id string) error {
	c.rollout.Lock()
	defer c.rollout.Unlock()
	c.ledger.allow(id, false)
	return c.saveNodes()
}

func (c *Control) saveNodes() error {
	ids := []string{}
	for _, n := range c.ledger.status() {
		ids = append(ids, n.ID)
	}
	sort.Strings(ids)
	return writeJSON(c.nodesFile(), ids)
}

func (c *Control) plan() *plan.Plan {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.live
}

func (c *Control) nodesFile() string { return filepath.Join(c.cfg.State, "nodes.json") }
func (c *Control) goodFile() string  { return filepath.Join(c.cfg.State, "good.json") }

// readJSON decodes the file into v, and leaves v alone if there is no file.
func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read control plane state: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode %s: %w", path, err)
	}
	return nil
}

// writeJSON replaces the file whole, or not at all.
func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("write control plane state: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write control plane state: %w", err)
	}
	return nil
}
