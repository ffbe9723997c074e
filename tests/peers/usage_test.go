package peers

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tree returns a process and all of its descendants.
func tree(root int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		f := statFields(path)
		if len(f) < 2 {
			continue // it has ended
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		parent, _ := strconv.Atoi(f[1])
		children[parent] = append(children[parent], pid)
	}
	all := []int{root}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// statFields are those of /proc/PID/stat after the name of the program.
func statFields(path string) []string {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
}

// cpuTime is what a process and its descendants have used, user and system, to
// the nanosecond: /proc lags behind by up to a tick, which is a lot of a turn.
func cpuTime(root int) time.Duration {
	if root == 0 {
		return 0
	}
	var sum time.Duration
	for _, pid := range tree(root) {
		var t unix.Timespec
		// clock_getcpuclockid(3): the clock of a whole process.
		if err := unix.ClockGettime(int32(^pid<<3|2), &t); err == nil { // otherwise it has ended
			sum += time.Duration(t.Nano())
		}
	}
	return sum
}

// residentMB is the memory of a process and its descendants.
func residentMB(root int) float64 {
	if root == 0 {
		return 0
	}
	var kb int64
	for _, pid := range tree(root) {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				n, _ := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
				kb += n
			}
		}
	}
	return float64(kb) / 1024
}
