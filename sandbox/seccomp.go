package sandbox

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data, little endian.
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArg0   = 16
	offsetArg1   = 24
)

const (
	// x32 marks system calls of an interface that would bypass a filter of numbers.
	x32          = 0x40000000
	keyctlJoin   = 1
	retAllow     = 0x7fff0000
	retErrno     = 0x00050000
	errNoFamily  = retErrno | uint32(unix.EAFNOSUPPORT)
	errNoSyscall = retErrno | uint32(unix.ENOSYS)
	errForbidden = retErrno | uint32(unix.EPERM)
)

// socketFamilies are all that an agent needs. A network namespace isolates
// these; it does not isolate AF_VSOCK, which on a virtual machine reaches the
// host, nor some of the more exotic ones.
var socketFamilies = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// seccompFilter is the program that the kernel runs before each system call
// in the sandbox. It closes what namespaces leave open.
func seccompFilter() ([]byte, error) {
	arch := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	if arch == 0 {
		return nil, fmt.Errorf("make system call filter: not known for %s", runtime.GOARCH)
	}
	ret := func(v uint32) bpf.Instruction { return bpf.RetConstant{Val: v} }
	unless := func(v uint32, skip int) bpf.Instruction {
		return bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: v, SkipTrue: uint8(skip)}
	}
	p := []bpf.Instruction{
		// 32-bit programs have other numbers, and pass a socket's family in
		// memory where no filter sees it.
		bpf.LoadAbsolute{Off: offsetArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: arch, SkipTrue: 1},
		ret(errNoSyscall),
		bpf.LoadAbsolute{Off: offsetNumber, Size: 4},
	}
	if runtime.GOARCH == "amd64" {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpLessThan, Val: x32, SkipTrue: 1}, ret(errNoSyscall))
	}
	// One call, decided by one argument: those listed are given hit, others miss.
	byArgument := func(number, offset uint32, values []uint32, hit, miss uint32) {
		body := []bpf.Instruction{bpf.LoadAbsolute{Off: offset, Size: 4}}
		for _, v := range values {
			body = append(body, unless(v, 1), ret(hit))
		}
		body = append(body, ret(miss))
		p = append(append(p, unless(number, len(body))), body...)
	}
	byArgument(unix.SYS_SOCKET, offsetArg0, socketFamilies, retAllow, errNoFamily)
	// Input into, and the clipboard of, a terminal that others use too.
	byArgument(unix.SYS_IOCTL, offsetArg1, []uint32{unix.TIOCSTI, 0x541c /* TIOCLINUX */}, errForbidden, retAllow)
	byArgument(unix.SYS_KEYCTL, offsetArg0, []uint32{keyctlJoin}, retAllow, errForbidden)
	for _, denied := range []struct{ number, ret uint32 }{
		// Its operations include opening sockets, past this filter.
		{unix.SYS_IO_URING_SETUP, errNoSyscall},
		{unix.SYS_IO_URING_ENTER, errNoSyscall},
		{unix.SYS_IO_URING_REGISTER, errNoSyscall},
		// Keys are the kernel's, not a namespace's.
		{unix.SYS_ADD_KEY, errForbidden},
		{unix.SYS_REQUEST_KEY, errForbidden},
		// No agent's business, and rich in past holes.
		{unix.SYS_BPF, errForbidden},
		{unix.SYS_PERF_EVENT_OPEN, errForbidden},
		{unix.SYS_USERFAULTFD, errForbidden},
	} {
		p = append(p, unless(denied.number, 1), ret(denied.ret))
	}
	p = append(p, ret(retAllow))
	raw, err := bpf.Assemble(p)
	if err != nil {
		return nil, fmt.Errorf("make system call filter: %w", err)
	}
	var out bytes.Buffer
	for _, i := range raw {
		if err := binary.Write(&out, binary.LittleEndian, i); err != nil {
			return nil, fmt.Errorf("make system call filter: %w", err)
		}
	}
	return out.Bytes(), nil
}
