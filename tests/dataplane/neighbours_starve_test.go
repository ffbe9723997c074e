package dataplane

import (
	"errors"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// TestStarve: an agent that has as much under way as it can leaves the others
// their connections and requests.
func TestStarve(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 0)
	f.Heap = 1 << 30
	f.StartNode("n1")
	up := f.NewUpstream("one.test")
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{fleet.Allow("a",
		"one.test", up)}}, {Name: "b", Rules: []plan.Rule{fleet.Allow("b", "one.test", up)}}}})
	var clients []*http.Client
	for i := range 1500 {
		if i%100 == 0 {
			c := f.Client("n1", "a")
			c.Timeout = 5 * time.Minute
			clients = append(clients, c)
		}
		pr, pw := io.Pipe()
		t.Cleanup(func() { _ = pw.Close() })
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://one.test/", pr)
		require.NoError(t, err)
		go func() {
			resp, err := clients[len(clients)-1].Do(req)
			if err == nil {
				resp.Body.Close()
			}
		}()
		if _, err := pw.Write([]byte("x")); err != nil { // it was refused
			require.Greater(t, i, 200)
		}
	}
	require.Eventually(t, func() bool { return up.Open() > 200 }, time.Minute, 50*time.Millisecond)
	closed := 0
	for range 4100 {
		c, err := f.Dial("n1", "a")(t.Context(), "", "")
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			closed++
		}
	}
	require.Greater(t, closed, 50, "connections of its own")
	for range 20 {
		require.Equal(t, 200, f.Get("n1", "b", "https://one.test/"), "%d requests of a under way", up.Open())
	}
}
