package workspace

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/workspace/beneath"
)

// DefaultSize is the bound of a layer for which nobody has set one, in bytes.
const DefaultSize = 10 << 30

// unreadableFor is how often in a row a part of the folder may be unreadable, e.g. because a
// program of the agent tests what happens then.
const unreadableFor = 10

// deepest is how deep folders may be nested. Each level takes a descriptor to measure, and an agent
// could hide below what this process may open.
const deepest = 500

// ErrTooDeep means that folders are nested too deep to be measured, or to be compared.
var ErrTooDeep = fmt.Errorf("folders are nested %d deep or more", deepest)

// bound is a folder that an agent fills, and how much it may take of the disk.
type bound struct {
	folder string
	size   uint64
	// what it is, and what to do if it is too large, for messages.
	what, advice string
}

// Bound calls stop when the layer is larger than its size, or fills the disk: twice if it does
// both. It looks at the disk once a second. It measures the layer about as often, and less often if
// that takes long: so a layer can become larger by what an agent writes in between. It returns when
// ctx ends, or when it called stop for the layer.
func (r *Run) Bound(ctx context.Context, stop func(error)) {
	bound{
		folder: r.upper(), size: r.Size, what: "workspace's layer",
		advice: "set a larger size in the stack file (workspace: {mode: overlay, size: ...})",
	}.watch(ctx, stop)
}

// Bounded calls fill, which fills the folder with what an agent made. It ends fill's context, and
// says why, when the folder is larger than its size or fills the disk. what it is, and what to do
// then, is for messages.
func Bounded(
	ctx context.Context, folder string, size uint64, what, advice string, fill func(context.Context) error,
) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	b := bound{folder: folder, size: size, what: what, advice: advice}
	go b.watch(ctx, stop)
	err := fill(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	used, _, err := measureFolder(folder, false)
	if err == nil && used > size { // it was filled between two looks
		err = b.tooLarge()
	}
	return err
}

func (b bound) tooLarge() error {
	return fmt.Errorf("the %s is larger than its %d bytes: %s", b.what, b.size, b.advice)
}

func (b bound) watch(ctx context.Context, stop func(error)) {
	go b.keepFree(ctx, b.floor(), stop)
	first, unreadable := true, 0
	for wait := 100 * time.Millisecond; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		began := time.Now()
		// Another run may have left folders that nobody may open, and much in them.
		used, whole, err := measureFolder(b.folder, first)
		first = false
		if unreadable++; whole {
			unreadable = 0
		}
		switch {
		case err != nil:
			stop(fmt.Errorf("measure the %s: %w: %s", b.what, err, b.advice))
			return
		case used > b.size:
			stop(b.tooLarge())
			return
		case unreadable > unreadableFor:
			stop(fmt.Errorf("a part of the %s stays unreadable, so its size is unknown: %s", b.what, b.advice))
			return
		}
		wait = max(time.Second, 10*time.Since(began))
	}
}

// keepFree calls stop when less of the disk is free than the floor.
func (b bound) keepFree(ctx context.Context, floor room, stop func(error)) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for _, free := b.room(); free.bytes >= floor.bytes && free.files >= floor.files; _, free = b.room() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	stop(fmt.Errorf("the disk of %s is almost full", b.folder))
}

// room is what a disk has for files, and for how many. A file system that does not count files has
// all for 0.
type room struct{ bytes, files uint64 }

// floor is how much of the disk must stay free: a twentieth, or half of what is free now.
func (b bound) floor() room {
	all, free := b.room()
	return room{bytes: min(all.bytes/20, free.bytes/2), files: min(all.files/20, free.files/2)}
}

func (b bound) room() (all, free room) {
	var s unix.Statfs_t
	_ = unix.Statfs(b.folder, &s) // if it fails, there is no room
	size := uint64(s.Bsize)
	return room{s.Blocks * size, s.Files}, room{s.Bavail * size, s.Ffree}
}

// Measure returns what the layer takes of the disk, in bytes, and whether all of it could be read.
// An empty file counts as 1 KiB.
func (r *Run) Measure() (used uint64, whole bool, err error) { return measureFolder(r.upper(), false) }

// measureFolder is [Run.Measure] for a folder. With anyway, it gives the caller all rights to each
// folder of the caller's below.
func measureFolder(path string, anyway bool) (used uint64, whole bool, err error) {
	root, err := openOwned(path)
	if err != nil {
		return 0, false, err
	}
	defer root.Close()
	return measure(root, deepest, anyway)
}

// measure is measureFolder for a folder below which as many levels may be.
func measure(dir *os.File, levels int, anyway bool) (used uint64, whole bool, tooDeep error) {
	if levels == 0 {
		return 0, false, ErrTooDeep
	}
	entries, err := dir.Readdirnames(-1)
	whole = err == nil
	for _, name := range entries {
		var st unix.Stat_t
		if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			whole = whole && err == unix.ENOENT
			continue
		}
		// A file with several names counts for each, which is more than there is, and not less.
		used += max(uint64(st.Blocks)*512, 1024)
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		below, err := beneath.Open(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if anyway && (err != nil || st.Mode&0o700 != 0o700) {
			below.Close()
			below, err = openAnyway(dir, name)
		}
		if err != nil {
			whole = false
			continue
		}
		more, all, err := measure(below, levels-1, anyway)
		below.Close()
		if used, whole = used+more, whole && all; err != nil {
			tooDeep = err
		}
	}
	return used, whole, tooDeep
}
