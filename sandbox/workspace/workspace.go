// Package workspace keeps what agents wrote to the layers of their overlay workspaces, shows it,
// and applies it to the host's folders. It also keeps the homes and volumes of agents.
//
// A [Run] is one command's layer, and a [Kept] is one agent's. Everything in them is an agent's:
// names, contents, links, modes. So this package opens each of them, and a host's folder, once,
// and each name in them from a folder that is open. It follows no symbolic link, and never leaves
// these folders.
package workspace

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/home"
	"github.com/postern/postern/sandbox/wire"
	"github.com/postern/postern/sandbox/workspace/beneath"
	"github.com/postern/postern/sandbox/workspace/tool"
	"github.com/postern/postern/visible"
)

// Run is the layer of one command. Its methods may be called by several processes at once.
type Run struct {
	Record

	// ID is the name of the folder dir.
	ID  string `json:"id"`
	dir string
	// held is open, and locked, as long as this process uses the run alone.
	held *os.File
	// CheckPack says why an index of git's is not that of the pack, or that a pack is damaged.
	// Without it, no pack is applied.
	CheckPack func(ctx context.Context, pack, index *os.File) error `json:"-"`
	// Named is what settings outside of the host's folder name in it.
	Named []tool.Named `json:"-"`
	// seen is nil until it is read.
	seen *seen
}

// Record is what is known of a run when it starts.
type Record struct {
	Agent   string   `json:"agent"`
	Command []string `json:"command"`
	// Workdir is the real path of the host's folder, and Folder identifies it.
	Workdir string        `json:"workdir"`
	Folder  home.Identity `json:"folder"`
	// Started is when the layer was made, in nanoseconds since 1970, by the clock of its file
	// system. A file of the host that changed later may not be the one that the agent has seen.
	Started int64 `json:"started"`
	// Hidden are the paths in the folder that the agent does not see.
	Hidden []string `json:"hidden,omitempty"`
	// Size bounds the layer, in bytes.
	Size uint64 `json:"size"`
	// Owners gives the layer's folders the owners of the host's, where the sandbox has no mount
	// that maps them.
	Owners bool `json:"-"`
}

// ErrUnknown means that there is no such run.
var ErrUnknown = errors.New("there is no such run: `postern workspace list` shows them")

// ErrRuns means that the command has not ended, or that another process works on its layer.
var ErrRuns = errors.New("the agent still runs, or another command works on its changes: wait for it to end")

const recordFile = "run.json"

// maxHidden bounds the paths that are hidden: each takes an inode of the state folder's disk.
const maxHidden = 10_000

// Create makes a layer in dir, which holds the layers of one stack, and holds it until [Run.Close].
// r has the agent, the command, the folder and the size.
func Create(ctx context.Context, dir string, r Record) (run *Run, err error) {
	if n := len(r.Hidden); n > maxHidden {
		return nil, fmt.Errorf("make layer of the workspace: %d files look like secrets, and only %d can be hidden "+
			"one by one: hide their folders in the stack file, as hide: [FOLDER/]", n, maxHidden)
	}
	id := strings.ToLower(rand.Text()[:8])
	run = &Run{Record: r, ID: id, dir: filepath.Join(dir, id)}
	defer func() {
		if err != nil {
			run.Close()
			err = fmt.Errorf("make layer of the workspace: %w", errors.Join(err, os.RemoveAll(run.dir)))
		}
	}()
	folder, err := beneath.Folder(r.Workdir)
	if err != nil {
		return run, err
	}
	defer folder.Close()
	if run.Folder, err = home.IdentityOf(folder); err != nil {
		return run, err
	}
	info, err := folder.Stat()
	if err != nil {
		return run, err
	}
	for _, name := range []string{wire.Upper, wire.Work, wire.Hidden} {
		if err := os.MkdirAll(filepath.Join(run.Layers(), name), 0o700); err != nil {
			return run, err
		}
	}
	// Nobody else gets as far as this folder: the agent sees its mode as the working directory's.
	if err := os.Chmod(run.upper(), info.Mode().Perm()); err != nil {
		return run, err
	}
	if err := run.own(run.upper(), info.Sys().(*syscall.Stat_t)); err != nil {
		return run, err
	}
	var made unix.Stat_t
	if err := unix.Stat(run.upper(), &made); err != nil {
		return run, err
	}
	run.Started = made.Ctim.Nano()
	if err := run.hold(); err != nil {
		return run, err
	}
	if err := run.hideAll(ctx); err != nil {
		return run, err
	}
	if err := run.record(ctx, folder); err != nil {
		return run, err
	}
	return run, run.write()
}

// own gives a folder of the layer to whom owns the host's, if only root can do that.
func (r *Run) own(dir string, host *syscall.Stat_t) error {
	if !r.Owners || os.Getuid() != 0 {
		return nil
	}
	return os.Lchown(dir, int(host.Uid), int(host.Gid))
}

// write writes the record down.
func (r *Run) write() error {
	content, err := json.Marshal(r.Record)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(r.dir, recordFile), content, 0o600)
}

// hold takes the run for this process alone, until it is closed.
func (r *Run) hold() (err error) {
	if r.held, err = lock(r.dir, unix.F_WRLCK); errors.Is(err, unix.EAGAIN) {
		return ErrRuns
	}
	return err
}

// lock locks the folder, which only we may open, until the file is closed: F_WRLCK is for one,
// F_RDLCK for several. The error is EAGAIN if that is not possible now.
func lock(dir string, how int16) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: how}); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// isLocked reports whether somebody has locked the folder. It takes no lock, which could keep
// somebody else from it.
func isLocked(dir string) bool {
	f, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		return false
	}
	defer f.Close()
	held := unix.Flock_t{Type: unix.F_WRLCK}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &held) == nil && held.Type != unix.F_UNLCK
}

// Close lets other processes use the run.
func (r *Run) Close() {
	if r.held != nil {
		r.held.Close()
		r.held = nil
	}
}

// Running reports whether the command runs, or another process works on the layer.
func (r *Run) Running() bool { return r.held == nil && isLocked(r.dir) }

// Layers is the folder that the sandbox mounts.
func (r *Run) Layers() string { return filepath.Join(r.dir, "layers") }

func (r *Run) upper() string { return filepath.Join(r.Layers(), wire.Upper) }

// isID keeps what was typed from being a path.
var isID = regexp.MustCompile(`^[a-z2-7]{8}$`)

// Open returns the run of that ID in dir. The caller has it alone until it calls [Run.Close] if
// alone is true; the error is [ErrRuns] if somebody else has it.
func Open(dir, id string, alone bool) (*Run, error) {
	if !isID.MatchString(id) {
		return nil, fmt.Errorf("%q: %w", id, ErrUnknown)
	}
	run := &Run{ID: id, dir: filepath.Join(dir, id)}
	content, err := os.ReadFile(filepath.Join(run.dir, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", id, ErrUnknown)
	}
	if err == nil {
		err = json.Unmarshal(content, &run.Record)
	}
	if err != nil {
		return nil, fmt.Errorf("read run %s: %w", id, err)
	}
	if alone {
		if err := run.hold(); err != nil {
			return nil, fmt.Errorf("%s: %w", id, err)
		}
	}
	return run, nil
}

// List returns the runs in dir, the oldest first, and why others cannot be read.
func List(dir string) ([]*Run, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list workspaces: %w", err)
	}
	var runs []*Run
	var problems []error
	for _, e := range entries {
		switch run, err := Open(dir, e.Name(), false); {
		case err == nil:
			runs = append(runs, run)
		case !errors.Is(err, ErrUnknown): // that is one that is being made or removed
			problems = append(problems, err)
		}
	}
	slices.SortFunc(runs, func(a, b *Run) int { return time.Unix(0, a.Started).Compare(time.Unix(0, b.Started)) })
	return runs, errors.Join(problems...)
}

// Discard removes the layer with all that the agent wrote. The caller has the run alone.
func (r *Run) Discard(ctx context.Context) error {
	if r.held == nil {
		return ErrRuns
	}
	// First what makes it a run: a part of a layer would show deletions that the agent did not
	// make.
	if err := os.Remove(filepath.Join(r.dir, recordFile)); err != nil {
		return fmt.Errorf("discard changes: %w", err)
	}
	if err := RemoveAll(ctx, r.dir); err != nil {
		return fmt.Errorf("discard changes: %w", err)
	}
	return nil
}

// host opens the host's folder, which must be the one that the agent has seen.
func (r *Run) host() (*os.File, error) {
	folder, err := beneath.Folder(r.Workdir)
	if err != nil {
		return nil, err
	}
	now, err := home.IdentityOf(folder)
	if err == nil && !now.Same(r.Folder) {
		err = fmt.Errorf("%s is not the folder in which the agent worked: move that one back there", r.Workdir)
	}
	if err != nil {
		folder.Close()
		return nil, err
	}
	return folder, nil
}

// hideAll puts a device 0/0, which is what the kernel takes for nothing, in the place of each
// hidden path. The folders on the way look as the host's.
func (r *Run) hideAll(ctx context.Context) error {
	host, err := r.host()
	if err != nil {
		return fmt.Errorf("hide files: %w", err)
	}
	defer host.Close()
	top := filepath.Join(r.Layers(), wire.Hidden)
	made := map[string]bool{}
	for _, at := range r.Hidden {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := r.hide(tree{host}, top, at, made); err != nil {
			return fmt.Errorf("hide %s: %w", visible.Quote(at), err)
		}
	}
	return nil
}

func (r *Run) hide(host tree, top, at string, made map[string]bool) error {
	in, _ := parent(at)
	way := []string{"."}
	for name := range strings.SplitSeq(in, "/") {
		way = append(way, filepath.Join(way[len(way)-1], name))
	}
	for _, dir := range way {
		if made[dir] {
			continue
		}
		made[dir] = true
		if err := os.MkdirAll(filepath.Join(top, dir), 0o700); err != nil {
			return err
		}
		f, err := host.folder(dir)
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		err = errors.Join(syscall.Fstat(int(f.Fd()), &st), f.Close())
		if err := errors.Join(err, r.own(filepath.Join(top, dir), &st)); err != nil {
			return err
		}
		if err := unix.Chmod(filepath.Join(top, dir), st.Mode&0o777); err != nil {
			return err
		}
	}
	return unix.Mknod(filepath.Join(top, at), unix.S_IFCHR, 0)
}
