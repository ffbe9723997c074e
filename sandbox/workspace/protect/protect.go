// Package protect keeps a command from writing, in a folder that it writes, what programs of the
// host run or take commands from.
package protect

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/visible"
)

// Files are those in a folder that programs of the host run or take commands from, and that no
// agent needs to write.
type Files []struct{ path, instead string }

// What is in the place of a missing file while a command runs, so that it cannot make one either.
const (
	nothing = ""
	aFolder = "/"
)

// Workdir has the files of a working directory. Git sees nothing of what is in the place of a
// missing file.
var Workdir = Files{
	{".git/hooks", aFolder},
	{".git/config", nothing},
	{".git/config.worktree", nothing},
	{".git/remotes", aFolder},
	{".git/branches", aFolder},
	{".envrc", aFolder},
	{".mcp.json", aFolder},
	{".claude", aFolder},
	{".vscode", aFolder},
	{".idea", aFolder},
	{".devcontainer", aFolder},
	{".devcontainer.json", nothing},
	{".cursor", nothing},
	{".codex", nothing},
	{".gemini", nothing},
	{".husky", nothing},
	{".githooks", nothing},
	{".mise.toml", nothing},
	{".mise.local.toml", nothing},
	{".mise", nothing},
	{"mise.toml", nothing},
	{"mise.local.toml", nothing},
	{"mise/config.toml", nothing},
	{".config/mise.toml", nothing},
	{".config/mise", nothing},
	{".tool-versions", nothing},
	{".direnv", nothing},
	{".hg/hgrc", nothing},
	{".opencode", nothing},
	{".kiro", nothing},
	{".amazonq", nothing},
	{".roo", nothing},
	{".windsurf", nothing},
	{".zed", nothing},
	{".helix", nothing},
	{".nvim.lua", nothing},
	{".lvimrc", nothing},
	{".vim", nothing},
	{".nvimrc", nothing},
	{".exrc", nothing},
	{".dir-locals.el", nothing},
}

// WorkdirOf returns the files of a working directory: [Workdir], and if its .git is a file, that
// one by all its names, and those of each folder in the working directory to which git goes
// from there: the one that the file names, and the common one if that is a worktree's.
func WorkdirOf(folder string) Files {
	text, err := hostpath.ReadFile(filepath.Join(folder, ".git"), unix.PathMax)
	if err != nil {
		return Workdir
	}
	all := append(slices.Clone(Workdir), Files{{".git", nothing}}...)
	add := func(from, named string) (git string) {
		named = strings.TrimRight(named, "\r\n")
		if git = filepath.Join(from, named); filepath.IsAbs(named) {
			git = strings.TrimPrefix(filepath.Clean(named), folder+"/")
		}
		if git == "." || !filepath.IsLocal(git) {
			return ""
		}
		for _, f := range Workdir {
			if below, ok := strings.CutPrefix(f.path, ".git/"); ok {
				all = append(all, Files{{filepath.Join(git, below), f.instead}}...)
			}
		}
		return git
	}
	if named, leads := strings.CutPrefix(string(text), "gitdir: "); leads {
		if git := add(".", named); git != "" {
			if common, err := hostpath.ReadFile(filepath.Join(folder, git, "commondir"), unix.PathMax); err == nil {
				add(git, string(common))
			}
		}
	}
	return all
}

// And returns the files with those at the paths, where nothing is made if they are missing.
func (f Files) And(paths []string) Files {
	all := slices.Clone(f)
	for _, at := range paths {
		all = append(all, Files{{at, nothing}}...)
	}
	return all
}

// Has reports whether the path is that of one of the files, or of a file in one that is a folder.
func (f Files) Has(at string) bool {
	return slices.ContainsFunc(f, func(of struct{ path, instead string }) bool {
		return strings.HasPrefix(at+"/", of.path+"/")
	})
}

// placeholder is the mode of the folders that [Protect] makes. Nobody else makes one with this
// mode.
const placeholder = unix.S_ISVTX | 0o500

// Protection keeps a command from writing files in a folder that it writes, while it runs. The
// kernel does so by mounts in the sandbox. A mount is gone once a program of the host replaces,
// renames or removes what it protects, and the command may write what is there instead. No new
// mount would come in time. So the Protection watches the folder from outside, where the command
// changes nothing of it, and the run ends.
type Protection struct {
	// Paths are in the folder, and cannot be written.
	Paths []string
	// Folder is the real path of the host's folder.
	Folder string
	// events has what happens to the names in the watched folders. watched has the number of each
	// folder's watch, and names, by that number, the paths to the names that matter.
	events  *os.File
	watched map[string]int32
	names   map[int32]map[string]string
	held    []*os.File
	// made says by path in which open folder there is a placeholder.
	made map[string]*os.File

	mu   sync.Mutex
	lost error
}

// Protect finds which of the files there are in the host's folder at the real path. In the place of
// others is something empty until [Protection.Remove] is called. If it is never called, the next
// one does that.
func Protect(folder string, files Files) (p *Protection, err error) {
	p = &Protection{
		Folder: folder, watched: map[string]int32{}, names: map[int32]map[string]string{}, made: map[string]*os.File{},
	}
	defer func() {
		if err != nil {
			p.Release()
		}
	}()
	root, err := hostpath.OpenBelow("/", p.Folder)
	if err != nil {
		return p, fmt.Errorf("protect files that programs run: %w", err)
	}
	p.held = append(p.held, root)
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return p, fmt.Errorf("watch the files of %s that programs run: %w: if this user has no more of what "+
			"fs.inotify.max_user_instances counts, end programs that watch files, or use --overlay", p.Folder, err)
	}
	p.events = os.NewFile(uintptr(fd), "inotify")
	// Each folder is watched before anything in it is looked at.
	if err := p.watch(fd, root, "."); err != nil {
		return p, err
	}
	for _, f := range files {
		if err := p.add(fd, root, f.path, f.instead); err != nil {
			return p, fmt.Errorf("protect %s from the agent: %w", visible.Quote(filepath.Join(folder, f.path)), err)
		}
	}
	return p, nil
}

// watch has events tell of each name in the folder at the path that is taken away or replaced.
func (p *Protection) watch(events int, root *os.File, at string) error {
	dir, err := hostpath.FolderIn(root, at)
	if err != nil {
		return fmt.Errorf("watch the files of %s that programs run: %w", p.Folder, err)
	}
	defer dir.Close()
	const mask = unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_ONLYDIR
	number, err := unix.InotifyAddWatch(events, fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), mask)
	if err != nil {
		return fmt.Errorf("watch the files of %s that programs run: %w", p.Folder, err)
	}
	if p.watched[at] = int32(number); p.names[int32(number)] == nil {
		p.names[int32(number)] = map[string]string{}
	}
	return nil
}

// protects counts the path, and the folder on the way to it, among what is protected.
func (p *Protection) protects(at string) {
	p.Paths = append(p.Paths, at)
	for at != "." {
		in, name := parent(at)
		p.names[p.watched[in]][name] = at
		at = in
	}
}

// add protects one path in root.
func (p *Protection) add(events int, root *os.File, at, instead string) error {
	in, name := parent(at)
	dir, err := hostpath.FolderIn(root, in)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		if in != ".git" {
			return nil // no program finds anything there
		}
		return p.add(events, root, in, nothing) // a link, nothing, or a file, which says where git's folder is
	}
	if err != nil {
		return err
	}
	p.held = append(p.held, dir)
	for way := in; way != "."; way, _ = parent(way) {
		if _, watched := p.watched[way]; watched {
			break
		}
		if err := p.watch(events, root, way); err != nil {
			return err
		}
	}
	if err := place(dir, name, instead); err != nil {
		return err
	}
	mode, err := look(dir, name)
	if kind := mode & unix.S_IFMT; err != nil || kind != unix.S_IFDIR && kind != unix.S_IFREG {
		return err
	}
	if mode == unix.S_IFDIR|placeholder {
		p.made[at] = dir
	}
	if !slices.Contains(p.Paths, at) {
		p.protects(at)
	}
	return nil
}

// place makes what is in the place of a missing file.
func place(dir *os.File, name, instead string) error {
	if instead == nothing {
		return nil
	}
	err := unix.Mkdirat(int(dir.Fd()), name, placeholder)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS) {
		return nil // the agent cannot make one either
	}
	return err
}

// look returns the kind and mode of what dir has under the name, or 0 if there is nothing.
func look(dir *os.File, name string) (uint32, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	return st.Mode, err
}

// parent returns the folder of a path, and the name there.
func parent(at string) (dir, name string) { return filepath.Dir(at), filepath.Base(at) }

// Remove removes what is in the place of missing files. The caller knows that no other command
// works in the folder, by a lock that no agent can take. An agent can at most have an empty folder
// stay, or be removed.
func (p *Protection) Remove() {
	for at, dir := range p.made {
		_, name := parent(at)
		if mode, err := look(dir, name); err == nil && mode == unix.S_IFDIR|placeholder {
			_ = unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
		}
	}
}

// Release ends the protection.
func (p *Protection) Release() {
	if p.events != nil {
		p.events.Close()
	}
	for _, f := range p.held {
		f.Close()
	}
}

// Lost returns why one of the paths may be none any longer that a mount protects, or nil. It knows
// of all that happened before the call.
func (p *Protection) Lost() error {
	raw, err := p.events.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { _ = p.read(int(fd)) })
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.lost, err)
}

// Watch calls stop once [Protection.Lost] has a reason, and returns then, or when ctx ends.
func (p *Protection) Watch(ctx context.Context, stop func(error)) {
	raw, err := p.events.SyscallConn()
	if err == nil {
		defer context.AfterFunc(ctx, func() { _ = p.events.SetReadDeadline(time.Now()) })()
		err = raw.Read(func(fd uintptr) bool { return p.read(int(fd)) })
	}
	if ctx.Err() != nil {
		return
	}
	if lost := p.Lost(); lost != nil {
		err = lost
	}
	stop(fmt.Errorf("%w: the command may have written there since, so look at it before a program runs it; "+
		"--overlay keeps what a command writes apart", err))
}

// read takes what has happened, and reports whether something is lost.
func (p *Protection) read(events int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() {
		if p.lost != nil { // the other reader is not told of events that this one has taken
			_ = p.events.SetReadDeadline(time.Now())
		}
	}()
	buffer := make([]byte, 64<<10)
	for p.lost == nil {
		n, err := unix.Read(events, buffer)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return false
		case err != nil:
			p.lost = fmt.Errorf("watch the files of %s that programs run: %w", p.Folder, err)
			return true
		}
		for rest := buffer[:n]; len(rest) >= unix.SizeofInotifyEvent && p.lost == nil; {
			// The number of the watch, what happened, a cookie, and the length of the name.
			number, what := int32(binary.NativeEndian.Uint32(rest)), binary.NativeEndian.Uint32(rest[4:])
			end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(rest[12:]))
			name, _, _ := bytes.Cut(rest[unix.SizeofInotifyEvent:end], []byte{0})
			p.lost, rest = p.judge(what, p.names[number][string(name)]), rest[end:]
		}
	}
	return true
}

// judge returns why what happened to a path, which is "" if it does not matter, ends the
// protection, or nil.
func (p *Protection) judge(what uint32, at string) error {
	switch {
	case what&(unix.IN_Q_OVERFLOW|unix.IN_UNMOUNT) != 0:
		return fmt.Errorf("more happened in %s than could be watched, and what programs run there may not be "+
			"protected any longer", p.Folder)
	case at != "":
		return fmt.Errorf("%s was replaced, renamed or removed by a program outside of the sandbox, which ends its "+
			"protection", visible.Quote(filepath.Join(p.Folder, at)))
	}
	return nil
}
