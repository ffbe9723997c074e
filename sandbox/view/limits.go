package view

import (
	"cmp"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Limits bound what all processes of a sandbox use together. A field that is 0 means the default.
type Limits struct {
	// Processes counts threads too.
	Processes uint64
	// Memory is in bytes. It holds only where there is a control group.
	Memory uint64
	// Scratch is in bytes, for each of the folders that are in memory.
	Scratch uint64
	// Processors is in thousandths of one. It holds in containers only: elsewhere the kernel shares
	// the processors out by turns.
	Processors uint64
}

// defaultLimits let an agent fill neither the process table nor the memory, nor all processors.
func defaultLimits() (Limits, error) {
	var machine unix.Sysinfo_t
	if err := unix.Sysinfo(&machine); err != nil {
		return Limits{}, fmt.Errorf("find size of memory: %w", err)
	}
	memory := uint64(machine.Totalram) * uint64(machine.Unit) //nolint:unconvert // 32 bits elsewhere
	return Limits{
		Processes: 4096, Memory: memory / 4 * 3, Scratch: memory / 4,
		Processors: max(uint64(runtime.NumCPU())*1000/4*3, 1000),
	}, nil
}

// or returns l with the defaults in place of what is 0.
func (l Limits) or(defaults Limits) Limits {
	return Limits{
		Processes:  cmp.Or(l.Processes, defaults.Processes),
		Memory:     cmp.Or(l.Memory, defaults.Memory),
		Scratch:    cmp.Or(l.Scratch, defaults.Scratch),
		Processors: cmp.Or(l.Processors, defaults.Processors),
	}
}
