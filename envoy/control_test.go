package envoy

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// TestBootstrapOfRemoteNode: a node on another machine reaches each replica of the control plane,
// and recognises it by the names in the fleet's certificate.
func TestBootstrapOfRemoteNode(t *testing.T) {
	t.Parallel()
	node := Node{
		ID: "n1", Stack: "prod", Descriptors: MinDescriptors, Heap: 1 << 30,
		Remote: &Remote{
			Controls: []string{"10.0.0.1:18000", "[2001:db8::1]:18001"}, Authority: "pem", ServerName: "control.prod",
			URI: "spiffe://prod/control",
		},
	}
	b, err := Bootstrap(node)
	require.NoError(t, err)
	var boot struct {
		Node            struct{ ID, Cluster string }
		StaticResources struct {
			Clusters []struct {
				Name, Type     string
				LoadAssignment struct {
					Endpoints []struct {
						LbEndpoints []struct{ Endpoint json.RawMessage }
					}
				}
				TransportSocket json.RawMessage
			}
		}
	}
	require.NoError(t, json.Unmarshal(b, &boot))
	require.Equal(t, "n1", boot.Node.ID)
	require.Equal(t, "prod", boot.Node.Cluster)
	require.Len(t, boot.StaticResources.Clusters, 1)
	c := boot.StaticResources.Clusters[0]
	require.NotEqual(t, "STRICT_DNS", c.Type)
	require.Len(t, c.LoadAssignment.Endpoints, 1)
	endpoints := c.LoadAssignment.Endpoints[0].LbEndpoints
	require.Len(t, endpoints, 2)
	require.JSONEq(t, `{"address":{"socketAddress":{"address":"10.0.0.1","portValue":18000}}}`,
		string(endpoints[0].Endpoint))
	require.JSONEq(t, `{"address":{"socketAddress":{"address":"2001:db8::1","portValue":18001}}}`,
		string(endpoints[1].Endpoint))
	for _, name := range []string{"control.prod", "spiffe://prod/control", "./identity.json", "pem", "TLSv1_3"} {
		require.Contains(t, string(c.TransportSocket), `"`+name+`"`)
	}

	node.Remote.Controls = []string{"10.0.0.1:18000", "control.test:18000"}
	b, err = Bootstrap(node)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &boot))
	require.Equal(t, "STRICT_DNS", boot.StaticResources.Clusters[0].Type)
	for _, bad := range []string{"control.test", ":18000", "control.test:http", "control.test:65536", ""} {
		node.Remote.Controls = []string{bad}
		_, err := Bootstrap(node)
		require.ErrorContains(t, err, "is not a valid address of a control plane", bad)
	}
}

// TestPlainIsAnotherUpstream: a rule that may speak plain HTTP gives no other rule its connections.
func TestPlainIsAnotherUpstream(t *testing.T) {
	t.Parallel()
	of := plan.Upstream{Address: "10.0.0.1:80", CA: "pem"}
	plain, elsewhere, other := of, of, of
	plain.Plain, elsewhere.Address, other.CA = true, "10.0.0.2:80", "another"
	for _, u := range []plan.Upstream{plain, elsewhere, other} {
		require.NotEqual(t, pinned(&of), pinned(&u))
	}
	same := of
	require.Equal(t, pinned(&of), pinned(&same))
}
