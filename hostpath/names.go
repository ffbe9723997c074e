package hostpath

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// namesPatience bounds the look for a file's other names in agents' folders, and namesDepth how
	// deep it goes.
	namesPatience = time.Second
	namesDepth    = 200
	// tick is longer than the kernel's clock for files is late.
	tick = 50 * time.Millisecond
)

// otherNames returns an error if the regular file at the end of the walk may have a name in an
// agent's folder. Names in the file's own folder are accounted for, because that folder was on the
// way.
func (f *Folders) otherNames(w *walk, path string) error {
	last := w.last()
	if !last.is(unix.S_IFREG) || last.links < 2 || len(w.at) < 2 {
		return nil
	}
	here, err := f.place(last)
	if err != nil {
		return err
	}
	if n, err := w.at[len(w.at)-2].names(last); err == nil && n >= last.links {
		return nil
	}
	s := &search{file: last, began: time.Now().Add(-tick), ends: time.Now().Add(namesPatience)}
	for _, a := range f.list {
		if a.home || !slices.ContainsFunc(a.places, func(p place) bool { return p.device == here.device }) {
			continue // a link cannot lead to another file system
		}
		if !s.lacks(&a) {
			return &WritableError{Path: path, Step: last.path, Folder: a.path, Names: int(last.links)}
		}
	}
	return nil
}

// search is a look for the names of a file.
type search struct {
	file        *file
	began, ends time.Time
}

// lacks reports whether no name of the file is in the agent's folder. The agent may rename what is
// there meanwhile. That changes the times of folders, which no agent can set back: so a folder that
// has just changed says nothing.
func (s *search) lacks(a *agentFolder) bool {
	if len(a.places) != 1 {
		return false // an agent that has begun before may see what a mount hides from us
	}
	w := &walk{}
	defer w.close()
	if w.to(a.path) != nil || !w.last().same(a.id) {
		return false // it was moved, and an agent that has begun before still has it
	}
	return s.none(w.last(), 0)
}

// none reports whether no name of the file is in the folder, nor below.
func (s *search) none(dir *file, depth int) bool {
	list, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", dir.fd))
	if err != nil {
		return false
	}
	defer list.Close()
	if depth > namesDepth || !keepsTimes(dir.fd) {
		return false
	}
	for {
		// Some at a time: an agent can make any number.
		entries, err := list.ReadDir(100)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return false
		}
		for _, e := range entries {
			if !s.other(dir, e, depth) {
				return false
			}
		}
	}
	var st unix.Stat_t
	err = unix.Fstat(dir.fd, &st)
	return err == nil && time.Unix(st.Ctim.Unix()).Before(s.began)
}

// other reports whether what is in the folder is not the file, and has no name of the file below.
func (s *search) other(dir *file, e os.DirEntry, depth int) bool {
	if time.Now().After(s.ends) {
		return false
	}
	if !e.IsDir() && !e.Type().IsRegular() {
		return true
	}
	child, err := dir.child(e.Name())
	if err != nil {
		return false
	}
	defer unix.Close(child.fd)
	if child.inode == s.file.inode && child.device == s.file.device {
		return false
	}
	return !child.is(unix.S_IFDIR) || s.none(&child, depth+1)
}

// keepsTimes reports whether the file system is one of this machine's own, whose clock is ours.
func keepsTimes(fd int) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && slices.Contains([]int64{
		unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC,
	}, int64(st.Type))
}

// names counts the names that the folder f has for the file.
func (f *file) names(of *file) (uint32, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/self/fd/%d", f.fd))
	if err != nil {
		return 0, err
	}
	n := uint32(0)
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		child, err := f.child(e.Name())
		if err != nil {
			return 0, err
		}
		if child.device == of.device && child.inode == of.inode {
			n++
		}
		unix.Close(child.fd)
	}
	return n, nil
}
