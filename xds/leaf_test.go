package xds_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// TestRenewedLeaf: a leaf certificate that is due is replaced, and what is open under the one
// before continues.
func TestRenewedLeaf(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := f.NewUpstream("one.test")
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{fleet.Allow("a",
		"one.test", up)}}}})
	// Every client makes a connection of its own.
	serial := func() string {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://one.test/", nil)
		require.NoError(t, err)
		resp, err := f.Client("n1", "a").Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		return resp.TLS.PeerCertificates[0].SerialNumber.String()
	}
	s := f.OpenStream(up, "n1", "a", "https://one.test/")
	first := serial()
	require.Equal(t, first, serial())
	f.Control.Renew()
	require.Eventually(t, func() bool { return serial() != first }, time.Minute, 10*time.Millisecond)
	s.RequireOpen()
}
