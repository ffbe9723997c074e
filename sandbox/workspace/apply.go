package workspace

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/workspace/beneath"
	"github.com/postern/postern/visible"
)

// Applied counts what [Run.Apply] did.
type Applied struct {
	// Done is the number of changes that the host's folder has now, and Refused of those that it
	// has not. Never is the number of those that it never has: see [Change.Never].
	Done, Refused, Never int
}

// Selected returns a selection of the changes at or below the paths, and of the folders that lead
// there. Without paths it selects everything.
func Selected(paths []string) func(Change) bool {
	return func(c Change) bool {
		if len(paths) == 0 {
			return true
		}
		for _, p := range paths {
			p = strings.TrimSuffix(strings.TrimPrefix(p, "./"), "/")
			leads := c.Kind == Added && c.new.Is(unix.S_IFDIR) && strings.HasPrefix(p, c.Path+"/")
			if p == "" || p == "." || c.Path == p || strings.HasPrefix(c.Path, p+"/") || leads {
				return true
			}
		}
		return false
	}
}

// Apply makes the selected changes in the host's folder, one after the other. A file has its old
// content or the new one, whatever ends this process. What was done is not done again the next
// time.
//
// A change is refused if the agent cannot have seen what it changes: refused is called with the
// change and the reason, and Apply continues. The caller has the run alone.
func (r *Run) Apply(ctx context.Context, selected func(Change) bool, refused func(Change)) (Applied, error) {
	var result Applied
	if r.held == nil {
		return result, ErrRuns
	}
	host, err := r.host()
	if err != nil {
		return result, fmt.Errorf("apply changes: %w", err)
	}
	defer host.Close()
	upper, err := beneath.Folder(r.upper())
	if err != nil {
		return result, fmt.Errorf("apply changes: %w", err)
	}
	defer upper.Close()
	var owner unix.Stat_t
	if err := unix.Fstat(int(host.Fd()), &owner); err != nil {
		return result, fmt.Errorf("apply changes: %w", err)
	}
	a := &applier{run: r, host: tree{host}, upper: tree{upper}, uid: int(owner.Uid), gid: int(owner.Gid), left: r.Size}
	err = r.Checked(ctx, selected, func(c Change) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if c.Refused == "" {
			switch err := a.apply(&c); {
			case err == nil:
				result.Done++
				return nil
			case isConflict(err):
				c.Refused = err.Error()
			default:
				return fmt.Errorf("%s: %w", visible.Quote(c.Path), err)
			}
		}
		if c.never {
			result.Never++
		} else {
			result.Refused++
		}
		refused(c)
		return nil
	})
	if moded := a.modes(); err == nil && moded != nil {
		err = fmt.Errorf("apply changes: %w", moded)
	}
	// What is removed afterwards, the layer, is the only other place of the files.
	if synced := unix.Syncfs(int(host.Fd())); err == nil && synced != nil {
		err = fmt.Errorf("apply changes: %w", synced)
	}
	return result, err
}

// conflict is why one change cannot be applied, which says nothing about the others.
type conflict string

func (c conflict) Error() string { return string(c) }

func isConflict(err error) bool {
	var c conflict
	return errors.As(err, &c)
}

type applier struct {
	run         *Run
	host, upper tree
	// uid and gid own the host's folder.
	uid, gid int
	// left is how many bytes may still be written: the layer counts neither holes nor names.
	left uint64
	// last are the folders that their owner may not write once what is in them is there.
	last []lastMode
}

type lastMode struct {
	path string
	mode uint32
}

// modes gives those folders their modes, from the bottom.
func (a *applier) modes() error {
	var all error
	for _, l := range slices.Backward(a.last) {
		dir, err := a.host.folder(l.path)
		if err == nil {
			err = errors.Join(unix.Fchmod(int(dir.Fd()), l.mode), dir.Close())
		}
		all = errors.Join(all, err)
	}
	return all
}

func (a *applier) apply(c *Change) error {
	in, name := parent(c.Path)
	dir, err := a.host.folder(in)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return conflict("the folder that it is in is not in the host's folder")
	case errors.Is(err, unix.ELOOP):
		return conflict("a symbolic link is in the way in the host's folder")
	case errors.Is(err, unix.EXDEV):
		return conflict("another file system is mounted in the host's folder")
	case err != nil:
		return err
	}
	defer dir.Close()
	if !a.run.saw(in, dir) {
		return conflict(unseenFolder)
	}
	if err := a.unchanged(dir, name, c.old); err != nil {
		return err
	}
	switch {
	case c.Kind == Deleted:
		return remove(dir, name, c.old)
	case c.new.Is(unix.S_IFDIR):
		return a.folder(dir, in, name, c)
	case c.new.Is(unix.S_IFLNK):
		return a.replace(dir, in, name, c, a.link)
	}
	return a.replace(dir, in, name, c, a.file)
}

// unchanged makes sure that the host still has under the name what the change was compared with.
func (a *applier) unchanged(dir *os.File, name string, old *beneath.Entry) error {
	now, err := beneath.Look(dir, name)
	switch {
	case err != nil:
		return err
	case (now == nil) != (old == nil), now != nil && now.Kind != old.Kind:
		return conflict(changedMeanwhile)
	case now != nil && !now.Is(unix.S_IFDIR) && *now != *old:
		return conflict(changedMeanwhile)
	}
	return nil
}

func remove(dir *os.File, name string, old *beneath.Entry) error {
	flags := 0
	if old.Is(unix.S_IFDIR) {
		flags = unix.AT_REMOVEDIR
	}
	err := unix.Unlinkat(int(dir.Fd()), name, flags)
	switch {
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST):
		return conflict("the host's folder has files that are not removed")
	case errors.Is(err, unix.EBUSY):
		return conflict("something is mounted there")
	}
	return err
}

// folder makes a folder, or gives it its mode.
func (a *applier) folder(dir *os.File, in, name string, c *Change) error {
	if c.old == nil {
		if err := a.replace(dir, in, name, c, a.newFolder); err != nil {
			return err
		}
	}
	f, err := beneath.Open(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer f.Close()
	if !a.run.saw(c.Path, f) {
		return conflict(unseenFolder)
	}
	mode := c.new.Mode & 0o777
	if mode&0o700 != 0o700 {
		a.last = append(a.last, lastMode{c.Path, mode})
	}
	return unix.Fchmod(int(f.Fd()), mode|0o700)
}

// newFolder writes the folder down before it gets its name: a process that is killed in between
// leaves none that the next one does not know.
func (a *applier) newFolder(_, dir *os.File, _, temporary string, c *Change) error {
	if err := unix.Mkdirat(int(dir.Fd()), temporary, 0o700); err != nil {
		return err
	}
	f, err := beneath.Open(dir, temporary, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := a.own(f, nil); err != nil {
		return err
	}
	return a.run.made(c.Path, f)
}

// own gives a new file to the owner of the one in whose place it comes, or of the host's folder.
// Only root can, and only root's files would have another owner.
func (a *applier) own(f *os.File, old *beneath.Entry) error {
	if os.Geteuid() != 0 {
		return nil
	}
	if old != nil {
		return f.Chown(int(old.UID), int(old.GID))
	}
	return f.Chown(a.uid, a.gid)
}

// replace makes a file next to the host's, and puts it in the place of that one.
func (a *applier) replace(dir *os.File, in, name string, c *Change, make func(from, dir *os.File, name,
	temporary string, c *Change) error,
) error {
	from, err := a.upper.folder(in)
	if err != nil {
		return err
	}
	defer from.Close()
	// One that a killed process left has this name.
	sum := sha256.Sum256([]byte(c.Path))
	temporary := ".postern-" + a.run.ID + "-" + hex.EncodeToString(sum[:8])
	if err := unmake(dir, temporary); err != nil {
		return err
	}
	if err := make(from, dir, name, temporary, c); err != nil {
		return errors.Join(err, unmake(dir, temporary))
	}
	err = a.unchanged(dir, name, c.old)
	if err == nil {
		flags := uint(0)
		if c.old == nil {
			flags = unix.RENAME_NOREPLACE
		}
		err = unix.Renameat2(int(dir.Fd()), temporary, int(dir.Fd()), name, flags)
		if errors.Is(err, unix.EEXIST) {
			err = conflict(changedMeanwhile)
		}
	}
	if err != nil {
		return errors.Join(err, unmake(dir, temporary))
	}
	return nil
}

// unmake removes the file or the empty folder, if there is one.
func unmake(dir *os.File, temporary string) error {
	err := unix.Unlinkat(int(dir.Fd()), temporary, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(int(dir.Fd()), temporary, unix.AT_REMOVEDIR)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func (a *applier) link(from, dir *os.File, name, temporary string, c *Change) error {
	to, err := beneath.ReadLink(from, name)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(to, int(dir.Fd()), temporary); err != nil || os.Geteuid() != 0 {
		return err
	}
	uid, gid := a.uid, a.gid
	if c.old != nil {
		uid, gid = int(c.old.UID), int(c.old.GID)
	}
	return unix.Fchownat(int(dir.Fd()), temporary, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
}

func (a *applier) file(from, dir *os.File, name, temporary string, c *Change) error {
	source, is, err := beneath.OpenRegular(from, name)
	if err != nil {
		return err
	}
	defer source.Close()
	if uint64(is.Size) > a.left {
		return conflict("with its holes, or several names, it is more than the layer may have: apply it by its path")
	}
	a.left -= uint64(is.Size)
	fd, err := unix.Openat(int(dir.Fd()), temporary,
		unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), temporary)
	defer f.Close()
	if _, err := io.Copy(f, source); err != nil {
		return err
	}
	if err := a.own(f, c.old); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, c.new.Mode&0o777); err != nil {
		return err
	}
	return f.Sync()
}
