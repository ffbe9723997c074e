package dataplane

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// TestNeighbourResets: an agent that resets its requests while they wait for their part
// of the node does no harm, and is served afterwards. That they leave nothing behind is
// in cmd/libguard.
func TestNeighbourResets(t *testing.T) {
	t.Parallel()
	const connections, requests = 20, 240 // of 250 Envoy would close a connection
	f := fleet.New(t, 1)
	up := f.NewUpstream("one.test")
	f.MustPublish(&plan.Plan{Stack: "test", Agents: []plan.Agent{
		{Name: "a", Rules: []plan.Rule{fleet.Allow("a", "one.test", up)}},
		{Name: "b", Rules: []plan.Rule{fleet.Allow("b", "one.test", up)}},
	}})
	pid := f.EnvoyPID("n1")
	require.Equal(t, 200, f.Get("n1", "b", "https://one.test/"))
	var all []*resetter
	for range connections {
		all = append(all, newResetter(t, f))
	}
	var wg sync.WaitGroup
	for _, r := range all {
		wg.Go(func() {
			for range requests {
				if err := r.ask(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, 200, f.Get("n1", "b", "https://one.test/"))
	require.Equal(t, 200, f.Get("n1", "a", "https://one.test/"))
	require.Equal(t, pid, f.EnvoyPID("n1"), "Envoy was restarted")
}

// resetter is a connection of HTTP/2 whose requests are reset while they wait.
type resetter struct {
	out    bytes.Buffer
	conn   *tls.Conn
	framer *http2.Framer
	header *hpack.Encoder
	block  bytes.Buffer
	next   uint32
}

func newResetter(t *testing.T, f *fleet.Fleet) *resetter {
	t.Helper()
	conn, status := connectTo(t, f, "a", "one.test:443")
	require.Equal(t, "200", status)
	r := &resetter{next: 1, conn: tls.Client(conn,
		&tls.Config{RootCAs: f.CA.Pool(), ServerName: "one.test", NextProtos: []string{"h2"}})}
	r.framer, r.header = http2.NewFramer(&r.out, bufio.NewReader(r.conn)), hpack.NewEncoder(&r.block)
	r.out.WriteString(http2.ClientPreface)
	require.NoError(t, r.framer.WriteSettings())
	require.NoError(t, r.ping())
	return r
}

// ping returns when Envoy has read what was written.
func (r *resetter) ping() error {
	if err := r.framer.WritePing(false, [8]byte{}); err != nil {
		return err
	}
	if _, err := r.out.WriteTo(r.conn); err != nil {
		return err
	}
	for {
		frame, err := r.framer.ReadFrame()
		if err != nil {
			return err
		}
		switch f := frame.(type) {
		case *http2.PingFrame:
			if f.IsAck() {
				return nil
			}
		case *http2.GoAwayFrame:
			return fmt.Errorf("%s: %s", f.ErrCode, f.DebugData())
		}
	}
}

// ask makes a request whose header is long, so that it has long to wait, and short on the
// wire, and resets it.
func (r *resetter) ask() error {
	r.block.Reset()
	fields := []string{":method", "GET", ":scheme", "https", ":authority", "one.test", ":path", "/"}
	for range 5 {
		fields = append(fields, "x-long", strings.Repeat("x", 3000))
	}
	for i := 0; i < len(fields); i += 2 {
		if err := r.header.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
			return err
		}
	}
	id := r.next
	r.next += 2
	if err := r.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: r.block.Bytes(), EndHeaders: true, EndStream: true,
	}); err != nil {
		return err
	}
	if err := r.ping(); err != nil {
		return err
	}
	return r.framer.WriteRSTStream(id, http2.ErrCodeCancel)
}
