package node

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/envoy"
)

// enoughHeap is the largest memory, in bytes, that Envoy gets: twice what it needs for 5,000
// destinations of each of 200 agents.
const enoughHeap = 4 << 30

// raiseDescriptors lets the next Envoy open as many files as the hard limit allows, and returns
// that number. It refuses a limit below [envoy.MinDescriptors].
func raiseDescriptors() (uint64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("find how many files Envoy may open: %w", err)
	}
	hard := limit.Max
	// Only root may raise the hard limit.
	limit.Cur, limit.Max = max(hard, envoy.MinDescriptors), max(hard, envoy.MinDescriptors)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("run Envoy: it may open %d files, and one agent can make it open %d; raise the limit to %d or more: "+
			"`ulimit -Hn` in a shell, LimitNOFILE= in a systemd unit, --ulimit nofile= for a container: %w", hard, envoy.AgentDescriptors, envoy.MinDescriptors, err)
	}
	return limit.Max, nil
}

// heap returns the memory that Envoy may take, in bytes: half of the machine's, or of the limit of
// this process' control group.
func heap() (uint64, error) {
	var machine unix.Sysinfo_t
	if err := unix.Sysinfo(&machine); err != nil {
		return 0, fmt.Errorf("find how much memory there is: %w", err)
	}
	least := uint64(machine.Totalram) * uint64(machine.Unit) //nolint:unconvert // 32 bits on some platforms
	if own, err := os.ReadFile("/proc/self/cgroup"); err == nil {
		_, group, _ := strings.Cut(strings.TrimSpace(string(own)), "0::")
		for dir := filepath.Join("/sys/fs/cgroup", group); strings.HasPrefix(dir, "/sys/fs/cgroup"); dir = filepath.Dir(dir) {
			content, err := os.ReadFile(filepath.Join(dir, "memory.max"))
			if err != nil {
				continue
			}
			if n, err := strconv.ParseUint(strings.TrimSpace(string(content)), 10, 64); err == nil && n > 0 {
				least = min(least, n)
			}
		}
	}
	return min(enoughHeap, least/2), nil
}

// pressure tells Envoy, until ctx is done, which part of its descriptors is open.
type pressure struct {
	dir   string
	limit uint64
	// said is the file's content, in hundredths.
	said int
}

// newPressure makes the file, without which Envoy does not start.
func newPressure(dir string, limit uint64) (*pressure, error) {
	p := &pressure{dir: dir, limit: limit}
	if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, envoy.PressurePath)), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of Envoy's pressure: %w", err)
	}
	return p, p.say(0)
}

func (p *pressure) say(hundredths int) error {
	path := filepath.Join(p.dir, envoy.PressurePath)
	// After a power cut the content does not matter.
	if err := os.WriteFile(path+".new", fmt.Appendf(nil, "%.2f", float64(hundredths)/100), 0o600); err != nil {
		return fmt.Errorf("write Envoy's pressure: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write Envoy's pressure: %w", err)
	}
	p.said = hundredths
	return nil
}

// watch follows the Envoy with that process ID.
func (p *pressure) watch(ctx context.Context, pid int) error {
	tick := time.NewTicker(envoy.PressureInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		open, err := openFiles(pid)
		if err != nil {
			continue // it has ended
		}
		part := min(100, int(math.Ceil(100*float64(open)/float64(p.limit))))
		if part != p.said {
			if err := p.say(part); err != nil {
				return err
			}
		}
	}
}

// openFiles counts the descriptors of a process.
func openFiles(pid int) (int, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	var stat unix.Stat_t
	if err := unix.Stat(dir, &stat); err != nil {
		return 0, err
	}
	if stat.Size > 0 { // Linux 6.2 and later
		return int(stat.Size), nil
	}
	names, err := os.ReadDir(dir)
	return len(names), err
}
