// Package inside is the sandbox's side of the gate: what `postern-sandbox`
// does as the first process of a sandbox that package sandbox made.
//
// It makes every address of the world local (AnyIP), listens on the ports that
// lead to the proxy, answers DNS, gives up every capability and starts the
// agent's command in a user namespace of its own, in which it has no power
// over this network. Everything an agent sends here is hostile: nothing of it
// is used for more than choosing what to ask the proxy for.
package inside

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/inside/home"
	"github.com/postern/postern/sandbox/inside/stdio"
	"github.com/postern/postern/sandbox/inside/terminal"
	"github.com/postern/postern/sandbox/wire"
)

// Main serves one sandbox until its command ends, and returns the exit status
// of the process. It must be the first process of its PID namespace: when it
// ends, everything in the sandbox does. It fails closed: an error before the
// command is started starts no command.
func Main() int {
	switch {
	case os.Args[0] == launcher:
		return becomeCommand()
	case os.Args[0] == wire.Init && os.Getpid() == 1:
		return beGuest()
	case len(os.Args) == 3 && os.Args[1] == wire.MCP:
		return stdio.Main(os.Args[2])
	case len(os.Args) > 3 && os.Args[1] == wire.End:
		return endContainers(os.Args[2], os.Args[3:])
	case len(os.Args) > 1 && os.Args[1] == wire.Join:
		status, err := join(slices.Contains(os.Args[2:], wire.Foreign))
		if err != nil {
			fmt.Fprintf(os.Stderr, "postern-sandbox: %v\n", err)
			return 1
		}
		return status
	}
	control, err := openControl()
	if err != nil {
		fmt.Fprintf(os.Stderr, "postern-sandbox: %v; this command is started by `postern run`, not by hand\n", err)
		return 2
	}
	if os.Args[0] != nested {
		// If bwrap is killed, so is this process, and with it everything in the sandbox.
		if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
			fmt.Fprintf(os.Stderr, "postern-sandbox: tie this process to its parent: %v\n", err)
			return 1
		}
	}
	beImmune()
	events := json.NewEncoder(control)
	fleet := new(fleet)
	status, err := serve(control, events, fleet)
	var refused *refusedError
	switch {
	case errors.As(err, &refused):
		err = events.Encode(wire.Event{Refused: refused.Error(), Status: refused.status})
		status = refused.status
	case err != nil:
		err = events.Encode(wire.Event{Broken: err.Error()})
		status = 1
	default:
		err = events.Encode(wire.Event{Exited: &status, Connections: fleet.next.Load()})
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "postern-sandbox: report to host: %v\n", err)
	}
	return status
}

// beImmune keeps signals from ending this process. The first process of a PID namespace is immune to
// SIGKILL from within. A handler for everything else makes it immune to the agent altogether
// (ignoring would be inherited by the command). Of what is no standard signal, Go takes no notice by
// itself, and each signal that is named to it costs a switch of threads and back.
func beImmune() {
	var all []os.Signal
	for n := range syscall.Signal(32) {
		all = append(all, n)
	}
	signal.Notify(make(chan os.Signal, 1), all[1:]...)
}

// openControl takes over the descriptors that the host passed.
func openControl() (*control, error) {
	// This also closes descriptors that were left open by mistake.
	if err := closeOnExec(wire.StdinFD); err != nil {
		return nil, fmt.Errorf("take over descriptors: %w", err)
	}
	file := os.NewFile(wire.ControlFD, "control")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("open control connection: %w", err)
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.New("open control connection: it is not a Unix socket")
	}
	return &control{UnixConn: unixConn}, nil
}

// closeOnExec keeps the open descriptors, from first on, from whatever this process becomes or starts.
func closeOnExec(first int) error {
	err := unix.CloseRange(uint(first), math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	open, err := os.ReadDir("/proc/self/fd") // gVisor of 2022
	if err != nil {
		return err
	}
	for _, f := range open {
		if fd, err := strconv.Atoi(f.Name()); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

func serve(control *control, events *json.Encoder, fleet *fleet) (int, error) {
	if os.Getpid() != 1 && os.Args[0] != nested {
		return 0, fmt.Errorf("check process: want to be the first of the sandbox, am %d", os.Getpid())
	}
	// Before anything can connect, and while the host prepares the setup.
	if err := routeEverythingHere(); err != nil {
		return 0, err
	}
	names := newNames()
	if err := serveDNS(names); err != nil {
		return 0, err
	}
	decoder := json.NewDecoder(control)
	var setup wire.Setup
	if err := decoder.Decode(&setup); err != nil {
		return 0, fmt.Errorf("read setup: %w", err)
	}
	if len(setup.Argv) == 0 || len(setup.Nodes) == 0 {
		return 0, errors.New("read setup: no command or no node")
	}
	fleet.reach(setup.Nodes)
	if setup.Machine != nil {
		return serveMachine(&setup, decoder, events, fleet)
	}
	if err := arrange(&setup); err != nil {
		return 0, err
	} else if err := home.Furnish(setup.Variable("HOME"), setup.Files); err != nil {
		return 0, &refusedError{message: string(setup.Argv[0]) + ": " + err.Error(), status: 126}
	}
	gate := &gate{fleet: fleet, names: names, gateways: setup.Gateways, captured: setup.Ports, patience: firstBytes}
	gate.tools = setup.Tools
	gate.refusals = &refusals{fleet: fleet, told: map[string]bool{}}
	if err := gate.listen(); err != nil {
		return 0, err
	}
	own, err := terminal.New(&setup)
	if err != nil {
		return 0, err
	}
	pid, err := start(&setup, gate, own)
	if err != nil {
		return 0, err
	}
	if err := events.Encode(wire.Event{Started: true}); err != nil {
		return 0, fmt.Errorf("report start to host: %w", err)
	}
	go relaySignals(control, decoder, pid, own)
	defer own.Finish()
	return reap(pid, 0)
}

// relaySignals passes on what the host asks for. The end of the connection
// means that `postern run` is gone, so the sandbox goes too.
func relaySignals(control *control, decoder *json.Decoder, pid int, own *terminal.Terminal) {
	for {
		var s wire.Signal
		if err := decoder.Decode(&s); err != nil {
			if !errors.Is(err, io.EOF) {
				fmt.Fprintf(os.Stderr, "postern-sandbox: read from host: %v\n", err)
			}
			os.Exit(1)
		}
		if s.Port != 0 {
			if file := control.next(); file != nil {
				go publish(file, s.Port)
			}
			continue
		}
		if s.Rows != 0 && own != nil {
			own.Resize(s)
			continue
		}
		target := pid
		// A terminal would signal every process in the foreground. The command leads a process
		// group of its own.
		if slices.Contains([]int{int(unix.SIGINT), int(unix.SIGQUIT), int(unix.SIGHUP)}, s.Number) {
			target = -pid
		}
		// If the command has ended meanwhile, nobody gets the signal.
		_ = unix.Kill(target, syscall.Signal(s.Number))
	}
}

// reap waits for the process, and for every orphan in the meantime. With WUNTRACED in options, it also
// returns if the process is stopped.
func reap(pid, options int) (int, error) {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, options, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for command: %w", err)
		case got == pid && ws.Exited():
			return ws.ExitStatus(), nil
		case got == pid && ws.Signaled():
			return 128 + int(ws.Signal()), nil
		case got == pid && ws.Stopped():
			return 0, errors.New("the command has stopped the process that serves the sandbox")
		}
	}
}
