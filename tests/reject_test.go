package tests

import (
	"testing"
	"time"

	"github.com/blang/semver"
	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/integration"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/provider"
)

// A bundle that a node rejects fails the update with Envoy's own message, and
// what was live stays live. No stack file compiles to such a bundle, so this
// one is handed to the provider as the engine would.
func TestEngineRejectedBundle(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	c.does("up")
	before := c.live()
	good, err := (&bundle.Store{URL: c.home.BundleURL(), Stack: c.home.Stack(), Trusted: c.home.Trusted()}).Read(t.Context())
	require.NoError(t, err)

	impl, err := provider.New(nil)
	require.NoError(t, err)
	server, err := integration.NewServer(t.Context(), provider.Name, semver.MustParse(provider.Version), integration.WithProvider(impl))
	require.NoError(t, err)
	inputs := func(pl *plan.Plan) property.Map {
		encoded, err := pl.Encode()
		require.NoError(t, err)
		version, err := pl.Version()
		require.NoError(t, err)
		return property.NewMap(map[string]property.Value{
			"home": property.New(c.home.Root), "plan": property.New(string(encoded)), "planVersion": property.New(version),
			"members": property.New([]property.Value{property.New("n1")}),
		})
	}
	state := inputs(good).Set("nodes", property.New(1.0)).Set("millis", property.New(1.0))
	bad := *good
	bad.Agents = []plan.Agent{{Name: "demo", Rules: []plan.Rule{{
		ID: "demo/bad", Host: "bad.test", Port: 443, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath},
		Upstream: &plan.Upstream{Address: "192.0.2.1:443", CA: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"},
	}}}}
	_, err = server.Update(p.UpdateRequest{
		ID: "bundle", Urn: resource.NewURN("local", "postern", "", "postern:local:Bundle", "x"),
		State: state, OldInputs: inputs(good), Inputs: inputs(&bad),
	})
	require.ErrorContains(t, err, "node n1 rejected clusters")
	require.ErrorContains(t, err, "trusted CA")
	require.Equal(t, before, c.status().Version)
	// The node took a part of what it rejected, and gives it back by and by.
	require.Eventually(t, func() bool { return c.status().Nodes[0].Version == before }, time.Minute, 10*time.Millisecond)
	require.Empty(t, changed(c.does("up")), "the store has what is live, too")

	// Who was shown that nothing is published publishes nothing over this.
	impl, err = provider.New(&bundle.Bundle{})
	require.NoError(t, err)
	server, err = integration.NewServer(t.Context(), provider.Name, semver.MustParse(provider.Version), integration.WithProvider(impl))
	require.NoError(t, err)
	_, err = server.Update(p.UpdateRequest{
		ID: "bundle", Urn: resource.NewURN("local", "postern", "", "postern:local:Bundle", "x"),
		State: state, OldInputs: inputs(good), Inputs: inputs(&plan.Plan{Stack: good.Stack}),
	})
	require.ErrorContains(t, err, "meanwhile; your change was not published")
	require.Equal(t, before, c.status().Version)
}
