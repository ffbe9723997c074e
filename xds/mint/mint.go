// Package mint makes the leaf certificates that nodes present to agents: for the names that the
// policy allows only, and for names that agents can make up within budgets.
package mint

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/postern/postern/plan"
)

// Outcomes of a request for a leaf certificate.
const (
	Minted  = "minted"
	Refused = "refused"
	Failed  = "failed"
)

// Mint mints leaf certificates. It is safe for concurrent use.
type Mint struct {
	authority *authority
	results   *prometheus.CounterVec
	log       *slog.Logger

	mu sync.Mutex
	// hosts has the names for which a certificate may be minted: those of the live plan, and of the
	// plan that is being rolled out.
	hosts hosts
	// newest is the plan that was allowed last, and the hosts of its names.
	newest struct {
		plan  *plan.Plan
		hosts hosts
	}
	budgets budgets
}

// New returns a mint below the authority root, whose key is key. It counts what became of each
// leaf certificate in results.
func New(root *x509.Certificate, key crypto.Signer, results *prometheus.CounterVec, log *slog.Logger) (*Mint, error) {
	a, err := newAuthority(root, key)
	if err != nil {
		return nil, err
	}
	m := &Mint{authority: a, results: results, log: log}
	m.budgets = budgets{owners: m.owners, of: map[string]*budget{}}
	return m, nil
}

// Only allows the hosts of p, and no others.
func (m *Mint) Only(p *plan.Plan) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.newest.plan != p {
		m.newest.plan, m.newest.hosts = p, hostsOf(p)
	}
	m.hosts = m.newest.hosts
}

// Also allows the hosts of p in addition to the allowed ones. It may take as long as the
// authority's key does.
func (m *Mint) Also(p *plan.Plan, now time.Time) error {
	more := hostsOf(p)
	if err := m.authority.cover(more.names(), now); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.newest.plan, m.newest.hosts = p, more
	m.hosts = m.hosts.or(more)
	return nil
}

// Allows reports whether there may be a certificate for the name.
func (m *Mint) Allows(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hosts.allow(name)
}

// Leaf returns the certificate for a server name that a node asks for, as an Envoy secret, or nil
// to refuse it. there are the names that have one.
func (m *Mint) Leaf(name string, there iter.Seq[string]) proto.Message {
	m.mu.Lock()
	afford := m.budgets.allow(name, there)
	m.mu.Unlock()
	if !afford {
		return nil
	}
	leaf := m.Again(name)
	if leaf != nil {
		m.mu.Lock()
		m.budgets.spend(name)
		m.mu.Unlock()
	}
	return leaf
}

// Again is Leaf for a name that has a certificate, which is not counted against a budget.
func (m *Mint) Again(name string) proto.Message {
	if !m.Allows(name) {
		m.results.WithLabelValues(Refused).Inc()
		return nil
	}
	s, err := m.authority.mint(name, time.Now())
	if err != nil {
		m.results.WithLabelValues(Failed).Inc()
		m.log.Error("mint leaf certificate", "error", err)
		return nil
	}
	m.results.WithLabelValues(Minted).Inc()
	return s
}

// Renew replaces the intermediate authorities that are due. The error says until when the agents'
// certificates last.
func (m *Mint) Renew(now time.Time) error {
	m.mu.Lock()
	names := m.hosts.names()
	m.mu.Unlock()
	if err := m.authority.renew(names, now); err != nil {
		return fmt.Errorf("the agents' certificates cannot be renewed, and end at %s: %w", m.authority.until().UTC().Format(time.RFC3339), err)
	}
	return nil
}

// owners returns the agents against whose budget a name counts, or "" for a name that the plan has
// itself. The caller holds the lock.
func (m *Mint) owners(name string) string {
	if m.hosts.listed(name) {
		return ""
	}
	return m.hosts.owners(name)
}
