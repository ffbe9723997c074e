package dataplane

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// TestRenewedCertificate: Envoy takes the certificate that was renewed for its
// next connection, and is not restarted for it; one that has expired gets no
// node back in.
func TestRenewedCertificate(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 0)
	remote := f.NewRemote()
	replicas := []*fleet.Replica{remote.Replica("c1"), remote.Replica("c2")}
	up := f.NewUpstream("one.test")
	port := fleet.FreePort(t)
	p := &plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Port: port, Rules: []plan.Rule{fleet.Allow("a",
		"one.test", up)}}}}
	_, err := remote.Operator(replicas...).Publish(t.Context(), p)
	require.NoError(t, err)
	id := remote.StartNode("n", replicas...)
	at := -1
	require.Eventually(t, func() bool {
		for i, r := range replicas {
			if nodeAt(t, r, id).Connected {
				at = i
			}
		}
		return at >= 0
	}, time.Minute, 10*time.Millisecond)
	here, other := replicas[at], replicas[1-at]
	live(t, here, id, p)
	pid := f.EnvoyPID("n")
	reach := func(why string) {
		t.Helper()
		code, err := fleet.Get(t.Context(), f.PortClient(port, fleet.Header()), "https://one.test/")
		require.NoError(t, err)
		require.Equal(t, 200, code, why)
	}
	reach("also so that its leaf certificate is there")

	// One that has expired: the stream that is open does not notice.
	dir := f.Home.NodeDir("n")
	member := remote.Member("n", dir, other)
	content, err := os.ReadFile(filepath.Join(dir, "node.key"))
	require.NoError(t, err)
	block, _ := pem.Decode(content)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	require.NoError(t, err)
	expired, err := remote.Authority("test").Issue(id, key.(*ecdsa.PrivateKey).Public(), time.Now().Add(-48*time.Hour))
	require.NoError(t, err)
	require.NoError(t, member.Write(expired, content))
	require.Eventually(t, func() bool {
		here.Stop()
		s, err := other.API.Status(t.Context())
		require.NoError(t, err)
		return s.Refused["handshake"] > 0
	}, time.Minute, 10*time.Millisecond, "the expired one is refused")
	require.False(t, nodeAt(t, other, id).Connected)
	reach("the node goes on with what it has")

	// Renewed, it is back.
	same, _, err := member.Join(t.Context())
	require.NoError(t, err)
	require.Equal(t, id, same)
	live(t, other, id, p)
	require.Equal(t, pid, f.EnvoyPID("n"), "the same Envoy")
}
