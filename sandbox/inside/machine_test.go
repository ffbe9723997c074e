package inside

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/yamux"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox/wire"
)

// guestSays returns what comes of what a machine reports.
func guestSays(t *testing.T, report func(*yamux.Stream)) (int, error) {
	t.Helper()
	here, there := net.Pipe()
	t.Cleanup(func() { here.Close(); there.Close() })
	m := &machine{setup: new(wire.Setup), ending: make(chan struct{})}
	var err error
	m.session, err = channel(&frames{Conn: here, m: m}, false)
	require.NoError(t, err)
	guest, err := channel(there, true)
	require.NoError(t, err)
	control, err := m.session.OpenStream()
	require.NoError(t, err)
	go func() {
		stream, err := guest.AcceptStream()
		if err == nil {
			report(stream)
		}
	}()
	return m.follow(control, json.NewEncoder(io.Discard))
}

// TestHostileMachine: whatever a machine reports, the host gets a status that is one, text that means
// nothing to a terminal, and no more than so much of it.
func TestHostileMachine(t *testing.T) {
	t.Parallel()
	say := func(text string) func(*yamux.Stream) {
		return func(s *yamux.Stream) {
			_, _ = io.WriteString(s, text)
			_ = s.Close()
		}
	}
	status, err := guestSays(t, say(`{"started":true}{"exited":1234567,"connections":99}`))
	require.NoError(t, err)
	require.Equal(t, 1234567&0xff, status)

	_, err = guestSays(t, say(`{"refused":"\u001b]52;c;eA==\u0007no\u009b2J","status":4223}`))
	refused := new(refusedError)
	require.ErrorAs(t, err, &refused)
	require.Equal(t, refusedError{message: "]52;c;eA==no2J", status: 4223 & 0xff}, *refused)

	_, err = guestSays(t, say(`{"broken":"\u001b[2J"}`))
	require.ErrorContains(t, err, "[2J")
	require.NotContains(t, err.Error(), "\x1b")

	_, err = guestSays(t, say(`not JSON`))
	require.Error(t, err)
	_, err = guestSays(t, say(``))
	require.ErrorContains(t, err, "it ended before the command did")

	_, err = guestSays(t, func(s *yamux.Stream) {
		_, _ = io.Copy(s, io.MultiReader(strings.NewReader(`{"refused":"`), endless{}))
	})
	require.ErrorContains(t, err, "it ended before the command did: unexpected EOF")
}

// TestPings: a machine that pings, and reads no answer, is ended. yamux would start a goroutine for
// each ping. Frames are recognized wherever a read ends, and what is in a body is none.
func TestPings(t *testing.T) {
	t.Parallel()
	data := []byte("\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x0e" + "\x00\x02\x00\x01 no frame.")
	update := []byte("\x00\x01\x00\x00\x00\x00\x00\x02\x00\x00\x00\x02")
	ping := []byte("\x00\x02\x00\x01\x00\x00\x00\x00\x00\x00\x00\x07")
	before := slices.Concat(data, update)
	for piece := 1; piece <= len(before)+len(ping); piece++ {
		here, there := net.Pipe()
		m := &machine{setup: new(wire.Setup), ending: make(chan struct{})}
		var err error
		m.session, err = channel(&frames{Conn: here, m: m}, false)
		require.NoError(t, err)
		opened := make(chan bool)
		go func() {
			_, _ = io.ReadFull(there, make([]byte, headerLength)) // the control stream's first frame
			<-opened
			for part := range slices.Chunk(slices.Concat(before, bytes.Repeat(ping, 3)), piece) {
				_, _ = there.Write(part)
			}
			there.Close()
		}()
		control, err := m.session.OpenStream()
		require.NoError(t, err)
		close(opened)
		_, err = m.follow(control, json.NewEncoder(io.Discard))
		require.ErrorContains(t, err, "run the virtual machine: it sent a ping", "pieces of %d bytes", piece)
	}
}

// endless is text that does not end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, strings.Repeat("a", len(p))), nil }

// TestConsole: of what a machine's kernel says only the end is kept.
func TestConsole(t *testing.T) {
	t.Parallel()
	var c tail
	c.read(strings.NewReader(strings.Repeat("line\n", 100_000) + "panic\x1b[0m"))
	require.Len(t, c.String(), 1<<10)
	require.True(t, strings.HasSuffix(printable(c.String()), "panic[0m"))
}
