package sandbox

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"slices"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data, little endian.
const (
	offsetNumber    = 0
	offsetArch      = 4
	offsetArguments = 16
)

const (
	// x32 marks system calls of an interface that would bypass a filter of numbers.
	x32           = 0x40000000
	retAllow      = 0x7fff0000
	retNotify     = 0x7fc00000
	retErrno      = 0x00050000
	errNoFamily   = retErrno | uint32(unix.EAFNOSUPPORT)
	errNoProtocol = retErrno | uint32(unix.EPROTONOSUPPORT)
	errNoSyscall  = retErrno | uint32(unix.ENOSYS)
	errForbidden  = retErrno | uint32(unix.EPERM)
)

// caller says whose system calls a filter decides.
type caller int

const (
	// callerCommand is the command. A filter cannot see where a connect leads, so the kernel asks
	// the gate about each.
	callerCommand caller = iota
	// callerContained is the command in a container, where the first process has its user.
	callerContained
	// callerForeign is callerContained on a kernel that asks nobody. So it has no Unix socket but
	// those of a pair.
	callerForeign
	// callerMachine is the command in a virtual machine, where the gate is not the first process.
	callerMachine
	// callerGate is the gate, which connects in the command's place.
	callerGate
)

// callerOf returns the command's kind.
func callerOf(s *Spec) caller {
	switch {
	case s.VM != nil:
		return callerMachine
	case s.Container == nil:
		return callerCommand
	case s.Container.Foreign:
		return callerForeign
	}
	return callerContained
}

// Filter returns a file with the filter of system calls for a program of ours that reads what an
// agent wrote. It is the command's own, but that there is no gate to ask: no connect succeeds.
func Filter() (*os.File, error) {
	content, err := filter(callerCommand)
	if err != nil {
		return nil, err
	}
	return memory(content)
}

// filter returns a program that the kernel runs before each system call, as an array of struct
// sock_filter. It denies what the tables of syscalls.go do not allow.
func filter(who caller) ([]byte, error) {
	machine, err := arch.GetInfo(runtime.GOARCH)
	if err != nil || len(machine.SyscallNames) == 0 {
		return nil, fmt.Errorf("make system call filter: not known for %s", runtime.GOARCH)
	}
	connect, take := uint32(retNotify), errForbidden
	checked := checkedCalls
	switch who {
	case callerCommand, callerMachine:
	case callerContained:
		checked = slices.Concat(checkedCalls, firstProcessCalls)
	case callerForeign:
		connect, checked = retAllow, slices.Concat(checkedCalls, firstProcessCalls)
	case callerGate:
		connect, take = retAllow, retAllow
	}
	if who != callerCommand && who != callerGate {
		checked = slices.Concat(checked, signalCalls)
	}
	p := []bpf.Instruction{
		// 32-bit programs have other numbers, and pass a socket's family in memory, which a filter
		// cannot see.
		bpf.LoadAbsolute{Off: offsetArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(machine.ID), SkipTrue: 1},
		bpf.RetConstant{Val: errNoSyscall},
		bpf.LoadAbsolute{Off: offsetNumber, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: x32, SkipTrue: 1},
		bpf.RetConstant{Val: errNoSyscall},
	}
	for _, c := range checked {
		if who == callerForeign && slices.Contains(c.names, "socket") {
			c.outcomes = slices.Concat(isOneOf(errNoFamily, 0, whole, unix.AF_UNIX), c.outcomes)
		}
		if who != callerCommand && who != callerGate {
			c.outcomes = slices.Concat(stops(c.names[0]), c.outcomes)
		}
		body := c.body()
		for _, number := range numbers(machine, c.names) {
			p = append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: number, SkipTrue: uint8(len(body))})
			p = append(p, body...)
		}
	}
	for _, plain := range []struct {
		names []string
		do    uint32
	}{{[]string{"connect"}, connect}, {[]string{"pidfd_getfd"}, take}, {allowedCalls, retAllow}, {forbiddenCalls, errForbidden}} {
		for _, r := range ranges(numbers(machine, plain.names)) {
			p = append(
				p, bpf.JumpIf{Cond: bpf.JumpLessThan, Val: r.first, SkipTrue: 2},
				bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: r.last, SkipTrue: 1}, bpf.RetConstant{Val: plain.do},
			)
		}
	}
	p = append(p, bpf.RetConstant{Val: errNoSyscall})
	raw, err := bpf.Assemble(p)
	if err != nil {
		return nil, fmt.Errorf("make system call filter: %w", err)
	}
	var out bytes.Buffer
	if err := binary.Write(&out, binary.LittleEndian, raw); err != nil {
		return nil, fmt.Errorf("make system call filter: %w", err)
	}
	return out.Bytes(), nil
}

// body decides the call by its arguments. It always returns a verdict, because it overwrites the
// number.
func (c *checkedCall) body() []bpf.Instruction {
	var body []bpf.Instruction
	for _, o := range c.outcomes {
		// Each check is three instructions, of which the last jumps over what is left of this
		// outcome.
		for i, check := range o.when {
			left := uint8(3*(len(o.when)-1-i) + 1)
			body = append(
				body, bpf.LoadAbsolute{Off: uint32(offsetArguments + 8*check.arg), Size: 4},
				bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: check.mask},
				bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: check.value, SkipTrue: left},
			)
		}
		body = append(body, bpf.RetConstant{Val: o.do})
	}
	return append(body, bpf.RetConstant{Val: c.otherwise})
}

// numbers returns the numbers of those calls that the machine has, in order.
func numbers(machine *arch.Info, names []string) []uint32 {
	var out []uint32
	for _, name := range names {
		if n, ok := machine.SyscallNames[name]; ok {
			out = append(out, uint32(n))
		}
	}
	slices.Sort(out)
	return out
}

// span is a range of numbers, both ends included.
type span struct{ first, last uint32 }

// ranges joins neighbours of a sorted list.
func ranges(numbers []uint32) []span {
	var out []span
	for _, n := range numbers {
		if k := len(out) - 1; k >= 0 && n <= out[k].last+1 {
			out[k].last = n
		} else {
			out = append(out, span{n, n})
		}
	}
	return out
}
