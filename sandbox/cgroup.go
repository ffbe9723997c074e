package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/bubblewrap"
	"github.com/postern/postern/sandbox/view"
)

// cgroup is the control group of a sandbox; on version 1, one for each controller. The zero value
// is none.
type cgroup struct {
	// folders are the groups.
	folders []string
	// unified is the group of version 2, open, or nil.
	unified *os.File
	// held are the limits that hold.
	held []string
}

// ofProcessors names a limit without a figure. However many processes an agent starts, together
// they have as much of the processors as one process of the caller, or on version 2 as one group.
const ofProcessors = "processors"

// groupPrefix begins the names of groups; the number of the process that made it follows.
const groupPrefix = "postern-run-"

// hierarchy is a place where control groups can be made.
type hierarchy struct {
	// parents are the folders of the caller's group and those above it, the topmost first.
	parents []string
	unified bool
	// controllers are the controllers of version 1.
	controllers []string
}

// newCgroup makes a group with as many of the limits as the caller may set. Only those are in held.
func newCgroup(l view.Limits) *cgroup {
	g := new(cgroup)
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return g
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return g
	}
	for _, h := range hierarchies(string(own), string(mounts)) {
		if h.unified {
			g.addUnified(h, l)
		} else {
			g.addLegacy(h, l)
		}
	}
	return g
}

// hierarchies finds the control groups of a process in the kernel's description of it.
func hierarchies(own, mounts string) []hierarchy {
	var all []hierarchy
	for line := range strings.Lines(own) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		controllers := strings.Split(fields[1], ",")
		for mount := range strings.Lines(mounts) {
			left, right, _ := strings.Cut(mount, " - ")
			place, kind := strings.Fields(left), strings.Fields(right)
			if len(place) < 5 || len(kind) < 3 {
				continue
			}
			unified := kind[0] == "cgroup2" && fields[0] == "0"
			if !unified && (kind[0] != "cgroup" || fields[1] == "" || !slices.Contains(strings.Split(kind[2], ","), controllers[0])) {
				continue
			}
			h := hierarchy{unified: unified, controllers: controllers}
			// The mount may show only a part, as in a container.
			rel, err := filepath.Rel(place[3], fields[2])
			if err != nil || strings.HasPrefix(rel, "..") {
				rel = "."
			}
			for dir := filepath.Join(place[4], rel); ; dir = filepath.Dir(dir) {
				h.parents = append([]string{dir}, h.parents...)
				if dir == place[4] || dir == "/" {
					break
				}
			}
			all = append(all, h)
			break
		}
	}
	return all
}

// addUnified makes a group of version 2 in the topmost place where it gets controllers.
func (g *cgroup) addUnified(h hierarchy, l view.Limits) {
	for _, parent := range h.parents {
		// A process may be moved only by a caller who may write to the common ancestor of both
		// groups.
		if unix.Access(filepath.Join(parent, "cgroup.procs"), unix.W_OK) != nil {
			continue
		}
		// Fails if the parent has processes, or does not belong to the caller.
		for _, controller := range []string{"+pids", "+memory", "+cpu"} {
			_ = os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte(controller), 0)
		}
		given, err := os.ReadFile(filepath.Join(parent, "cgroup.subtree_control"))
		if err != nil || !strings.Contains(string(given), "memory") && !strings.Contains(string(given), "pids") {
			continue
		}
		dir, err := makeGroup(parent)
		if err != nil {
			continue
		}
		folder, err := os.Open(dir)
		if err != nil {
			_ = os.Remove(dir)
			continue
		}
		g.folders, g.unified = append(g.folders, dir), folder
		g.set(dir, "pids.max", l.Processes, "processes")
		g.set(dir, "memory.max", l.Memory, "memory")
		if slices.Contains(strings.Fields(string(given)), "cpu") {
			g.held = append(g.held, ofProcessors)
		}
		return
	}
}

// addLegacy makes a group of version 1.
func (g *cgroup) addLegacy(h hierarchy, l view.Limits) {
	file, value, what := "", uint64(0), ""
	switch {
	case slices.Contains(h.controllers, "pids"):
		file, value, what = "pids.max", l.Processes, "processes"
	case slices.Contains(h.controllers, "memory"):
		file, value, what = "memory.limit_in_bytes", l.Memory, "memory"
	case slices.Contains(h.controllers, "cpu"):
		file, value, what = "cpu.shares", 1024, ofProcessors
	default:
		return
	}
	// In the caller's own group, so that its limits hold for the sandbox too.
	dir, err := makeGroup(h.parents[len(h.parents)-1])
	if err != nil {
		return
	}
	g.folders = append(g.folders, dir)
	g.set(dir, file, value, what)
}

func (g *cgroup) set(dir, file string, value uint64, what string) {
	if os.WriteFile(filepath.Join(dir, file), []byte(strconv.FormatUint(value, 10)), 0) == nil {
		g.held = append(g.held, what)
	}
}

// makeGroup makes a group, and removes groups that a killed process has left.
func makeGroup(parent string) (string, error) {
	left, err := filepath.Glob(filepath.Join(parent, groupPrefix+"*"))
	if err != nil {
		return "", fmt.Errorf("look for control groups: %w", err)
	}
	for _, dir := range left {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), groupPrefix), "-")
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, fs.ErrNotExist) {
			_ = os.Remove(dir) // one with processes stays
		}
	}
	dir, err := os.MkdirTemp(parent, fmt.Sprintf("%s%d-", groupPrefix, os.Getpid()))
	if err != nil {
		return "", fmt.Errorf("make control group: %w", err)
	}
	return dir, nil
}

// legacy returns the folders of version 1. For version 2, the process is forked into the group.
func (g *cgroup) legacy() []string {
	return slices.DeleteFunc(slices.Clone(g.folders), func(dir string) bool { return g.unified != nil && dir == g.unified.Name() })
}

// take moves the process, with all of its threads, into the groups of version 1. What the process
// starts later is in the groups too.
func (g *cgroup) take(pid int) error {
	for _, dir := range g.legacy() {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("move process into control group: %w", err)
		}
	}
	return nil
}

// takeFirst is take for the process that bwrap names in info, which is nil if there is no group of
// version 1.
func (g *cgroup) takeFirst(info *os.File) error {
	if info == nil {
		return nil
	}
	pid, err := bubblewrap.FirstProcess(info)
	if err != nil {
		return err
	}
	return g.take(pid)
}

// remove removes the group, whose processes have ended. The kernel may take a moment to notice.
func (g *cgroup) remove() {
	if g.unified != nil {
		g.unified.Close()
	}
	for _, dir := range g.folders {
		for range 50 {
			if err := os.Remove(dir); !errors.Is(err, unix.EBUSY) {
				break
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
}
