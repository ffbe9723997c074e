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
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/wire"
)

// Main serves one sandbox until its command ends, and returns the exit status
// of the process. It must be the first process of its PID namespace: when it
// ends, everything in the sandbox does. It fails closed: an error before the
// command is started starts no command.
func Main() int {
	if os.Args[0] == launcher {
		return becomeCommand()
	}
	control, err := openControl()
	if err != nil {
		fmt.Fprintf(os.Stderr, "postern-sandbox: %v; this command is started by `postern run`, not by hand\n", err)
		return 2
	}
	// The first process of a PID namespace is immune to SIGKILL from within. A
	// handler for everything else makes it immune to the agent altogether
	// (ignoring would be inherited by the command).
	signal.Notify(make(chan os.Signal, 1))
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

// openControl takes over the descriptors that the host passed.
func openControl() (net.Conn, error) {
	// Also those that nobody should have left open.
	if err := unix.CloseRange(wire.StdinFD, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("take over descriptors: %w", err)
	}
	file := os.NewFile(wire.ControlFD, "control")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("open control connection: %w", err)
	}
	return conn, nil
}

func serve(control net.Conn, events *json.Encoder, fleet *fleet) (int, error) {
	if os.Getpid() != 1 {
		return 0, fmt.Errorf("check process: want to be the first of the sandbox, am %d", os.Getpid())
	}
	// Before anything can connect; and before the setup is there, for which the host needs a while.
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
	// The mount was made by its path, and an agent that works above may have put another folder there.
	var dir unix.Stat_t
	if err := unix.Stat(string(setup.Dir), &dir); err != nil || dir.Dev != setup.Device || dir.Ino != setup.Inode {
		return 0, fmt.Errorf("check working directory: %s is no longer the folder that was checked: run this again", setup.Dir)
	}
	if err := checkMounts(&setup); err != nil {
		return 0, err
	}
	fleet.reach(setup.Nodes)
	gate := &gate{fleet: fleet, names: names, gateways: setup.Gateways, captured: setup.Ports}
	if err := gate.listen(); err != nil {
		return 0, err
	}
	pid, err := start(&setup)
	if err != nil {
		return 0, err
	}
	if err := events.Encode(wire.Event{Started: true}); err != nil {
		return 0, fmt.Errorf("report start to host: %w", err)
	}
	go relaySignals(decoder, pid)
	return reap(pid)
}

// checkMounts makes sure that nothing is mounted in the working directory but what the host has mounted there.
func checkMounts(setup *wire.Setup) error {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("check working directory: %w", err)
	}
	if at := strangeMount(string(content), setup); at != "" {
		return fmt.Errorf("check working directory: %s is no longer the folder that was checked: run this again", at)
	}
	return nil
}

// escaped is the kernel's spelling of a path in mountinfo.
var escaped = strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`)

// strangeMount returns where in the working directory something is mounted that the host has not mounted there; "" if
// nothing is.
func strangeMount(mountinfo string, setup *wire.Setup) string {
	var below [][]string
	found := false
	at := escaped.Replace(string(setup.Dir))
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line) // ID, parent, device, root, mount point and more
		switch {
		case len(fields) < 5:
		case fields[4] == at:
			found = true
		case strings.HasPrefix(fields[4], at+"/"):
			below = append(below, fields)
		}
	}
	if !found {
		return at
	}
	for _, m := range below {
		if !slices.Contains(setup.Mounts, m[2]+" "+m[3]) {
			return m[4]
		}
	}
	return ""
}

// relaySignals passes on what the host asks for. The end of the connection
// means that `postern run` is gone, so the sandbox goes too.
func relaySignals(decoder *json.Decoder, pid int) {
	for {
		var s wire.Signal
		if err := decoder.Decode(&s); err != nil {
			if !errors.Is(err, io.EOF) {
				fmt.Fprintf(os.Stderr, "postern-sandbox: read from host: %v\n", err)
			}
			os.Exit(1)
		}
		target := pid
		// What a terminal would send goes to everything in the foreground; the
		// command leads a process group of its own.
		if slices.Contains([]int{int(unix.SIGINT), int(unix.SIGQUIT), int(unix.SIGHUP)}, s.Number) {
			target = -pid
		}
		// The command may have ended in the meantime: then there is nobody to tell.
		_ = unix.Kill(target, syscall.Signal(s.Number))
	}
}

// reap waits for the command, and for every orphan in the meantime.
func reap(pid int) (int, error) {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for command: %w", err)
		case got == pid && ws.Exited():
			return ws.ExitStatus(), nil
		case got == pid && ws.Signaled():
			return 128 + int(ws.Signal()), nil
		}
	}
}
