package sandbox

import (
	"encoding/binary"
	"runtime"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// verdict returns what the filter does with a call.
func verdict(t *testing.T, who caller, name string, args ...uint32) uint32 {
	t.Helper()
	machine, err := arch.GetInfo(runtime.GOARCH)
	require.NoError(t, err)
	number, ok := machine.SyscallNames[name]
	require.True(t, ok, name)
	raw, err := filter(who)
	require.NoError(t, err)
	var program []bpf.Instruction
	for ; len(raw) > 0; raw = raw[8:] {
		program = append(program, bpf.RawInstruction{
			Op: binary.LittleEndian.Uint16(raw), Jt: raw[2], Jf: raw[3], K: binary.LittleEndian.Uint32(raw[4:]),
		}.Disassemble())
	}
	vm, err := bpf.NewVM(program)
	require.NoError(t, err)
	data := make([]byte, 64) // struct seccomp_data, in the order of bytes that this machine has
	binary.BigEndian.PutUint32(data[offsetNumber:], uint32(number))
	binary.BigEndian.PutUint32(data[offsetArch:], uint32(machine.ID))
	for i, a := range args {
		binary.BigEndian.PutUint32(data[offsetArguments+8*i:], a)
	}
	out, err := vm.Run(data)
	require.NoError(t, err)
	return uint32(out)
}

// TestNobodyIsStopped: where the command could stop what ends the sandbox, no call sends SIGSTOP,
// in whatever way and to whatever number. Other signals pass.
func TestNobodyIsStopped(t *testing.T) {
	t.Parallel()
	const stop, term = uint32(unix.SIGSTOP), uint32(unix.SIGTERM)
	for _, who := range []caller{callerContained, callerForeign, callerMachine} {
		for _, c := range []struct {
			name string
			args func(signal uint32) []uint32
		}{
			{"kill", func(s uint32) []uint32 { return []uint32{7, s} }},
			{"kill", func(s uint32) []uint32 { return []uint32{^uint32(0), s} }},
			{"tkill", func(s uint32) []uint32 { return []uint32{7, s} }},
			{"tgkill", func(s uint32) []uint32 { return []uint32{7, 8, s} }},
			{"rt_sigqueueinfo", func(s uint32) []uint32 { return []uint32{7, s} }},
			{"rt_tgsigqueueinfo", func(s uint32) []uint32 { return []uint32{7, 8, s} }},
			{"pidfd_send_signal", func(s uint32) []uint32 { return []uint32{3, s} }},
			{"fcntl", func(s uint32) []uint32 { return []uint32{3, 10, s} }},
			{"clone", func(s uint32) []uint32 { return []uint32{unix.CLONE_PARENT | s} }},
		} {
			require.Equal(t, errForbidden, verdict(t, who, c.name, c.args(stop)...), "%d: %s", who, c.name)
			require.EqualValues(t, retAllow, verdict(t, who, c.name, c.args(term)...), "%d: %s", who, c.name)
		}
		require.EqualValues(t, retAllow, verdict(t, who, "fcntl", 3, unix.F_DUPFD, stop))
		require.Equal(t, errForbidden, verdict(t, who, "clone", unix.CLONE_NEWUSER|term), "what else is decided stays")
	}
	require.Equal(t, errForbidden, verdict(t, callerContained, "kill", 1, term))
	require.Equal(t, errForbidden, verdict(t, callerForeign, "tgkill", 1, 9, term))
	passes := verdict(t, callerCommand, "kill", 7, stop)
	require.EqualValues(t, retAllow, passes, "nobody inside can stop the first process")
}
