package bubblewrap

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
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

// If root runs a sandbox, everything in it is an ordinary user of the host that nobody else is. So
// what escapes, through a hole in the kernel or a forgotten descriptor, is not root. In the working
// directory a mount maps this user to the owner, so files keep the owner that they had. Root's own
// files that are shown, such as a toolchain in its home, are mapped in the same way.

// agentAccount is the account whose subordinate IDs in /etc/subuid and /etc/subgid are used.
const agentAccount = "postern-agent"

// These IDs are used if there is no such account. They are between the IDs of containers and the
// IDs that nobody may use; see systemd's UIDS-GIDS.
const (
	firstAgentID = 1990000000
	agentIDs     = 65536
)

// claims is the folder with a file for each ID that a sandbox has. Only root may open them.
const claims = "/run/postern-agents"

// User is the user that root's sandbox is on the host.
type User struct {
	UID, GID int
	// claim is the file of this ID, locked.
	claim *os.File
}

// UnableError is why this machine or a file system cannot have the sandbox be a user of its own. No
// agent can cause it.
type UnableError struct{ err error }

func (e *UnableError) Error() string { return e.err.Error() }
func (e *UnableError) Unwrap() error { return e.err }

// NewUser returns a user for one sandbox, which no other sandbox of this machine is before
// [User.Release] is called: the kernel's budgets are a user's, and so are signals. If this process
// is killed, nobody gets the user while a process of the sandbox is left. An [UnableError] is why
// the machine has no such users; any other error ends the run.
func NewUser() (*User, error) {
	first, count, err := idRanges()
	if err != nil {
		return nil, &UnableError{err}
	}
	for _, s := range userNamespaceSwitches {
		if content, err := os.ReadFile(s.file); err == nil && strings.TrimSpace(string(content)) == s.forbids {
			return nil, &UnableError{fmt.Errorf("ordinary users may not make user namespaces (%s)", s.allow)}
		}
	}
	if err := ownFolder(claims); err != nil {
		return nil, fmt.Errorf("choose a user for the agent: %w", err)
	}
	for i := range count {
		n := (os.Getpid() + i) % count
		u := &User{UID: first[0] + n, GID: first[1] + n}
		if err := u.take(claims); err == nil {
			return u, nil
		} else if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("choose a user for the agent: %w", err)
		}
	}
	return nil, fmt.Errorf("choose a user for the agent: all %d are in use: %s gives the account %s more", count,
		"/etc/subuid", agentAccount)
}

// Release lets another sandbox have the user. Nothing of this one may be left.
func (u *User) Release() {
	if u == nil || u.claim == nil {
		return
	}
	// The file is still locked. Without the file, nobody checks for processes that the user has
	// left.
	_ = os.Remove(u.claim.Name())
	u.claim.Close()
	u.claim = nil
}

// ownFolder makes the folder, in which only this user may look or write.
func ownFolder(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() || info.Mode().Perm() != 0o700 || int(info.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
		return fmt.Errorf("%s is not a folder of this user alone: remove it", dir)
	}
	return nil
}

// take claims the user's ID. The error is EWOULDBLOCK if a sandbox has it.
func (u *User) take(dir string) error {
	path := filepath.Join(dir, strconv.Itoa(u.UID))
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			return err
		}
		// The sandbox that had it may have removed the file since it was opened.
		held, err1 := f.Stat()
		named, err2 := os.Lstat(path)
		if err1 != nil || err2 != nil || !os.SameFile(held, named) {
			f.Close()
			continue
		}
		if held.Size() > 0 {
			// Nobody has released it: the process that had it was killed, and its sandbox may still
			// be ending.
			if left, err := anyProcessOf(u.UID); err != nil || left {
				f.Close()
				return errors.Join(err, unix.EWOULDBLOCK)
			}
		} else if _, err := f.WriteString("claimed\n"); err != nil {
			f.Close()
			return err
		}
		u.claim = f
		return nil
	}
}

// anyProcessOf reports whether the user has a process on this machine.
func anyProcessOf(uid int) (bool, error) {
	all, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return false, err
	}
	for _, path := range all {
		status, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, ids, _ := strings.Cut(string(status), "\nUid:")
		ids, _, _ = strings.Cut(ids, "\n")
		if slices.Contains(strings.Fields(ids), strconv.Itoa(uid)) {
			return true, nil
		}
	}
	return false, nil
}

// idRanges returns the first ID of users and of groups that agents may have, and how many there are
// of both.
func idRanges() (first [2]int, count int, err error) {
	count = math.MaxInt
	for i, id := range []struct{ file, mapped string }{
		{"/etc/subuid", "/proc/self/uid_map"}, {"/etc/subgid", "/proc/self/gid_map"},
	} {
		f, c := firstAgentID, agentIDs
		content, err := os.ReadFile(id.file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return first, 0, fmt.Errorf("find subordinate IDs: %w", err)
		}
		for line := range strings.Lines(string(content)) {
			name, lineFirst, lineCount, err := subordinateRange(line)
			if name != agentAccount {
				continue
			}
			if err != nil {
				return first, 0, fmt.Errorf("%s: %w: want %s:FIRST:COUNT", id.file, err, agentAccount)
			}
			f, c = lineFirst, lineCount
		}
		first[i], count = f, min(count, c)
		for _, end := range []int{f, f + c - 1} {
			if mapped, err := isMapped(id.mapped, end); err != nil || !mapped {
				return first, 0, fmt.Errorf("%s has no ID %d: %w", id.mapped, end, errors.Join(err, fs.ErrNotExist))
			}
		}
	}
	return first, count, nil
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
	if err := m.add(cmd.Path, false); err != nil {
		return err
	}
	for _, mount := range v.Mounts {
		if mount.Kind != view.Bind && mount.Kind != view.Layer {
			continue
		}
		// The owner of the agent's own folders is the agent.
		own := mount.Writable || mount.Kind == view.Layer || mount.Source == v.Workdir.Path
		if err := m.add(mount.Source, own); err != nil {
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

// idMount is a copy of a mount that has no place yet.
type idMount struct {
	path string
	tree int
	dir  bool
}

// idMap maps the owner of a mounted folder to the user.
type idMap struct {
	uid, gid int
	// others means that all other users keep their IDs. Otherwise the user can neither write their
	// files nor connect to their sockets, whatever the modes say.
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
	// "" shows the mapped folder at its own place.
	covers map[string][]idMount
	done   []string
}

// add looks at the way to a path, which is real, and at the path itself. own means that the path is
// a folder of the agent's.
func (m *idMounts) add(path string, own bool) error {
	if slices.ContainsFunc(m.done, func(d string) bool { return path == d || strings.HasPrefix(path, d+"/") }) {
		return nil
	}
	workdir := path == m.view.Workdir.Path
	cover, always := "", own
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
	// From here on an error means that the path no longer leads to what was looked at.
	var taken unix.Stat_t
	if err := unix.Fstat(tree, &taken); err != nil {
		return fmt.Errorf("look at the mount of %s: %w", path, err)
	}
	checked := m.view.Workdir
	if workdir && (taken.Dev != checked.Device || taken.Ino != checked.Inode) || taken.Ino != owner.Ino {
		return fmt.Errorf("take mount of %s: it is no longer the mount that was checked: run this again", path)
	}
	namespace, err := m.namespace(idMap{uid: int(owner.Uid), gid: int(owner.Gid), others: !own})
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
	// It stops before its first instruction, and is then killed.
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
