package xds

import (
	"fmt"
	"time"

	"github.com/postern/postern/xds/bundle"
	"github.com/postern/postern/xds/secret"
)

// use is which version of a credential's secret is in use, or was last.
type use struct {
	version string
	open    bool
}

// tellCredentials tells what has become of the secrets of b since it was called
// before. That is how the version behind each request's credential is known:
// the event of a request names the credential, as Envoy knows no version of it.
// The caller holds c.rollout.
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
