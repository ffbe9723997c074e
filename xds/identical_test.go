package xds

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/api"
	"github.com/postern/postern/xds/ledger"
)

// served is all that c serves, byte by byte, but for leaf certificates: each
// replica mints its own.
func served(t *testing.T, c *Control) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, k := range ledger.Kinds {
		for name, r := range c.cache.Table(k.URL).All() {
			if k.URL == resource.SecretType && !strings.Contains(name, "\x00") {
				continue
			}
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
			require.NoError(t, err)
			require.NotEmpty(t, r.GetVersion())
			all[k.Name+" "+name] = r.GetVersion() + " " + string(b)
		}
	}
	return all
}

// TestReplicasAreIdentical: what two replicas make of the same publications is
// the same to the byte, whatever each has served before and whenever it began:
// after access was narrowed, an agent was killed and a secret was rotated.
func TestReplicasAreIdentical(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.start(t, "a"), w.start(t, "b")
	w.Controls = []*api.Client{w.dial(t, a)}
	w.write(t, "secret", []byte("first"))
	policy := func(hosts ...string) *plan.Plan {
		p := policyOf(hosts...)
		p.Agents[0].Rules[0].Credential = "key"
		p.Agents = append(p.Agents, plan.Agent{Name: "b", Rules: []plan.Rule{
			{ID: "b/wild", Host: "*.wild.test", Port: 443, Methods: []string{"GET", "HEAD"}, Paths: []string{"/v1/**"}},
			{
				ID: "b/no", Host: "no.wild.test", Port: 443, Methods: []string{plan.AnyMethod},
				Paths: []string{plan.AnyPath}, Deny: true,
			},
		}})
		p.Credentials = []plan.Credential{{
			Name: "key", Kind: plan.KindBearer, Header: "authorization", Secret: "file://" + w.path("secret"),
		}}
		return p
	}
	publish := func(hosts ...string) {
		_, err := w.Publish(t.Context(), policy(hosts...))
		require.NoError(t, err)
	}
	same := func(replicas ...*Control) {
		t.Helper()
		for _, c := range replicas {
			c.refresh(false) // what it was told of secrets meanwhile
		}
		want := served(t, replicas[0])
		require.NotEmpty(t, want)
		for _, c := range replicas[1:] {
			require.Empty(t, cmp.Diff(want, served(t, c)))
		}
	}
	version := func(c *Control) string {
		if s := c.secrets.States(); len(s) == 1 {
			return s[0].Version
		}
		return ""
	}
	publish("one.test", "two.test")
	require.Empty(t, b.look(t.Context(), time.Now()))
	require.Eventually(t, func() bool { return version(a) != "" && version(b) != "" }, time.Minute, time.Millisecond)
	same(a, b)

	publish("one.test") // b does not look: it takes the next one at once
	publish("one.test", "three.test")
	_, err := w.Kill(t.Context(), bundle.Killed{Agents: []string{"b"}})
	require.NoError(t, err)
	require.Empty(t, b.look(t.Context(), time.Now()))
	same(a, b)

	before := version(a)
	w.write(t, "secret", []byte("second"))
	c := w.start(t, "c") // has never seen anything before
	require.Empty(t, c.look(t.Context(), time.Now()))
	require.Eventually(t, func() bool {
		return version(a) != before && version(a) == version(b) && version(b) == version(c)
	}, time.Minute, time.Millisecond)
	same(a, b, c)
	require.Contains(t, strings.Join(slices.Collect(maps.Keys(served(t, c))), "\n"), "scopes ")
}
