package hostpath

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// place is a file by where it is in its file system. A folder that is mounted twice has two paths
// and one place.
type place struct {
	device string // major:minor, as in mountinfo
	path   string // from the file system's root
}

func (p place) within(dir place) bool { return p.device == dir.device && within(p.path, dir.path) }

// mount is a line of /proc/self/mountinfo.
type mount struct {
	id       uint64
	root     place
	point    string
	readOnly bool
}

// mounts lists the mounts and their places, in the order of mounting.
type mounts []mount

func readMounts() (mounts, error) {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list the mounts: %w", err)
	}
	var all mounts
	for line := range strings.Lines(string(content)) {
		// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue; see
		// proc_pid_mountinfo(5)
		words := strings.Fields(line)
		if len(words) < 6 {
			return nil, fmt.Errorf("list the mounts: /proc/self/mountinfo has a line of an unknown form: %q", line)
		}
		id, err := strconv.ParseUint(words[0], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("list the mounts: /proc/self/mountinfo has a line of an unknown form: %q", line)
		}
		readOnly := slices.ContainsFunc([]string{words[5], words[len(words)-1]}, func(options string) bool {
			return slices.Contains(strings.Split(options, ","), "ro") // of the mount, or of the file system
		})
		all = append(all, mount{id, place{words[2], unescape(words[3])}, unescape(words[4]), readOnly})
	}
	return all, nil
}

// unescape undoes the \040 of mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// place returns where the file at the real path is, in the mount of that ID.
func (m mounts) place(real string, id uint64) (place, bool) {
	for _, mount := range m {
		if mount.id == id && within(real, mount.point) {
			return mount.at(real), true
		}
	}
	return place{}, false
}

func (m mount) at(real string) place {
	return place{m.root.device, path.Join(m.root.path, strings.TrimPrefix(real, m.point))}
}

// places returns where the folder at the real path is, and the places of all that is mounted in it.
func (m mounts) places(real string) []place {
	var around *mount
	var all []place
	for i := range m {
		switch {
		case within(real, m[i].point) && (around == nil || len(m[i].point) >= len(around.point)):
			around = &m[i]
		case within(m[i].point, real):
			all = append(all, m[i].root)
		}
	}
	if around != nil {
		all = append(all, around.at(real))
	}
	return all
}

// Mount is a mount in a folder in which files can be written.
type Mount struct {
	// Point is the path at which it is.
	Point string
	// Whole is set if it shows a whole file system: no file in it has a name elsewhere.
	Whole bool
	// Also are further paths in the folder, or the folder itself, that show the same, or a part.
	Also []string
}

// MountsIn returns the mounts in the folder at the real path in which files can be written.
func MountsIn(real string) (found []Mount, err error) {
	all, err := readMounts()
	if err != nil {
		return nil, err
	}
	around := mount{}
	var in mounts
	for _, m := range all {
		switch {
		// What is mounted last at a path covers what was there.
		case within(real, m.point) && len(m.point) >= len(around.point):
			around = m
		case within(m.point, real):
			in = append(in, m)
		}
	}
	shown := append(mounts{{root: around.at(real), point: real}}, in...)
	for _, m := range in {
		if m.readOnly {
			continue
		}
		one := Mount{Point: m.point, Whole: m.root.path == "/"}
		for _, other := range shown {
			also := other.point
			if m.root.within(other.root) {
				also = path.Join(other.point, strings.TrimPrefix(m.root.path, other.root.path))
			} else if !other.root.within(m.root) {
				continue
			}
			if also != m.point {
				one.Also = append(one.Also, also)
			}
		}
		found = append(found, one)
	}
	return found, nil
}
