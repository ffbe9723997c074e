// Package secret has the values of the plan's credentials. It reads values from
// their sources, mints tokens from them, and keeps both in memory. They leave it in
// Envoy's secrets and in the clusters that sign, for the nodes, and in requests to
// the endpoints that mint tokens. No log, error, JSON or fmt shows them.
//
// It is the only reader of credentials, not the only place with secret bytes: the
// control plane's cache and Envoy hold what it hands out, package xds/mint has the
// keys of certificates, package svid reads keys and join tokens of a fleet, and
// `postern secret put` writes the value that it is given.
package secret

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"sort"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/secret/service"
)

// firstAttempt bounds how long Watch waits for one credential: an endpoint that
// hangs must not hold up the publication of everything else.
const firstAttempt = 3 * time.Second

// Store holds the value of every credential of the live plan, watches the sources, and mints
// tokens. It is safe for concurrent use. Close it.
type Store struct {
	changed func()
	salt    []byte
	// http is the client for token endpoints and sources. services is the client for AWS.
	http *http.Client
	// clouds are the services whose drivers this program has, by source.
	clouds map[string]service.Service
	// agents lists the folders from which no secret and no helper is taken.
	agents hostpath.Registry
	// lately holds for a moment what agents may write; see [Store.folders].
	lately struct {
		sync.Mutex
		folders *hostpath.Folders
		at      time.Time
	}
	// env looks up the variables with Vault's address and token.
	env func(string) string

	mu      sync.Mutex
	entries map[string]*entry
}

// entry is one credential. A goroutine in [Store.run] keeps it current.
type entry struct {
	// definition is the credential. A changed credential is another entry.
	definition plan.Credential
	stop       context.CancelFunc
	// ready is closed after the first attempt to have a value.
	ready chan struct{}
	once  sync.Once
	now   material
}

// sealed holds bytes that no printer finds, because following pointers by reflection ends at a
// function. The zero value, nil, holds nothing.
type sealed func() []byte

func seal(b []byte) sealed { return func() []byte { return b } }

// material is the state of a credential at the moment.
type material struct {
	// value is what Envoy injects, or nil if it is unavailable.
	value sealed
	// keys is the JSON of the keys of [plan.KindAWSSigV4], otherwise nil.
	keys sealed
	// version names the value without telling anything of it.
	version string
	// since is the time at which this version came into use.
	since time.Time
	// problem says why there is no value. If there is one, it says why there soon will be none, or
	// why it may be out of date.
	problem string
	// troubled is the time since which there is a problem.
	troubled time.Time
}

// NewStore returns an empty store. Versions are made with the salt, so that a
// weak secret cannot be guessed from one. Neither files nor helpers are taken
// from the agents' folders. The function is called, from any goroutine, after a
// value or a problem has changed.
func NewStore(salt []byte, agents hostpath.Registry, changed func()) *Store {
	return &Store{changed: changed, salt: salt, agents: agents, http: newClient(), clouds: service.Open(newServiceClient()), env: os.Getenv, entries: map[string]*entry{}}
}

// fingerprint is the version of a value whose source has no versions.
func (s *Store) fingerprint(credential string, value []byte) string {
	h := hmac.New(sha256.New, s.salt)
	fmt.Fprintf(h, "version of %q: ", credential)
	h.Write(value)
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Format implements [fmt.Formatter]: nothing that is in the store is printed.
func (s *Store) Format(f fmt.State, _ rune) { fmt.Fprint(f, "secret.Store") }

// Watch makes the store hold exactly the given credentials. It returns after
// each new one was tried once, for at most three seconds, or ctx is done.
func (s *Store) Watch(ctx context.Context, credentials []plan.Credential) error {
	s.mu.Lock()
	wanted := map[string]bool{}
	var started []*entry
	for _, c := range credentials {
		wanted[c.Name] = true
		e := s.entries[c.Name]
		if e != nil && reflect.DeepEqual(e.definition, c) {
			continue
		}
		if e != nil {
			e.stop()
		}
		e = s.start(ctx, c)
		s.entries[c.Name] = e
		started = append(started, e)
	}
	for name, e := range s.entries {
		if !wanted[name] {
			e.stop()
			delete(s.entries, name)
		}
	}
	s.mu.Unlock()
	return wait(ctx, started)
}

func wait(ctx context.Context, started []*entry) error {
	enough := time.NewTimer(firstAttempt)
	defer enough.Stop()
	for _, e := range started {
		select {
		case <-e.ready:
		case <-enough.C:
			// Later results are announced by changed.
			return nil
		case <-ctx.Done():
			return fmt.Errorf("read secrets: %w", context.Cause(ctx))
		}
	}
	return nil
}

// start begins to keep c current. It outlives the call that asked for it.
func (s *Store) start(ctx context.Context, c plan.Credential) *entry {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	e := &entry{definition: c, stop: stop, ready: make(chan struct{}), now: material{problem: "there was no answer yet"}}
	go s.run(ctx, c, e)
	return e
}

// run keeps e current until ctx is done.
func (s *Store) run(ctx context.Context, c plan.Credential, e *entry) {
	readings := make(chan reading)
	go s.watch(ctx, c, readings)
	if mint := minters[c.Kind]; mint != nil {
		(&renewal{store: s, entry: e, credential: c, mint: mint, readings: readings}).run(ctx)
		return
	}
	for {
		select {
		case r := <-readings:
			s.set(ctx, e, compose(c, r))
		case <-ctx.Done():
			return
		}
	}
}

// set changes e's material, unless e was stopped, and notifies.
func (s *Store) set(ctx context.Context, e *entry, m material) {
	s.mu.Lock()
	if ctx.Err() != nil {
		s.mu.Unlock()
		return
	}
	now := time.Now()
	switch m.since = now; {
	case m.value == nil:
		m.version, m.since = "", time.Time{}
	case m.version == e.now.version && e.now.value != nil:
		m.since = e.now.since
	}
	switch m.troubled = now; {
	case m.problem == "":
		m.troubled = time.Time{}
	case e.now.problem != "" && !e.now.troubled.IsZero() && (m.value == nil) == (e.now.value == nil):
		m.troubled = e.now.troubled
	}
	e.now = m
	s.mu.Unlock()
	e.once.Do(func() { close(e.ready) })
	s.changed()
}

// Close stops watching and forgets every value.
func (s *Store) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, e := range s.entries {
		e.stop()
		delete(s.entries, name)
	}
	for _, c := range s.clouds {
		c.Close()
	}
}

// Envoy returns the secret of a credential under the given xDS name. If the value is unavailable,
// the secret is empty. Envoy would keep the last value of a secret that is merely removed, but does
// not inject an empty one. So the routes that need it fail closed.
func (s *Store) Envoy(credential, name string) *tlsv3.Secret {
	var value []byte
	if v := s.material(credential).value; v != nil {
		value = v()
	}
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{
		Secret: &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: value}},
	}}}
}

func (s *Store) material(credential string) material {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[credential]; e != nil {
		return e.now
	}
	return material{}
}

// State is what is known about a credential. Nothing of it is secret.
type State struct {
	Credential string
	// Source is one of the Source constants of package plan.
	Source string
	// Version names the value in use: the source's own ID, or a salted hash. For a minted token it
	// is the version of the secret.
	Version string
	// Since is the time at which this version came into use here, or zero.
	Since time.Time
	// Problem says why the secret is unavailable, or cannot be renewed or read again. It is "" if
	// there is no problem. Working is set while an earlier value is still in use.
	Problem string
	Working bool
	// Troubled is the time since which there is a problem.
	Troubled time.Time
}

// States returns the state of each credential, sorted.
func (s *Store) States() []State {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := make([]State, 0, len(s.entries))
	for name, e := range s.entries {
		ref, _ := plan.ParseReference(e.definition.Secret)
		states = append(states, State{
			Credential: name, Source: ref.Source, Version: e.now.version, Since: e.now.since,
			Problem: e.now.problem, Working: e.now.value != nil, Troubled: e.now.troubled,
		})
	}
	sort.Slice(states, func(i, j int) bool { return states[i].Credential < states[j].Credential })
	return states
}

// Differing returns, sorted, the names of the environment variables whose value here differs from
// theirs. So `up` finds out, without either side showing a value, that a variable has changed since
// this process started.
func Differing(theirs map[string]string) []string {
	var names []string
	for name, value := range theirs {
		if os.Getenv(name) != value {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}
