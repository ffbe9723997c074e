package inside

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/inside/terminal"
	"github.com/postern/postern/sandbox/wire"
)

const (
	// bootPatience bounds the time until the machine's own first process reports: without KVM, on a
	// slow machine.
	bootPatience = 10 * time.Minute
	// endPatience bounds each wait for what the command has written, after it has ended.
	endPatience = 10 * time.Second
	// maxEvents bounds what a machine may report, in bytes.
	maxEvents = 64 << 10
	// maxProxied bounds a machine's connections to the proxy that are served at once, and maxWaiting
	// those that wait for that. Each may have yamux keep half a mebibyte.
	maxProxied = 256
	maxWaiting = 32
	// maxThreads bounds those of QEMU.
	maxThreads = 512
)

// channel is one end of a machine's only channel, which carries many streams: to the proxy, the
// command's own, and that of the Setup.
func channel(conn io.ReadWriteCloser, guest bool) (*yamux.Session, error) {
	c := yamux.DefaultConfig()
	// Both ends are on this machine, and end together. A stopped reader is not a broken channel.
	c.EnableKeepAlive, c.StreamOpenTimeout = false, 0
	c.ConnectionWriteTimeout, c.StreamCloseTimeout = math.MaxInt64, 24*time.Hour
	c.LogOutput, c.AcceptBacklog = io.Discard, maxWaiting
	if guest {
		return yamux.Client(conn, c)
	}
	return yamux.Server(conn, c)
}

// serveMachine starts the virtual machine, and serves it until the command in it ends. QEMU is
// confined as the command would be. All that comes out of the machine may be the agent's.
func serveMachine(setup *wire.Setup, decoder *json.Decoder, events *json.Encoder, fleet *fleet) (int, error) {
	if err := arrangeWork(setup); err != nil {
		return 0, err
	}
	m := &machine{setup: setup, fleet: fleet, stdio: [3]*os.File{
		os.NewFile(wire.StdinFD, "stdin"), os.NewFile(wire.StdoutFD, "stdout"), os.NewFile(wire.StderrFD, "stderr"),
	}}
	if err := m.start(); err != nil {
		return 0, err
	}
	control, err := m.session.OpenStream()
	if err != nil {
		return 0, m.broken(err)
	}
	if err := m.connectStreams(); err != nil {
		return 0, err
	}
	guest := *setup
	guest.Machine, guest.Guest, guest.Arranged = nil, &setup.Machine.Guest, true
	guest.Nodes, guest.Overlay, guest.Mounts = []string{wire.NodesDir + "/0"}, false, nil
	encoder := json.NewEncoder(control)
	if err := encoder.Encode(guest); err != nil {
		return 0, m.broken(err)
	}
	go m.proxy()
	go relay(decoder, encoder)
	return m.follow(control, events)
}

// machine is a virtual machine that runs.
type machine struct {
	setup   *wire.Setup
	fleet   *fleet
	session *yamux.Session
	console tail
	// stdio are the command's streams, of which the machine has copies.
	stdio   [3]*os.File
	outputs sync.WaitGroup
	// ending is closed when the command has ended.
	ending chan struct{}
	// refused says why nothing more is read from the machine, if so.
	refused atomic.Pointer[string]
}

// frames reads a machine's channel for yamux, which starts a goroutine for each ping: they would
// pile up if the machine does not read the answers. Nobody of ours pings. So a ping ends the channel.
type frames struct {
	net.Conn
	m *machine
	// header has what has come of a frame's header, and body is what is to come of its body.
	header []byte
	body   uint64
}

// The header of yamux's frames: a version, a kind, and at its end a number, which is the length of
// the body if the kind is 0.
const (
	headerLength = 12
	kindAt       = 1
	numberAt     = 8
	kindData     = 0
	kindPing     = 2
)

func (f *frames) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	for rest := p[:n]; len(rest) > 0; {
		if f.body > 0 {
			skipped := min(f.body, uint64(len(rest)))
			f.body, rest = f.body-skipped, rest[skipped:]
			continue
		}
		taken := min(headerLength-len(f.header), len(rest))
		f.header, rest = append(f.header, rest[:taken]...), rest[taken:]
		if len(f.header) < headerLength {
			continue
		}
		switch f.header[kindAt] {
		case kindData:
			f.body = uint64(binary.BigEndian.Uint32(f.header[numberAt:]))
		case kindPing:
			why := "it sent a ping, which Postern's own program in it never does"
			f.m.refused.Store(&why)
			return 0, errors.New(why)
		}
		f.header = f.header[:0]
	}
	return n, err
}

// arrangeWork arranges the working directory, if there is one, where the machine's QEMU finds it.
func arrangeWork(setup *wire.Setup) error {
	work := *setup
	work.Dir = setup.Machine.Workdir
	if err := arrange(&work); err != nil {
		return fmt.Errorf("%w (the folder is %s)", err, setup.Dir)
	}
	return nil
}

// start starts QEMU.
func (m *machine) start() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make the machine's channel: %w", err)
	}
	ours := os.NewFile(uintptr(pair[0]), "channel")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return fmt.Errorf("make the machine's channel: %w", err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make the machine's console: %w", err)
	}
	m.ending = make(chan struct{})
	qemu := *m.setup
	qemu.Argv, qemu.Env, qemu.Dir = m.setup.Machine.Argv, nil, "/"
	qemu.Terminal, qemu.Processes = -1, maxThreads
	pid, err := confine(&qemu, string(qemu.Argv[0]), [3]uintptr{uintptr(pair[1]), write.Fd(), write.Fd()},
		func(net.IP, int) {})
	unix.Close(pair[1])
	write.Close()
	if err != nil {
		return fmt.Errorf("start %s: %w", qemu.Argv[0], err)
	}
	go func() {
		m.console.read(read)
		// QEMU has ended, and whoever waits for an event learns it from the channel's end.
		conn.Close()
	}()
	go func() { _, _ = reap(pid, 0) }()
	if m.session, err = channel(&frames{Conn: conn, m: m}, false); err != nil {
		return fmt.Errorf("open the machine's channel: %w", err)
	}
	return nil
}

// broken says why the machine is of no use, with the last that its kernel said.
func (m *machine) broken(err error) error {
	if why := m.refused.Load(); why != nil {
		err = errors.New(*why)
	}
	if said := printable(m.console.String()); said != "" {
		return fmt.Errorf("run the virtual machine: %w: its console ends with: %s", err, said)
	}
	return fmt.Errorf("run the virtual machine: %w", err)
}

// follow passes on what the machine reports, until the command has ended.
func (m *machine) follow(control *yamux.Stream, events *json.Encoder) (int, error) {
	decoder := json.NewDecoder(io.LimitReader(control, maxEvents))
	if err := control.SetReadDeadline(time.Now().Add(bootPatience)); err != nil {
		return 0, m.broken(err)
	}
	for {
		var e wire.Event
		switch err := decoder.Decode(&e); {
		case errors.Is(err, yamux.ErrTimeout):
			return 0, m.broken(fmt.Errorf("it has not started the command within %s", bootPatience))
		case err != nil:
			return 0, m.broken(fmt.Errorf("it ended before the command did: %w", err))
		case e.Started:
			if err := errors.Join(events.Encode(wire.Event{Started: true}), control.SetReadDeadline(time.Time{})); err != nil {
				return 0, fmt.Errorf("report start to host: %w", err)
			}
		case e.Exited != nil:
			close(m.ending)
			m.outputs.Wait()
			return *e.Exited & 0xff, nil
		case e.Refused != "":
			return 0, &refusedError{message: printable(e.Refused), status: e.Status & 0xff}
		default:
			return 0, m.broken(errors.New(printable(e.Broken)))
		}
	}
}

// proxy serves the machine's connections to the proxy, which are all that it can make.
func (m *machine) proxy() {
	slots := make(chan struct{}, maxProxied)
	for {
		stream, err := m.session.AcceptStream()
		if err != nil {
			return // the machine has ended
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			l, err := m.fleet.dial()
			if err != nil {
				_, _ = stream.Write(downAnswer())
				_ = stream.Close()
				_, _ = io.Copy(io.Discard, stream) // until the machine closes it, yamux keeps it
				return
			}
			defer l.end()
			bridge(stream, l.UnixConn)
		}()
	}
}

// bridge joins a stream and a connection until both directions are done.
func bridge(stream *yamux.Stream, conn *net.UnixConn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(conn, stream)
		_ = conn.CloseWrite()
		_, _ = io.Copy(io.Discard, stream) // if nobody reads: the other side does not wait for ever
	}()
	_, _ = io.Copy(stream, conn)
	_ = stream.Close()
	<-done
	conn.Close()
}

// connectStreams opens a stream for each of the command's own.
func (m *machine) connectStreams() error {
	for i, f := range m.stdio {
		if m.setup.Streams[i] != i {
			continue
		}
		stream, err := m.session.OpenStream()
		if err != nil {
			return m.broken(err)
		}
		if i == 0 || i == m.setup.Terminal {
			go func() {
				_, _ = io.Copy(stream, f)
				_ = stream.Close()
			}()
		}
		if i > 0 || i == m.setup.Terminal {
			m.outputs.Go(func() { m.output(f, stream) })
		}
	}
	return nil
}

// output passes on what the command writes. After its end, the machine must be quick; whoever
// reads may take any time.
func (m *machine) output(to *os.File, stream *yamux.Stream) {
	go func() {
		<-m.ending
		_ = stream.SetReadDeadline(time.Now().Add(endPatience))
	}()
	buffer := make([]byte, 64<<10)
	for late := 0; ; {
		n, err := stream.Read(buffer)
		if _, werr := to.Write(buffer[:n]); werr != nil || err != nil {
			_ = stream.Close() // the command learns that nobody reads
			return
		}
		select {
		case <-m.ending:
			// The machine has sent everything before it said that the command had ended.
			if late += n; late > terminal.MostWritten {
				_ = stream.Close()
				return
			}
			_ = stream.SetReadDeadline(time.Now().Add(endPatience))
		default:
		}
	}
}

// relay passes on what the host asks for, and ends the sandbox with the connection.
func relay(decoder *json.Decoder, control *json.Encoder) {
	for {
		var signal wire.Signal
		if err := decoder.Decode(&signal); err != nil {
			os.Exit(1)
		}
		_ = control.Encode(signal) // if the machine is gone, so is whom the signal was for
	}
}

// tail keeps the end of what was written.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) read(from io.Reader) {
	const keep = 1 << 10
	buffer := make([]byte, 4<<10)
	for {
		n, err := from.Read(buffer)
		t.mu.Lock()
		t.text = append(t.text, buffer[:n]...)
		t.text = t.text[max(len(t.text)-keep, 0):]
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}

// printable is the text without what means something to a terminal: an agent may have written it.
func printable(text string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, text))
}
