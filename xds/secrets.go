package xds

import (
	"crypto/ecdsa"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/envoy"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/cache"
	"github.com/postern/postern/xds/secret"
)

// use is which version of a credential's secret is in use, or was last.
type use struct {
	version string
	open    bool
}

// tellCredentials records what has happened to the secrets of b since it was called before. So the
// version behind each request's credential is known: a request's event names the credential,
// because Envoy does not know its version. The caller holds c.rollout.
func (c *Control) tellCredentials(b *bundle.Bundle) {
	now := map[string]use{}
	states := map[string]secret.State{}
	for _, st := range c.secrets.States() {
		states[st.Credential] = st
	}
	for _, cred := range b.Plan.Credentials {
		st, was := states[cred.Name], c.inUse[cred.Name]
		is := use{version: st.Version, open: st.Working}
		if !is.open {
			is.version = was.version
		}
		now[cred.Name] = is
		e := Event{Time: time.Now().UTC(), Seq: b.Seq, Credential: cred.Name}
		switch {
		case is.open && was.version != "" && is.version != was.version:
			e.Kind, e.Detail = EventSecretRotated, fmt.Sprintf("version %s after %s", is.version, was.version)
			c.meter.rotate.Inc()
		case is.open && !was.open:
			e.Kind, e.Detail = EventCredentialOpened, "version "+is.version
		case !is.open && was.open:
			e.Kind, e.Detail = EventCredentialClosed, st.Problem
		default:
			continue
		}
		c.cfg.Log.Info(e.Kind, "credential", cred.Name, "source", st.Source, "detail", e.Detail)
		c.tell(e)
	}
	c.inUse = now
}

// needed returns the credentials that a rule of an agent that may do anything
// refers to. The others are not read.
func needed(valid *plan.Plan, killed bundle.Killed) []plan.Credential {
	used := map[string]bool{}
	for _, a := range valid.Agents {
		if killed.Agent(a.Name) {
			continue
		}
		for i := range a.Rules {
			if r := &a.Rules[i]; r.Credential != "" && !r.Deny {
				used[r.Credential] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(valid.Credentials), func(c plan.Credential) bool { return !used[c.Name] })
}

// addSecrets adds the credentials of p. Those that are not needed are empty
// rather than missing: so a node that holds one forgets it.
func (c *Control) addSecrets(t *cache.Table, p *plan.Plan) error {
	for _, cred := range p.Credentials {
		name := envoy.SecretName(cred.Name)
		if err := t.AddSalted(name, c.secrets.Envoy(cred.Name, name), c.salt); err != nil {
			return err
		}
	}
	return nil
}

// refresh publishes the live plan's secrets again: some have changed, or, if
// renew is set, the leaf certificates are due.
func (c *Control) refresh(renew bool) {
	c.rollout.Lock()
	defer c.rollout.Unlock()
	b := c.bundle()
	if b == nil {
		return
	}
	t := cache.NewTable()
	err := c.addSecrets(t, b.Plan)
	c.tellCredentials(b)
	if renew {
		for _, name := range c.cache.Leaves() {
			if m := c.mint.Again(name); m != nil {
				err = errors.Join(err, t.Add(name, m))
			}
		}
	}
	tables := map[string]*cache.Table{resource.SecretType: t}
	signed, failed := c.resign(b.Plan)
	if signed != nil {
		tables[resource.ClusterType] = signed
	}
	if err = errors.Join(err, failed); err != nil {
		c.cfg.Log.Error("refresh secrets", "error", err)
		return
	}
	c.cache.Publish(c.cache.Current(), tables)
}

// deriveSalt returns what keeps the versions of secrets from telling anything
// of them. Replicas have it in common, so that a node that moves from one to the
// other is sent nothing again: it is derived from a key that they share. If no
// key is in memory, it is random.
func (c *Control) deriveSalt() ([]byte, error) {
	keys := []any{c.key}
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
