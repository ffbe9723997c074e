// Package xds is the embedded control plane: it serves the Envoy resources of
// the published plan to every node of the fleet over one delta ADS stream
// each, knows what every node has acknowledged, and takes a version back if a
// node refuses it.
package xds

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/envoy"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/svid"
	"github.com/postern/postern/xds/api"
	"github.com/postern/postern/xds/cache"
	"github.com/postern/postern/xds/lease"
	"github.com/postern/postern/xds/ledger"
	"github.com/postern/postern/xds/mint"
	"github.com/postern/postern/xds/secret"
	"github.com/postern/postern/xds/state"
)

// Config is the configuration of a control plane.
type Config struct {
	// Store is the URL of the bundle store, Stack whose publications are taken
	// from it, and Trusted the file of the operators' public keys: what none of
	// them has signed is not served. See [bundle.Store].
	Store, Stack, Trusted string
	// Replica is the name of this control plane among the replicas of its stack: letters, digits
	// and dashes. It is "" if there is no other.
	Replica string
	// CACert and CAKey are places of PEM, for [svid.Read].
	CACert, CAKey string
	// State is a private folder for what must survive a restart: the nodes
	// that are part of the stack, and the last version that converged.
	State string
	// Fleet is the port for nodes on other machines, or nil. Its nodes need no
	// AddNode: their certificate makes them part of the stack.
	Fleet *svid.Server
	Envoy envoy.Options
	// Local, if set, reports whether a node's supervisor runs on this machine, as a
	// process of this user. Such a node is part of the stack even when the list of
	// nodes was lost; [Control.RemoveNode] still takes it off.
	Local func(node string) bool
	// Prepare, if set, is called before a plan is served to a node: on one
	// machine it makes the folders of the agents' sockets.
	Prepare func(node string, p *plan.Plan) error
	// Probe, if set, reports whether a node that has acknowledged a plan
	// really serves it. A publication that makes it fail is taken back.
	Probe func(ctx context.Context, node string, p *plan.Plan) error
	// Event, if set, takes what happens to the policy, one call at a time. It
	// writes an event with an ID once, however often it is told.
	Event func(Event) error
	// Tracer, if set, takes the spans of roll-outs.
	Tracer trace.Tracer
	// Agents is the list of agents' working directories on this machine: no secret and no helper is
	// taken from there. Without it no secret of a file, and no helper, is taken at all.
	Agents hostpath.Registry
	// Now is the wall clock, [time.Now] if nil.
	Now func() time.Time
	Log *slog.Logger
}

// Control is the control plane of one stack. Its methods are safe for
// concurrent use.
type Control struct {
	cfg     Config
	ledger  *ledger.Ledger
	mint    *mint.Mint
	cache   *cache.Cache
	meter   *meter
	observe *observer
	leases  *lease.Leases
	files   *state.Folder
	store   *bundle.Store
	secrets *secret.Store
	ports   ports
	// root is the authority that agents trust. key is its key.
	root *x509.Certificate
	key  crypto.Signer
	kick chan struct{}
	// owes makes pay work at once.
	owes chan struct{}
	// nudge makes follow look at once.
	nudge chan struct{}
	// salt keeps the versions of secrets from revealing anything of them.
	salt []byte

	// rollout is held while changing what is served. Until Run has served the last good
	// publication, nobody else may hold it.
	rollout sync.Mutex
	// memo is guarded by rollout.
	memo envoy.Memo
	// tookBack sets an agent's generation apart from the generations that were rolled back here. It
	// is guarded by rollout. Other replicas, and this one after a restart, do not know it: if a
	// node comes to them, that agent's connections are cut once more.
	tookBack map[string]string
	// inUse is what tellCredentials recorded last, by credential.
	inUse map[string]use

	mu       sync.Mutex
	live     *bundle.Bundle
	version  string
	wanted   string
	underWay underWay
	// urgent is the number of a proven publication that waits for rollout, or 0.
	urgent   uint64
	rejected *api.Rejection
	follower follower
	owed     owed
	// probes are the results of the last probe of each node.
	probes map[string]probeResult
	// damaged names the state files that could not be read at the start, and says what that means.
	// It is "" if it means nothing.
	damaged string
	// caProblem is the reason why the CA's key could not be used when it was due, or "".
	caProblem string
	// reporter signs a replica's reports. It is nil for the only replica.
	reporter *bundle.Reporter
	// rolling is the time at which the roll-out in progress began, or zero.
	rolling time.Time
	// expiry is the time at which the next rule of live ends, or zero.
	expiry time.Time
}

// New returns a control plane that serves the last version that converged, if
// there was one. Run makes it read the store.
func New(cfg Config) (*Control, error) {
	if cfg.Stack == "" || cfg.Trusted == "" {
		return nil, errors.New("start the control plane: its stack, or the keys whose signatures count, are missing")
	}
	if cfg.Replica != "" && !svid.IsName(cfg.Replica) {
		return nil, fmt.Errorf("start the control plane: %q is not a valid replica name: use letters, digits and dashes", cfg.Replica)
	}
	root, key, err := mint.Load(cfg.CACert, cfg.CAKey)
	if err != nil {
		return nil, err
	}
	c := &Control{
		cfg: cfg, root: root, key: key,
		store: &bundle.Store{
			URL: cfg.Store, Stack: cfg.Stack, Trusted: cfg.Trusted,
			Authority: func() (*x509.Certificate, error) { return root, nil },
		},
		kick: make(chan struct{}, 1), nudge: make(chan struct{}, 1), owes: make(chan struct{}, 1),
		probes:   map[string]probeResult{},
		tookBack: map[string]string{},
		follower: follower{reports: map[string]api.Replica{}, have: map[string]string{}},
	}
	if cfg.Replica != "" {
		if c.reporter, err = bundle.NewReporter(cfg.Stack, root, key, time.Now()); err != nil {
			return nil, err
		}
	}
	if c.salt, err = c.deriveSalt(); err != nil {
		return nil, err
	}
	c.secrets = secret.NewStore(c.salt, cfg.Agents, func() {
		select {
		case c.kick <- struct{}{}:
		default:
		}
	})
	if c.cfg.Tracer == nil {
		c.cfg.Tracer = noop.NewTracerProvider().Tracer("")
	}
	if c.cfg.Now == nil {
		c.cfg.Now = time.Now
	}
	c.files = state.In(cfg.State, cfg.Log)
	if c.leases, err = lease.Load(c.files, c.cfg.Now, cfg.Log); err != nil {
		return nil, err
	}
	c.meter = newMeter(c)
	if c.mint, err = mint.New(root, key, c.meter.leaves, cfg.Log); err != nil {
		return nil, err
	}
	c.ledger = ledger.New(cfg.Log, c.vouch)
	c.cache = cache.New(c.ledger, c.mint)
	c.observe = newObserver(c.ledger, c.meter, c.cfg.Tracer)
	if err := c.readNodes(); err != nil {
		return nil, err
	}
	c.rollout.Lock()
	return c, nil
}

// Run serves the last good version, tries what the store holds, and then keeps
// secrets and certificates fresh until ctx is done. It is called once.
func (c *Control) Run(ctx context.Context) error {
	defer c.secrets.Close()
	defer c.store.Close() //nolint:errcheck // it was only read, and reported to
	err := c.resume(ctx)
	c.rollout.Unlock()
	if err != nil {
		return err
	}
	var following sync.WaitGroup
	defer following.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	following.Go(func() { c.follow(ctx) })
	following.Go(func() { c.keepAuthority(ctx) })
	following.Go(func() { c.keepFresh(ctx) })
	following.Go(func() { c.pay(ctx) })
	// A timer would follow the monotonic clock. A lease ends by the wall clock.
	second := time.NewTicker(time.Second)
	defer second.Stop()
	minute := time.NewTicker(time.Minute)
	defer minute.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-second.C:
			c.checkClock()
			c.expire(ctx)
		case now := <-minute.C:
			c.ledger.Forget(now)
			if b := c.bundle(); b != nil {
				c.leases.Save(b.Plan)
			}
		}
	}
}

// keepFresh serves secrets that have changed, and renews leaf certificates before they end. It
// waits for roll-outs. The ends of leases do not wait.
func (c *Control) keepFresh(ctx context.Context) {
	renew := time.NewTicker(mint.LeafLifetime / 4)
	defer renew.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.kick:
			c.refresh(false)
		case <-renew.C:
			c.refresh(true)
		}
	}
}

// resume serves what converged last, or what the store has since. So a node that comes from another
// replica, or had its version from this one, never gets an older one. Until then, nodes keep their
// version. Operators can already reach the control plane; an operator who could not has published
// before.
func (c *Control) resume(ctx context.Context) error {
	good, err := c.lastGood()
	if err != nil || good == nil {
		return err
	}
	version, err := good.Version()
	if err != nil {
		return err
	}
	now := good
	if b := c.provenAfter(ctx, good.Seq); b != nil {
		now = b
		if c.ledger.Adopt(b.Evicted, time.Now()) {
			if err := c.saveNodes(); err != nil {
				c.cfg.Log.Error("keep which nodes were removed", "error", err)
			}
		}
		if !good.Killed.Includes(b.Killed) {
			c.files.SaveKill(state.Kill, b.Sealed())
		}
	}
	if err := c.serve(ctx, now); err != nil {
		return err
	}
	// The publication is live when follow has seen it acknowledged. Killed agents stay killed, even
	// if follow is prevented from that.
	live := *good // good may be what is served, and is read by others already
	live.Killed = good.Killed.And(now.Killed)
	c.mu.Lock()
	c.live, c.version = &live, version
	c.mu.Unlock()
	c.endLeases(&live, version, c.leases.Now())
	return nil
}

// lastGood returns what converged last, with the agents killed since, or nil. It was verified when
// it was saved, and is verified again, because a key may no longer be trusted.
func (c *Control) lastGood() (*bundle.Bundle, error) {
	var broken *bundle.BrokenError
	sealed, err := bundle.ReadKept(c.files.Path(state.Good))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // there is none
	}
	if err != nil && !errors.As(err, &broken) {
		return nil, fmt.Errorf("read control plane state: %w", err)
	}
	var good *bundle.Bundle
	if err == nil {
		good, err = c.store.Verify(sealed)
	}
	if err != nil {
		c.cfg.Log.Error("the last good publication is no longer usable", "file", c.files.Path(state.Good), "error", err)
		return nil, nil //nolint:nilnil // there is none
	}
	sealed, err = bundle.ReadKept(c.files.Path(state.Kill))
	switch {
	case err == nil:
		if kill, err := c.store.Verify(sealed); err == nil && kill.Seq > good.Seq {
			good.Killed = good.Killed.And(kill.Killed)
		}
	case errors.As(err, &broken):
		c.cfg.Log.Error("the publication of the last kill is no longer usable", "file", c.files.Path(state.Kill),
			"error", err)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read control plane state: %w", err)
	}
	return good, nil
}

// provenAfter returns the proven publication that the store holds above seq, or nil. If the store
// does not answer soon, it also returns nil, and follow reports the problem.
func (c *Control) provenAfter(ctx context.Context, seq uint64) *bundle.Bundle {
	ctx, cancel := context.WithTimeout(ctx, slow)
	defer cancel()
	view, err := c.store.Look(ctx)
	if err != nil {
		return nil
	}
	b, err := c.store.NewestProven(ctx, view, seq)
	if err != nil {
		return nil
	}
	return b
}

// Register adds the aggregated discovery service to the servers. It is called
// once: streams are numbered through all of them.
func (c *Control) Register(ctx context.Context, servers ...*grpc.Server) {
	s := serverv3.NewServer(ctx, c.cache, serverv3.CallbackFuncs{
		DeltaStreamOpenFunc:     c.observe.OnDeltaStreamOpen,
		DeltaStreamClosedFunc:   c.observe.OnDeltaStreamClosed,
		StreamDeltaRequestFunc:  c.observe.OnStreamDeltaRequest,
		StreamDeltaResponseFunc: c.observe.OnStreamDeltaResponse,
	})
	for _, g := range servers {
		discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s)
	}
}

// Status returns the state of the fleet.
func (c *Control) Status() *api.Status {
	c.mu.Lock()
	now := time.Now()
	s := &api.Status{
		Version: c.version, Wanted: c.wanted, Rejected: c.rejected, PID: os.Getpid(), Problem: c.problem(now),
		Replica: c.cfg.Replica, Replicas: c.replicas(now), Published: c.ports.list(),
	}
	b := c.live
	c.mu.Unlock()
	s.Nodes = c.ledger.Status()
	s.RefusedNodes = c.ledger.RefusedNodes(now)
	if c.cfg.Fleet != nil {
		s.Refused = c.cfg.Fleet.Counts()
		s.Refused["mismatch"] = c.ledger.Mismatched()
	}
	for i := range s.Nodes {
		if n := &s.Nodes[i]; n.Connected && c.cache.Converged(n.ID) {
			n.Version = s.Version
			if b != nil && !n.Joined {
				n.Problem = c.probed(n.ID, b)
			}
		}
	}
	if b == nil {
		return s
	}
	p := b.Plan
	s.Stack, s.Seq = p.Stack, b.Seq
	for _, a := range p.Agents {
		if b.Killed.Agent(a.Name) {
			s.Killed = append(s.Killed, a.Name)
		}
	}
	states := map[string]secret.State{}
	for _, st := range c.secrets.States() {
		states[st.Credential] = st
	}
	for _, cred := range p.Credentials {
		st := states[cred.Name]
		s.Credentials = append(s.Credentials, api.Credential{
			Name: cred.Name, OK: st.Problem == "" || st.Working, Problem: st.Problem,
			Source: st.Source, Version: st.Version, Since: st.Since, Troubled: st.Troubled,
		})
	}
	return s
}

func (c *Control) bundle() *bundle.Bundle {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.live
}

func (c *Control) liveVersion() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version
}
