package provider

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
)

// accounts are the two users. nil means that everything runs as the caller.
type accounts struct{ control, node *syscall.Credential }

// lookUp finds both users.
func lookUp() (*accounts, error) {
	control, err := credential(home.ControlUser)
	if err != nil {
		return nil, err
	}
	node, err := credential(home.NodeUser)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(control.Groups, node.Gid) {
		return nil, fmt.Errorf("%s is not a member of the group %s", home.ControlUser, home.NodeUser)
	}
	if slices.Contains(node.Groups, control.Gid) {
		return nil, fmt.Errorf("%s is a member of the group %s, whose files it must not read", home.NodeUser, home.ControlUser)
	}
	return &accounts{control: control, node: node}, nil
}

func credential(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("there is no user %s", name)
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("look up the groups of %s: %w", name, err)
	}
	var numbers []uint32
	for _, id := range append([]string{u.Uid, u.Gid}, ids...) {
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("%s has root's ID, or an ID that is not a number: %q", name, id)
		}
		numbers = append(numbers, uint32(n))
	}
	return &syscall.Credential{Uid: numbers[0], Gid: numbers[1], Groups: numbers[2:]}, nil
}

// makeUsers is the command that creates both users, to paste.
const makeUsers = "systemd-sysusers - <packaging/sysusers.d/postern.conf"

// Separate reports whether the control plane and the nodes of the stack in home run as users of
// their own. If root could have separate users and has none, it returns the reason. It returns an
// error if the stack had separate users and would lose them.
func Separate(home home.Folder, p *plan.Plan) (separate bool, why string, err error) {
	if os.Geteuid() != 0 {
		return false, "", nil
	}
	a, err := lookUp()
	if err == nil {
		err = a.reach(home, p)
	} else {
		err = fmt.Errorf("%w: run `%s`", err, makeUsers)
	}
	if err == nil {
		return true, "", nil
	}
	if info, failed := os.Stat(home.ControlDir()); failed == nil && info.Mode()&fs.ModeSticky != 0 {
		return false, "", fmt.Errorf("this stack's control plane and nodes ran as users of their own, and no longer can: %w", err)
	}
	return false, err.Error(), nil
}

// reach reports what of the stack the users cannot get to, and what to do.
func (a *accounts) reach(folder home.Folder, p *plan.Plan) error {
	// The folder itself and what is in it get their modes from own.
	base := filepath.Dir(filepath.Dir(folder.Root))
	for name, as := range map[string]*syscall.Credential{home.ControlUser: a.control, home.NodeUser: a.node} {
		if err := may(as, base, unix.X_OK); err != nil {
			return fmt.Errorf("%s may not enter %s, where the state folder is: unset POSTERN_HOME and XDG_STATE_HOME, then it is below /var/lib/postern", name, base)
		}
	}
	if roots := os.Getenv("SSL_CERT_FILE"); roots != "" {
		if err := may(a.node, roots, unix.R_OK); err != nil {
			return fmt.Errorf("%s may not read $SSL_CERT_FILE: run `chmod a+r %s`, and see that its folders may be entered", home.NodeUser, roots)
		}
	}
	for _, c := range p.Credentials {
		r, err := plan.ParseReference(c.Secret)
		if err != nil || r.Source != plan.SourceFile {
			continue
		}
		err = may(a.control, r.Name, unix.R_OK)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("credential %s: %s may not read %s: run `chgrp %s %s && chmod 640 %s`, and see that its folders may be entered",
				c.Name, home.ControlUser, r.Name, home.ControlUser, r.Name, r.Name)
		}
	}
	for _, agent := range p.Agents {
		for _, rule := range agent.Rules {
			socket, ok := "", false
			if rule.Upstream != nil {
				socket, ok = strings.CutPrefix(rule.Upstream.Address, "unix:")
			}
			if !ok {
				continue
			}
			if err := may(a.node, filepath.Dir(socket), unix.X_OK); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("upstream of %s: %s may not enter %s, where its socket is", rule.Host, home.NodeUser, filepath.Dir(socket))
			}
		}
	}
	return nil
}

// may asks the kernel, as the user, for the access to path.
func may(as *syscall.Credential, path string, access uint32) error {
	answer := make(chan error)
	go func() {
		// The thread stays locked: it ends with the goroutine, and so does its identity.
		runtime.LockOSThread()
		answer <- func() error {
			groups := []int{}
			for _, g := range as.Groups {
				groups = append(groups, int(g))
			}
			// These three are of the thread alone.
			if err := errors.Join(unix.Setgroups(groups), unix.Setfsgid(int(as.Gid)), unix.Setfsuid(int(as.Uid))); err != nil {
				return fmt.Errorf("act as user %d: %w", as.Uid, err)
			}
			return unix.Faccessat(unix.AT_FDCWD, path, access, unix.AT_EACCESS)
		}()
	}()
	return <-answer
}

// own makes the folders that both users need, with owners and modes under which neither user can
// replace the other's files: in a folder with the sticky bit, only root renames or removes what
// root has created (see docs/packaging.md).
func (a *accounts) own(home home.Folder) error {
	root, control, node := 0, int(a.control.Uid), int(a.node.Uid)
	cgroup, ngroup := int(a.control.Gid), int(a.node.Gid)
	store := filepath.Join(home.Root, "bundle")
	for _, f := range []struct {
		path     string
		uid, gid int
		mode     fs.FileMode
		dir      bool
	}{
		{filepath.Dir(home.Root), root, root, 0o711, true},
		{home.Root, root, root, 0o711, true},
		{home.CADir(), root, root, 0o711, true},
		{home.CAKey(), control, cgroup, 0o400, false},
		{home.OperatorDir(), root, root, 0o711, true},
		{home.OperatorKey(), root, root, 0o600, false},
		{store, root, cgroup, 0o750, true},
		{home.ControlDir(), root, cgroup, 0o771 | fs.ModeSticky, true},
		{home.NodesDir(), root, root, 0o711, true},
		{home.AuditDir(), root, ngroup, 0o770 | fs.ModeSticky, true},
	} {
		if f.dir {
			// Not followed: a stack's users cannot write where these folders are.
			if err := os.MkdirAll(f.path, 0o700); err != nil {
				return fmt.Errorf("make folder: %w", err)
			}
		}
		if err := give(f.path, f.uid, f.gid, f.mode); err != nil && (f.dir || !errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	// What a run as root has left there.
	err := inherit(home.ControlDir(), control, cgroup, "log")
	for _, public := range []string{home.Trusted(), home.StoreFile(), home.RecordFile(), hostpath.In(filepath.Dir(home.Root)).File()} {
		if failed := give(public, root, root, 0o644); !errors.Is(failed, fs.ErrNotExist) {
			err = errors.Join(err, failed)
		}
	}
	if err != nil {
		return err
	}
	nodes, err := os.ReadDir(home.NodesDir())
	if err != nil {
		return fmt.Errorf("read the nodes' folder: %w", err)
	}
	for _, n := range nodes {
		if err := a.openNode(home.NodeDir(n.Name())); err != nil {
			return err
		}
	}
	published, err := os.ReadDir(store)
	if err != nil {
		return fmt.Errorf("read the bundle store: %w", err)
	}
	for _, e := range published {
		if err := give(filepath.Join(store, e.Name()), root, cgroup, 0o644); e.Type().IsRegular() && err != nil {
			return err
		}
	}
	events, err := os.ReadDir(home.AuditDir())
	if err != nil {
		return fmt.Errorf("read the audit folder: %w", err)
	}
	for _, e := range events {
		uid, gid := node, ngroup
		if strings.HasPrefix(e.Name(), "control") {
			uid, gid = control, cgroup
		}
		if err := giveTree(filepath.Join(home.AuditDir(), e.Name()), uid, gid); err != nil {
			return err
		}
	}
	return nil
}

// openNode makes the folder of one node, in which the control plane makes the agents' folders.
func (a *accounts) openNode(dir string) error {
	agents := filepath.Join(dir, "agents")
	if err := os.MkdirAll(agents, 0o700); err != nil {
		return fmt.Errorf("make node folder: %w", err)
	}
	return errors.Join(
		give(dir, 0, int(a.node.Gid), 0o770|fs.ModeSticky),
		give(agents, 0, int(a.control.Gid), 0o771|fs.ModeSticky),
		inherit(agents, int(a.control.Uid), int(a.node.Gid)),
	)
}

// ownNode gives the node its folder. It does not run.
func (a *accounts) ownNode(dir string) error {
	return errors.Join(a.openNode(dir), inherit(dir, int(a.node.Uid), int(a.node.Gid), "log", "agents"))
}

// give sets owner and mode of a file or folder, and follows no link.
func give(path string, uid, gid int, mode fs.FileMode) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("give %s to its user: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if err := errors.Join(f.Chown(uid, gid), f.Chmod(mode)); err != nil {
		return fmt.Errorf("give %s to its user: %w", path, err)
	}
	return nil
}

// inherit gives the user everything that root owns in the folder, except the given names.
func inherit(dir string, uid, gid int, but ...string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read folder: %w", err)
	}
	for _, e := range entries {
		if slices.Contains(but, e.Name()) {
			continue
		}
		if err := giveTree(filepath.Join(dir, e.Name()), uid, gid); err != nil {
			return err
		}
	}
	return nil
}

// giveTree gives path and everything below it to the user, as far as root owns it and has linked it
// nowhere else. It does not enter what the user owns. It gives exactly what it has inspected:
// nobody can put a link in its place meanwhile. What its user has removed meanwhile is not given.
func giveTree(path string, uid, gid int) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == nil {
		err = giveFile(fd, uid, gid)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("give %s to its user: %w", path, err)
	}
	return nil
}

// giveFile is giveTree for an open file (O_PATH), which it closes.
func giveFile(fd, uid, gid int) error {
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	folder := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if st.Uid != 0 || !folder && st.Nlink != 1 {
		return nil
	}
	if folder {
		dir, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(dir), ".")
		defer f.Close()
		names, err := f.Readdirnames(-1)
		if err != nil {
			return err
		}
		for _, name := range names {
			child, err := unix.Openat(fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err == nil {
				err = giveFile(child, uid, gid)
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	// The folder comes last: until then it belongs to root, and so does its content.
	return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH)
}

// programs is the folder with copies of the programs that a stack's users start.
func programs(home home.Folder) string { return filepath.Join(home.Root, "programs") }

// install copies programs into a folder below [programs]. The stack's users may start them there,
// and only root can change them. digest covers all the files together, so what is started is what
// was planned.
func install(home home.Folder, name, digest string, files ...string) (dir string, err error) {
	dir = filepath.Join(programs(home), name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("install programs: %w", err)
	}
	err = errors.Join(give(programs(home), 0, 0, 0o711), give(dir, 0, 0, 0o711))
	h := sha256.New()
	var staged []string
	for _, file := range files {
		to := filepath.Join(dir, filepath.Base(file)+".new")
		staged = append(staged, to)
		err = errors.Join(err, copyProgram(file, to, h))
	}
	if got := hex.EncodeToString(h.Sum(nil)); err == nil && got != digest {
		err = fmt.Errorf("%s changed while `up` ran: run it again", strings.Join(files, ", "))
	}
	for _, to := range staged {
		if err == nil {
			err = os.Rename(to, strings.TrimSuffix(to, ".new"))
		} else {
			os.Remove(to) //nolint:errcheck // it may not be there
		}
	}
	if err != nil {
		return "", fmt.Errorf("install programs: %w", err)
	}
	return dir, nil
}

func copyProgram(from, to string, h io.Writer) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	// The kernel lets no process of its own user look into a program that this
	// user cannot read (proc(5), dumpable). A library has to be read.
	mode := fs.FileMode(0o711)
	if filepath.Ext(from) == ".so" {
		mode = 0o644
	}
	_, err = io.Copy(io.MultiWriter(dst, h), src)
	return errors.Join(err, dst.Chmod(mode), dst.Close())
}
