package bubblewrap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/view"
)

// Where root runs a sandbox, everything in it is an ordinary user of the host that nobody else is:
// what escapes, by a hole in the kernel or a descriptor that was forgotten, is not root. In the
// working folder this user is its owner, by way of a mount that maps one to the other, so files
// keep the owner they had. What is root's alone but shown, such as a toolchain in its home, is
// mapped in the same way.

// agentAccount is the account whose subordinate IDs in /etc/subuid and /etc/subgid are used.
const agentAccount = "postern-agent"

// The IDs that are used if there is no such account: between the IDs of containers and the IDs that
// nobody may use, see systemd's UIDS-GIDS.
const (
	firstAgentID = 1990000000
	agentIDs     = 65536
)

// User is the user that root's sandbox is on the host.
type User struct{ UID, GID int }

// UnableError is why this machine or a file system cannot have the sandbox be a user of its own. No
// agent can cause it.
type UnableError struct{ err error }

func (e *UnableError) Error() string { return e.err.Error() }
func (e *UnableError) Unwrap() error { return e.err }

// NewUser returns the user for this process' sandbox. Two sandboxes that run at the same time are
// different users: the kernel's budgets are a user's. Each error is an [UnableError].
func NewUser() (*User, error) {
	u := new(User)
	if err := u.find(); err != nil {
		return nil, &UnableError{err}
	}
	return u, nil
}

func (u *User) find() error {
	for _, id := range []struct {
		file, mapped string
		to           *int
	}{{"/etc/subuid", "/proc/self/uid_map", &u.UID}, {"/etc/subgid", "/proc/self/gid_map", &u.GID}} {
		first, count := firstAgentID, agentIDs
		content, err := os.ReadFile(id.file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("find subordinate IDs: %w", err)
		}
		for line := range strings.Lines(string(content)) {
			name, f, c, err := subordinateRange(line)
			if name != agentAccount {
				continue
			}
			if err != nil {
				return fmt.Errorf("%s: %w: want %s:FIRST:COUNT", id.file, err, agentAccount)
			}
			first, count = f, c
		}
		*id.to = first + os.Getpid()%count
		if mapped, err := isMapped(id.mapped, *id.to); err != nil || !mapped {
			return fmt.Errorf("%s has no ID %d: %w", id.mapped, *id.to, errors.Join(err, fs.ErrNotExist))
		}
	}
	for _, s := range userNamespaceSwitches {
		if content, err := os.ReadFile(s.file); err == nil && strings.TrimSpace(string(content)) == s.forbids {
			return fmt.Errorf("ordinary users may not make user namespaces (%s)", s.allow)
		}
	}
	return nil
}

// subordinateRange reads a line of /etc/subuid. Root is never subordinate.
func subordinateRange(line string) (name string, first, count int, err error) {
	fields := strings.Split(strings.TrimSpace(line), ":")
	if len(fields) != 3 {
		return fields[0], 0, 0, errors.New("not three fields")
	}
	first, err1 := strconv.Atoi(fields[1])
	count, err2 := strconv.Atoi(fields[2])
	if err := errors.Join(err1, err2); err != nil || first < 1000 || count < 1 {
		return fields[0], 0, 0, errors.Join(err, errors.New("not a range of IDs from 1000"))
	}
	return fields[0], first, count, nil
}

// isMapped reports whether this process' user namespace has the ID.
func isMapped(file string, id int) (bool, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return false, fmt.Errorf("read user namespace: %w", err)
	}
	for line := range strings.Lines(string(content)) {
		var inside, outside, count int
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err != nil {
			return false, fmt.Errorf("read user namespace: %w", err)
		}
		if id >= inside && id-inside < count {
			return true, nil
		}
	}
	return false, nil
}

// Prepare gives the calling thread mounts of its own, in which the user sees what the view shows,
// and has cmd, which is bwrap, start as that user. The thread must not be used for anything else,
// whether Prepare succeeds or not.
//
// An [UnableError] is why this machine cannot do that. Any other error ends the run, because an
// agent that works above can cause it.
func (u *User) Prepare(cmd *exec.Cmd, v *view.View) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return &UnableError{fmt.Errorf("make mount namespace: %w", err)}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return &UnableError{fmt.Errorf("keep mounts from the host: %w", err)}
	}
	m := idMounts{user: u, view: v, program: cmd.Path, maps: map[idMap]*os.File{}, covers: map[string][]idMount{}}
	defer m.close()
	if err := m.add(cmd.Path); err != nil {
		return err
	}
	for _, mount := range v.Mounts {
		if mount.Kind != view.Bind {
			continue
		}
		if err := m.add(mount.Source); err != nil {
			return err
		}
	}
	if err := m.attach(); err != nil {
		return err
	}
	cmd.Dir = "/"
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID)}
	return nil
}

// idMount is a copy of a mount that is nowhere yet.
type idMount struct {
	path string
	tree int
	dir  bool
}

// idMap maps the owner of a mounted folder to the user.
type idMap struct {
	uid, gid int
	// others means that all other users keep their IDs. Without it the user may not write their
	// files, and not connect to their sockets, whatever the mode says.
	others bool
}

// idMounts collects what must be mounted differently for the user.
type idMounts struct {
	user *User
	view *view.View
	// program is any that exists.
	program string
	// maps are user namespaces, by their maps.
	maps map[idMap]*os.File
	// covers are the folders that the user may not search, with the parts that the user shall see.
	// "" shows what is mapped at its own place.
	covers map[string][]idMount
	done   []string
}

// add looks at the way to a path, which is real, and at the path itself.
func (m *idMounts) add(path string) error {
	if slices.ContainsFunc(m.done, func(d string) bool { return path == d || strings.HasPrefix(path, d+"/") }) {
		return nil
	}
	workdir := path == m.view.Workdir.Path
	cover, always := "", workdir
	var way []string
	for dir := path; dir != "/"; dir = filepath.Dir(dir) {
		way = append(way, dir)
	}
	slices.Reverse(way)
	for _, dir := range way {
		info, err := os.Lstat(dir)
		if err != nil {
			return fmt.Errorf("look at the way to %s: %w", path, err)
		}
		mode := info.Mode()
		if dir != path && mode.Perm()&0o001 == 0 {
			cover = dir
			break
		}
		if dir == path && (mode.IsDir() && mode.Perm()&0o005 != 0o005 || !mode.IsDir() && mode.Perm()&0o004 == 0) {
			always = true
		}
	}
	if cover == "" && !always {
		return nil
	}
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	// The path is real. A link on the way is of a user who may write there, such as a node's, and
	// would be followed as root.
	place, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return fmt.Errorf("take mount of %s: %w", path, err)
	}
	defer unix.Close(place)
	const clone = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_RECURSIVE | unix.AT_EMPTY_PATH
	tree, err := unix.OpenTree(place, "", clone)
	if err != nil {
		err = fmt.Errorf("take mount of %s: %w", path, err)
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
			return &UnableError{err}
		}
		return err
	}
	m.covers[cover] = append(m.covers[cover], idMount{path: path, tree: tree, dir: info.IsDir()})
	// What follows fails for what is at the path, which has to be what was looked at.
	var taken unix.Stat_t
	if err := unix.Fstat(tree, &taken); err != nil {
		return fmt.Errorf("look at the mount of %s: %w", path, err)
	}
	checked := m.view.Workdir
	if workdir && (taken.Dev != checked.Device || taken.Ino != checked.Inode) || taken.Ino != owner.Ino {
		return fmt.Errorf("take mount of %s: it is no longer the mount that was checked: run this again", path)
	}
	namespace, err := m.namespace(idMap{uid: int(owner.Uid), gid: int(owner.Gid), others: !workdir})
	if err != nil {
		return err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(namespace.Fd())}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return &UnableError{
			fmt.Errorf("map the owner of %s: %w (does its file system support idmapped mounts?)", path, err),
		}
	}
	m.done = append(m.done, path)
	return nil
}

// mapping returns the map of the owner's ID to the user's.
func (m idMap) mapping(owner, user int) []syscall.SysProcIDMap {
	ids := []syscall.SysProcIDMap{{ContainerID: owner, HostID: user, Size: 1}}
	if !m.others {
		return ids
	}
	next := 0
	for _, id := range []int{min(owner, user), max(owner, user), firstAgentID + agentIDs} {
		if id > next {
			ids = append(ids, syscall.SysProcIDMap{ContainerID: next, HostID: next, Size: id - next})
		}
		next = max(next, id+1)
	}
	return ids
}

// namespace returns a user namespace with the map. It belongs to a process that never runs.
func (m *idMounts) namespace(key idMap) (*os.File, error) {
	if f := m.maps[key]; f != nil {
		return f, nil
	}
	process, err := os.StartProcess(m.program, []string{m.program}, &os.ProcAttr{Sys: &syscall.SysProcAttr{
		Ptrace: true, Pdeathsig: unix.SIGKILL, Cloneflags: unix.CLONE_NEWUSER,
		UidMappings: key.mapping(key.uid, m.user.UID),
		GidMappings: key.mapping(key.gid, m.user.GID),
	}})
	if err != nil {
		return nil, &UnableError{fmt.Errorf("make user namespace: %w", err)}
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", process.Pid))
	if kerr := process.Kill(); kerr != nil {
		err = errors.Join(err, kerr)
	}
	// It stops once, before its first instruction, and then dies.
	for {
		var status unix.WaitStatus
		_, werr := unix.Wait4(process.Pid, &status, 0, nil)
		if werr != nil && !errors.Is(werr, unix.EINTR) || status.Exited() || status.Signaled() {
			break
		}
	}
	_ = process.Release()
	if err != nil {
		return nil, fmt.Errorf("open user namespace: %w", err)
	}
	m.maps[key] = f
	return f, nil
}

// attach puts the mounts in the places of the originals. It covers a folder that the user may not
// search with an empty one that has only what is shown.
func (m *idMounts) attach() error {
	for cover, mounts := range m.covers {
		if cover != "" {
			const flags = unix.MS_NOSUID | unix.MS_NODEV
			if err := unix.Mount("postern", cover, "tmpfs", flags, "mode=0755,size=1m"); err != nil {
				return fmt.Errorf("cover %s: %w", cover, err)
			}
		}
		for _, mount := range mounts {
			if cover != "" {
				if err := mount.place(); err != nil {
					return fmt.Errorf("make place for %s: %w", mount.path, err)
				}
			}
			err := unix.MoveMount(mount.tree, "", unix.AT_FDCWD, mount.path, unix.MOVE_MOUNT_F_EMPTY_PATH)
			if err != nil {
				return fmt.Errorf("mount %s: %w", mount.path, err)
			}
		}
	}
	return nil
}

// place makes what the mount is mounted on, and every folder above it.
func (mount *idMount) place() error {
	dir := mount.path
	if !mount.dir {
		dir = filepath.Dir(dir)
	}
	//nolint:gosec // in a mount namespace of our own, for a user to search
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if mount.dir {
		return nil
	}
	f, err := os.OpenFile(mount.path, os.O_CREATE|os.O_RDONLY, 0o400)
	if err != nil {
		return err
	}
	return f.Close()
}

func (m *idMounts) close() {
	for _, f := range m.maps {
		f.Close()
	}
	for _, mounts := range m.covers {
		for _, mount := range mounts {
			unix.Close(mount.tree)
		}
	}
}
