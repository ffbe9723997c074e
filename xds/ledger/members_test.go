package ledger

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestWhoIsAdmitted: over the Unix socket a node is on the list; with a certificate it is the one
// of that certificate, and nobody has removed it.
func TestWhoIsAdmitted(t *testing.T) {
	t.Parallel()
	const by, other, gone = "by its certificate only", "not the one of this certificate", "not part of this stack"
	allowed := func(l *Ledger) { l.Allow("n1") }
	removed := func(l *Ledger) { l.Remove("n1") }
	back := func(l *Ledger) { l.Remove("n1"); l.Allow("n1") }
	denied := codes.PermissionDenied
	many := func(n int) func(*Ledger) {
		return func(l *Ledger) {
			for i := range n {
				l.joined[fmt.Sprint("j", i)] = true
			}
		}
	}
	for name, c := range map[string]struct {
		before func(*Ledger)
		// certificate is the node that it names, or "" for a stream over the socket.
		certificate, node string
		code              codes.Code
		says              string
		joined            bool
	}{
		"on the list":          {before: allowed, node: "n1"},
		"not on the list":      {node: "n1", code: denied, says: `node "n1" is not part of this stack`},
		"without a name":       {code: denied, says: `node "" is not part of this stack`},
		"no certificate":       {before: joins(t, "n1"), node: "n1", code: denied, says: by},
		"a certificate":        {certificate: "n1", node: "n1", joined: true},
		"a certificate again":  {before: joins(t, "n1"), certificate: "n1", node: "n1", joined: true},
		"another's name":       {certificate: "n2", node: "n1", code: denied, says: other},
		"another's known name": {before: allowed, certificate: "n2", node: "n1", code: denied, says: other},
		"both":                 {before: allowed, certificate: "n1", node: "n1"},
		"removed":              {before: removed, certificate: "n1", node: "n1", code: denied, says: gone},
		"removed when joined": {
			before: both(joins(t, "n1"), removed), certificate: "n1", node: "n1", code: denied, says: gone,
		},
		"allowed again": {before: back, certificate: "n1", node: "n1"},
		"on the list, once by certificate": {
			before: both(joins(t, "n1"), back), node: "n1",
		},
		"the last": {before: many(9999), certificate: "n1", node: "n1", joined: true},
		"one too many": {
			before: many(10000), certificate: "n1", node: "n1", code: codes.ResourceExhausted,
			says: "this stack has 10000 nodes, and takes no more",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := ledgerFor(t)
			if c.before != nil {
				c.before(l)
			}
			if c.certificate != "" {
				require.NoError(t, l.OnDeltaStreamOpen(certified(t, c.certificate), 7, ""))
			}
			err := l.OnStreamDeltaRequest(7, asks(c.node, resource.ListenerType, "", ""))
			require.Equal(t, c.code, status.Code(err), err)
			refused := l.RefusedNodes(time.Now())
			if c.code == codes.OK {
				require.True(t, l.Member(c.node))
				require.True(t, l.Online(c.node))
				require.Empty(t, refused)
				n := l.Status()[0]
				require.Equal(t, []any{c.node, c.joined}, []any{n.ID, n.Joined})
				return
			}
			require.Contains(t, status.Convert(err).Message(), c.says)
			require.Len(t, refused, 1)
			require.Equal(t, c.node, refused[0].ID)
			require.Contains(t, refused[0].Reason, c.says)
			require.Equal(t, strings.HasPrefix(name, "another's"), l.Mismatched() == 1)
		})
	}
}

// joins makes the node part of the stack by its certificate.
func joins(t *testing.T, node string) func(*Ledger) {
	t.Helper()
	return func(l *Ledger) {
		if err := l.OnDeltaStreamOpen(certified(t, node), 1, ""); err != nil {
			panic(err)
		}
		if err := l.OnStreamDeltaRequest(1, asks(node, resource.ListenerType, "", "")); err != nil {
			panic(err)
		}
	}
}

func both(first, second func(*Ledger)) func(*Ledger) { return func(l *Ledger) { first(l); second(l) } }

// TestRecognise: a node that this machine vouches for is back on the list, but for one that was
// removed, that has a certificate, or whose name no node can have.
func TestRecognise(t *testing.T) {
	t.Parallel()
	var asked []string
	l := New(ledgerFor(t).log, func(node string) bool { asked = append(asked, node); return node != "n9" })
	l.Allow("named")
	l.Remove("n2")
	require.NoError(t, l.OnDeltaStreamOpen(certified(t, "n3"), 3, ""))
	for stream, node := range map[int64]string{2: "n2", 3: "n4", 5: "N/5", 9: "n9"} {
		err := l.OnStreamDeltaRequest(stream, asks(node, resource.ListenerType, "", ""))
		require.Equal(t, codes.PermissionDenied, status.Code(err), node)
	}
	require.NoError(t, l.OnStreamDeltaRequest(10, asks("named", resource.ListenerType, "", "")))
	err := l.OnStreamDeltaRequest(10, asks("n6", resource.ListenerType, "", ""))
	require.Equal(t, codes.PermissionDenied, status.Code(err), "it has a name already")
	require.Equal(t, []string{"n9"}, asked)
	require.False(t, l.TakeUnsaved())
	require.NoError(t, l.OnStreamDeltaRequest(1, asks("n1", resource.ListenerType, "", "")))
	require.True(t, l.Member("n1"))
	require.True(t, l.TakeUnsaved())
	require.False(t, l.TakeUnsaved(), "it is taken")
}

// TestStrangers: few refused nodes are remembered, for a short time, and in few words.
func TestStrangers(t *testing.T) {
	t.Parallel()
	l := ledgerFor(t)
	refuse := func(node string) {
		require.Error(t, l.OnStreamDeltaRequest(1, asks(node, resource.ListenerType, "", "")))
	}
	refuse("a\x1b" + strings.Repeat("x", 100))
	got := l.RefusedNodes(time.Now())
	require.Len(t, got, 1)
	require.Equal(t, "a "+strings.Repeat("x", 62), got[0].ID)
	since := got[0].Since
	require.WithinDuration(t, time.Now(), since, time.Minute)
	refuse("a\x1b" + strings.Repeat("x", 100))
	got = l.RefusedNodes(time.Now())
	require.Len(t, got, 1)
	require.Equal(t, since, got[0].Since)
	for i := range 25 {
		refuse(fmt.Sprintf("b%02d", i))
	}
	got = l.RefusedNodes(time.Now())
	require.Len(t, got, 20)
	require.Equal(t, "b18", got[19].ID)
	last := l.strangers["b00"].last
	for _, s := range l.strangers {
		s.last = last
	}
	require.Len(t, l.RefusedNodes(last.Add(2*time.Minute)), 20)
	require.Empty(t, l.RefusedNodes(last.Add(2*time.Minute+1)))
	// Whoever is let in is a stranger no more.
	refuse("n1")
	l.Allow("n1")
	require.Empty(t, l.RefusedNodes(time.Now()))
	joins(t, "n2")(l)
	l.strangers["n2"] = &stranger{last: time.Now()}
	joins(t, "n2")(l)
	require.Len(t, l.RefusedNodes(time.Now()), 1, "it has its name already")
	require.NoError(t, l.OnDeltaStreamOpen(certified(t, "n2"), 2, ""))
	require.NoError(t, l.OnStreamDeltaRequest(2, asks("n2", resource.ListenerType, "", "")))
	require.Empty(t, l.RefusedNodes(time.Now()))
}

// TestAdopt: another replica's removals count for certificates, for as long as these can be valid.
func TestAdopt(t *testing.T) {
	t.Parallel()
	l := ledgerFor(t)
	l.Allow("local")
	joins(t, "joined")(l)
	now := time.Now()
	woken := func(removed map[string]time.Time) bool {
		next := l.Next()
		news := l.Adopt(removed, now)
		select {
		case <-next:
			require.True(t, news)
			return true
		default:
			require.False(t, news)
			return false
		}
	}
	require.False(t, woken(nil))
	require.False(t, woken(map[string]time.Time{"local": now, "old": now.Add(-48*time.Hour - 1)}))
	require.True(t, l.Member("local"))
	require.False(t, l.Removed("old"))
	require.True(t, woken(map[string]time.Time{"joined": now, "older": now.Add(-48 * time.Hour)}))
	require.False(t, l.Member("joined"))
	require.False(t, l.Online("joined"))
	require.True(t, l.Removed("joined"))
	require.True(t, l.Removed("older"))
	require.False(t, woken(map[string]time.Time{"joined": now.Add(time.Hour)}), "it is known already")
	require.Equal(t, map[string]time.Time{"joined": now, "older": now.Add(-48 * time.Hour)}, l.Removals(now))
	require.Equal(t, map[string]time.Time{"joined": now}, l.Removals(now.Add(1)))
	require.False(t, l.Removed("older"))

	other := ledgerFor(t)
	other.Restore(l.Removals(now))
	require.True(t, other.Removed("joined"))
	other.Remove("here")
	require.WithinDuration(t, time.Now(), other.Removals(time.Now())["here"], time.Minute)
}
