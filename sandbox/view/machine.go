package view

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// machine is the machine from which a view is made.
type machine struct {
	// root is the folder that holds the machine's files; "" is this machine's own. A test has small
	// machines.
	root string
	// uid and gid are the caller's.
	uid, gid int
	defaults Limits
	files    memo[fs.FileInfo]
	folders  memo[[]fs.DirEntry]
}

// memo has what was asked before: a view asks thousands of questions about some hundred paths, and
// the command waits for the answers.
type memo[T any] map[string]struct {
	answer T
	err    error
}

func (m *memo[T]) ask(path string, ask func(string) (T, error)) (T, error) {
	known, ok := (*m)[path]
	if !ok {
		known.answer, known.err = ask(path)
		if *m == nil {
			*m = memo[T]{}
		}
		(*m)[path] = known
	}
	return known.answer, known.err
}

// thisMachine is the one that this process runs on.
func thisMachine() (*machine, error) {
	defaults, err := defaultLimits()
	return &machine{uid: os.Getuid(), gid: os.Getgid(), defaults: defaults}, err
}

// at returns this process's path for the machine's absolute path.
func (m *machine) at(path string) string { return m.root + path }

func (m *machine) lstat(path string) (fs.FileInfo, error) { return m.files.ask(m.at(path), os.Lstat) }

func (m *machine) readDir(path string) ([]fs.DirEntry, error) {
	return m.folders.ask(m.at(path), os.ReadDir)
}

func (m *machine) readlink(path string) (string, error) { return os.Readlink(m.at(path)) }

func (m *machine) read(path string) ([]byte, error) { return os.ReadFile(m.at(path)) }

// exists reports whether there is something where the path leads.
func (m *machine) exists(path string) bool {
	_, _, err := m.resolve(path)
	return err == nil
}

// isDir reports whether the path leads to a folder.
func (m *machine) isDir(path string) bool {
	real, _, err := m.resolve(path)
	if err != nil {
		return false
	}
	info, err := m.lstat(real)
	return err == nil && info.IsDir()
}

// maxSettings is how much is read of one file, in bytes. The end of a run names the files with
// settings of git that are larger (package since).
const maxSettings = 1 << 20

// readSmall reads what an agent may have put there: neither a device nor a pipe is opened, which may
// have an effect, and of a large file only the beginning counts.
func (m *machine) readSmall(path string) ([]byte, error) {
	place, err := unix.Open(m.at(path), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(place)
	var st unix.Stat_t
	if err := unix.Fstat(place, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.Join(err, fs.ErrInvalid)
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", place)) // the same file
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSettings))
}

// match returns what exists below dir and matches the pattern, each element as in [path.Match]. dir
// is not a pattern: it may have any name.
func (m *machine) match(dir, pattern string) []string {
	first, rest, more := strings.Cut(pattern, "/")
	names := []string{first}
	if strings.ContainsAny(first, `*?[\`) {
		entries, err := m.readDir(dir)
		if err != nil {
			return nil
		}
		names = nil
		for _, e := range entries {
			if ok, err := path.Match(first, e.Name()); err == nil && ok {
				names = append(names, e.Name())
			}
		}
	}
	var found []string
	for _, name := range names {
		switch at := filepath.Join(dir, name); {
		case more:
			found = append(found, m.match(at, rest)...)
		case len(m.existing(at)) == 1:
			found = append(found, at)
		}
	}
	return found
}

// within reports whether path is dir or below it. Both are clean and absolute.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// overlap reports whether one of the two contains the other.
func overlap(a, b string) bool { return within(a, b) || within(b, a) }

// symlink is one step in resolving a path.
type symlink struct{ path, target string }

// resolve returns the real path of path and the symbolic links on the way.
func (m *machine) resolve(path string) (real string, links []symlink, err error) {
	rest := strings.Split(strings.Trim(filepath.Clean(path), "/"), "/")
	real = "/"
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			real = filepath.Dir(real)
			continue
		}
		next := filepath.Join(real, name)
		info, err := m.lstat(next)
		if err != nil {
			return "", nil, fmt.Errorf("resolve %s: %w", path, err)
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			real = next
			continue
		}
		target, err := m.readlink(next)
		if err != nil {
			return "", nil, fmt.Errorf("resolve %s: %w", path, err)
		}
		if len(links) == 40 { // as the kernel does
			return "", nil, fmt.Errorf("resolve %s: too many symbolic links", path)
		}
		links = append(links, symlink{path: next, target: target})
		if filepath.IsAbs(target) {
			real = "/"
		}
		rest = append(strings.Split(strings.Trim(target, "/"), "/"), rest...)
	}
	return real, links, nil
}

// real returns where the path leads, or the path itself if it leads nowhere.
func (m *machine) real(path string) string {
	if real, _, err := m.resolve(path); err == nil {
		return real
	}
	return path
}

// callerHome returns the path by which the caller calls its home, and the links on the way. Without
// a home there is one in the sandbox.
func (m *machine) callerHome(variable string) (home string, links []symlink) {
	home = filepath.Clean(variable)
	if !filepath.IsAbs(home) || home == "/" {
		home = "/home/agent"
	}
	_, links, _ = m.resolve(home)
	return home, links
}

// isRegular reports whether the path is a regular file, and no link.
func (m *machine) isRegular(path string) bool {
	info, err := m.lstat(path)
	return err == nil && info.Mode().IsRegular()
}

// isOthers reports whether somebody besides root and the caller owns the path or may write it.
func (m *machine) isOthers(path string) bool {
	info, err := m.lstat(path)
	if err != nil {
		return true
	}
	return !slices.Contains([]int{0, m.uid}, owner(info)) || info.Mode().Perm()&0o022 != 0
}
