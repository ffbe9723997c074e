package plan

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFiles(t *testing.T) {
	t.Parallel()
	socket := &Upstream{Address: "unix:/run/echo.sock"}
	p := &Plan{
		Credentials: []Credential{
			{Name: "file", Secret: "file:///etc/a%20key#field"},
			{Name: "helper", Secret: "exec:///opt/helper?arg=/x"},
			{Name: "env", Secret: "env://A"},
			{Name: "broken", Secret: "file://"},
			{Name: "web", Secret: "https://vault.test/a"},
		},
		Agents: []Agent{
			{Rules: []Rule{{Host: "a.test", Upstream: socket}, {Host: "b.test"}, {Host: "c.test", Upstream: &Upstream{Address: "10.0.0.1:443"}}}},
			{Rules: []Rule{{Host: "a.test", Upstream: socket}}},
		},
	}
	require.Equal(t, []File{
		{"the secret of credential file", "/etc/a key", false}, {"the helper of credential helper", "/opt/helper", false}, {"the socket of a.test", "/run/echo.sock", true},
	}, p.Files())
	require.Empty(t, (&Plan{}).Files())
}
