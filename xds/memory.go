package xds

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

const (
	// garbage is the highest amount of garbage, in percent of the memory in use.
	garbage = 300
	// enoughMemory is the memory, in bytes, from which on garbage is collected as often as
	// necessary.
	enoughMemory = 1 << 30
)

// CollectLess makes the process of a control plane collect garbage less often
// than Go does by itself: it is small, and a collection during a publication takes
// a part of its processors when it needs them (docs/performance.md). It uses no more
// than 1 GiB for
// that, or three quarters of what its container has if that is less. GOGC and
// GOMEMLIMIT in the environment count instead. It is called once, at the start.
func CollectLess() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit("/sys/fs/cgroup/memory.max"))
	}
}

// memoryLimit reads the file of a cgroup's limit (cgroup v2, memory.max: bytes, or "max"), which
// only exists in a container.
func memoryLimit(file string) int64 {
	content, err := os.ReadFile(file)
	if err != nil {
		return enoughMemory
	}
	limit, err := strconv.ParseInt(strings.TrimSpace(string(content)), 10, 64)
	if err != nil || limit <= 0 {
		return enoughMemory
	}
	return min(enoughMemory, limit/4*3)
}
