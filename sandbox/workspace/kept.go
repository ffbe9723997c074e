package workspace

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/workspace/beneath"
	"github.com/postern/postern/visible"
)

// Kept is what one agent keeps from run to run: its home, or a volume. Several runs of that agent
// may have it at once, and no other agent ever has it. What is in it is the agent's: names, links,
// modes.
type Kept struct {
	Agent string
	// Volume is the name of a volume, or "" for the home.
	Volume string
	// Size bounds it, in bytes.
	Size uint64
	dir  string
	held *os.File
}

// ErrInUse means that a run of the agent has it, or that another process clears it.
var ErrInUse = errors.New("the agent still runs, or another command clears it: wait for it to end")

// between stands between the names of an agent and of a volume. It is in neither.
const between = "@"

// Keep returns what the agent keeps in dir, which holds all of one stack: its home, or a volume if
// that has a name. It makes it if there is none. Until [Kept.Close] nobody can clear it. size is 0
// for [DefaultSize].
func Keep(dir, agent, volume string, size uint64) (*Kept, error) {
	if size == 0 {
		size = DefaultSize
	}
	k := &Kept{Agent: agent, Volume: volume, Size: size}
	name := agent
	if volume != "" {
		name += between + volume
	}
	err := os.MkdirAll(filepath.Join(dir, name), 0o700)
	if err == nil {
		k.dir, err = filepath.EvalSymlinks(filepath.Join(dir, name))
	}
	if err == nil {
		err = k.hold(unix.F_RDLCK)
	}
	if err == nil {
		err = os.MkdirAll(k.Files(), 0o700)
	}
	if err != nil {
		k.Close()
		return nil, fmt.Errorf("take %s: %w", k, err)
	}
	return k, nil
}

// String returns "the home of agent demo", or "volume out of agent demo".
func (k *Kept) String() string {
	if k.Volume == "" {
		return "the home of agent " + k.Agent
	}
	return "volume " + k.Volume + " of agent " + k.Agent
}

// KeptIn returns what agents keep in dir, sorted by agent.
func KeptIn(dir string) ([]*Kept, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var entries []os.DirEntry
	if err == nil {
		entries, err = os.ReadDir(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("list what agents keep: %w", err)
	}
	var all []*Kept
	for _, e := range entries {
		k := &Kept{dir: filepath.Join(dir, e.Name())}
		k.Agent, k.Volume, _ = strings.Cut(e.Name(), between)
		if _, err := os.Lstat(k.Files()); err == nil {
			all = append(all, k)
		}
	}
	return all, nil
}

func (k *Kept) hold(how int16) (err error) {
	if k.held, err = lock(k.dir, how); errors.Is(err, unix.EAGAIN) {
		return ErrInUse
	}
	return err
}

// Files is the folder that the agent sees. Whoever may write the folder that it is in
// is the caller.
func (k *Kept) Files() string { return filepath.Join(k.dir, "files") }

// Close lets others clear it.
func (k *Kept) Close() {
	if k.held != nil {
		k.held.Close()
		k.held = nil
	}
}

// InUse reports whether a run has it, or another process clears it.
func (k *Kept) InUse() bool { return isLocked(k.dir) }

// Measure returns what it takes of the disk, in bytes, and whether all of it could be read.
func (k *Kept) Measure() (used uint64, whole bool, err error) { return measureFolder(k.Files(), false) }

// Bound is [Run.Bound] for it. Each run that has it calls its own stop.
func (k *Kept) Bound(ctx context.Context, stop func(error)) {
	b := bound{
		folder: k.Files(), size: k.Size, what: "agent's home",
		advice: "clear it with `postern home clear " + k.Agent +
			"`, or set a larger size in the stack file (home: {persist: true, size: ...})",
	}
	if k.Volume != "" {
		b.what = "agent's volume"
		b.advice = "clear it with `postern workspace volume clear " + k.Agent + " " + k.Volume +
			"`, or set a larger size in the stack file (workspace: {mode: volume, size: ...})"
	}
	b.watch(ctx, stop)
}

// Clear removes it with all that is in it.
func (k *Kept) Clear(ctx context.Context) error {
	err := k.hold(unix.F_WRLCK)
	defer k.Close()
	if err == nil {
		err = RemoveAll(ctx, k.Files())
	}
	if err != nil {
		return fmt.Errorf("clear %s: %w", k, err)
	}
	return nil
}

// Link has the relative path at lead to the absolute path to. It makes folders on the way. It
// replaces a link that leads into the folder owned, as an earlier Link may have made it, and
// nothing else: what the agent has put there stays. It follows none of the agent's links.
func (k *Kept) Link(at, to, owned string) error {
	files, err := openOwned(k.Files())
	if err != nil {
		return fmt.Errorf("open %s: %w", k, err)
	}
	err = link(files, at, to, owned)
	for _, theirs := range []error{unix.ENOTDIR, unix.ELOOP, unix.EEXIST, unix.EACCES, unix.EXDEV} {
		if errors.Is(err, theirs) {
			return nil // the agent has arranged that
		}
	}
	if err != nil {
		return fmt.Errorf("link %s in %s: %w", visible.Quote(at), k, err)
	}
	return nil
}

// link is [Kept.Link] in the folder, which it closes.
func link(dir *os.File, at, to, owned string) error {
	defer func() { dir.Close() }()
	in, name := parent(at)
	for step := range strings.SplitSeq(in, "/") {
		if err := unix.Mkdirat(int(dir.Fd()), step, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		next, err := beneath.Open(dir, step, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		dir.Close()
		dir = next
	}
	if was, err := beneath.ReadLink(dir, name); err == nil && was != to && strings.HasPrefix(was, owned+"/") {
		if err := unix.Unlinkat(int(dir.Fd()), name, 0); err != nil {
			return err
		}
	}
	return unix.Symlinkat(to, int(dir.Fd()), name)
}
