// Package hostpath decides which of this machine's paths, programs and files our commands may
// trust.
//
// An agent writes anything into its working directory, and folders outlive agents. So a path is
// trusted only if no step on the way to its file is in a folder where an agent works or has worked.
// [Registry] remembers those folders. [Folders.Check] walks a path and names the step that is in
// such a folder. [Folders.Open] opens exactly the file that was checked. [Folders.Program] finds
// the programs that may be started on the host.
package hostpath

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// registryFile is the name of the registry in the folder of all stacks' state folders.
const registryFile = "workdirs"

// Registry is the list of the folders that are or were an agent's working directory. Several
// processes may call its methods at once. The zero value has no list, and its methods return an
// error: see [In].
type Registry struct{ file string }

// In returns the registry in base, the folder that holds the state folders of all stacks.
func In(base string) Registry { return Registry{filepath.Join(base, registryFile)} }

// folder is one line of the registry: "device inode born agent path", where born is the folder's
// time of birth in nanoseconds, 0 if its file system knows none, and the path is real and absolute.
// Agent and path are quoted as Go does.
type folder struct {
	path string
	id   identity
	// agent is whose folder it is, in the words of the caller of [Registry.Use], or "".
	agent string
}

func (f folder) line() string {
	return fmt.Sprintf("%d %d %d %s %s\n", f.id.device, f.id.inode, f.id.born, strconv.QuoteToASCII(f.agent),
		strconv.QuoteToASCII(f.path))
}

func parseFolder(line string) (folder, error) {
	var f folder
	_, err := fmt.Sscanf(line, "%d %d %d %q %q", &f.id.device, &f.id.inode, &f.id.born, &f.agent, &f.path)
	if err != nil {
		return f, err
	}
	if !filepath.IsAbs(f.path) || filepath.Clean(f.path) != f.path || f.line() != line+"\n" {
		return f, errors.New("it is not a valid line")
	}
	return f, nil
}

// Record adds the folder dir to the registry, unless it is there already, and returns when that is
// on disk. Call it before an agent gets dir. The path must be real. Otherwise an agent that works
// above dir could have any folder recorded, and so keep every command from trusting its content.
func (r Registry) Record(dir string) error { return r.record(dir, "") }

func (r Registry) record(dir, agent string) error {
	f, err := identify(dir)
	f.agent = agent
	if err == nil && f.path != dir {
		err = fmt.Errorf("it leads to %s", f.path)
	}
	if err != nil {
		return fmt.Errorf("record the agent's working directory %s: %w", dir, err)
	}
	if err := r.add(f); err != nil {
		return fmt.Errorf("record the agent's working directory %s: %w", dir, err)
	}
	return nil
}

// identify returns the real path of dir, and the identity of the folder.
func identify(dir string) (folder, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return folder{}, err
	}
	w := &walk{}
	defer w.close()
	if err := w.to(abs); err != nil {
		return folder{}, err
	}
	last := w.last()
	if !last.is(unix.S_IFDIR) {
		return folder{}, errors.New("it is not a folder")
	}
	return folder{path: last.path, id: last.identity}, nil
}

// Paths returns the paths of the list, in the order of their first record. They are the recorded
// paths, whatever is there now.
func (r Registry) Paths() ([]string, error) {
	folders, err := r.folders()
	var paths []string
	for _, f := range folders {
		if !slices.Contains(paths, f.path) {
			paths = append(paths, f.path)
		}
	}
	return paths, err
}

// ErrUnknown means that the list has no such path.
var ErrUnknown = errors.New("it is not in the list of agents' working directories")

// ErrRuns means that an agent runs in a folder.
var ErrRuns = errors.New("an agent runs there")

// Forget removes the folders that were recorded under that path from the list. It compares the path
// literally, because an agent may decide where the path leads. The error is [ErrUnknown] if there
// is no such folder, and [ErrRuns] if [Registry.Use] holds one.
func (r Registry) Forget(path string) error {
	held, err := lock(r.file+".lock", unix.LOCK_EX, lockFor)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrUnknown
	}
	if err != nil {
		return err
	}
	defer held.Close()
	folders, err := r.folders()
	if err != nil {
		return err
	}
	var kept strings.Builder
	found := false
	for _, f := range folders {
		if f.path != path {
			kept.WriteString(f.line())
			continue
		}
		found = true
		use, err := lock(r.useFile(f), unix.LOCK_EX, 0)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return ErrRuns
		}
		if err != nil {
			return err
		}
		defer use.Close()
	}
	if !found {
		return ErrUnknown
	}
	if err := r.replace(kept.String()); err != nil {
		return fmt.Errorf("write the list of agents' working directories: %w", err)
	}
	return nil
}

// replace gives the list another content, whole or not at all. Package atomicfile does that for
// everybody else: it links a library, and this package links nothing, as main.go imports it.
func (r Registry) replace(content string) error {
	file, err := os.OpenFile(r.file+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.WriteString(content)
	if err := errors.Join(err, file.Chmod(0o644), file.Sync()); err != nil {
		return err
	}
	if err := os.Rename(r.file+".new", r.file); err != nil {
		return err
	}
	return r.syncFolder()
}

// syncFolder puts the list's name on disk.
func (r Registry) syncFolder() error {
	dir, err := os.Open(filepath.Dir(r.file))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Use records the folder as [Registry.Record] does, as the agent's (see [Folders.Except]), for a
// command that may write everything in it. It keeps the folder from being forgotten until done is
// called or this process ends. If no other command uses the folder by then, also one of another
// list, done first calls last, and no other one begins meanwhile. Use fails while a command of this
// list uses a folder in this one or around it: the upper one could take away what protects files of
// the lower one.
func (r Registry) Use(dir, agent string) (done func(last ...func()), err error) {
	f, err := identify(dir)
	if err != nil {
		return nil, fmt.Errorf("record the agent's working directory %s: %w", dir, err)
	}
	if err := os.MkdirAll(filepath.Dir(r.file), 0o700); err != nil {
		return nil, err
	}
	// First this: who forgets the folder now has done so before it is recorded.
	use, err := lock(r.useFile(f), unix.LOCK_SH, lockFor)
	if err != nil {
		return nil, fmt.Errorf("record the agent's working directory %s: %w", dir, err)
	}
	if err = r.apart(f); err == nil {
		err = r.record(dir, agent)
	}
	if err == nil {
		err = r.apart(f) // of two that start at once, the one that is recorded last sees the other
	}
	if err != nil {
		use.Close()
		return nil, err
	}
	present := enter(f)
	return func(last ...func()) {
		defer use.Close()
		present.Close()
		if unix.Flock(int(use.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			return
		}
		for _, last := range last {
			alone(f, last)
		}
	}, nil
}

// Unused calls do if no command uses the folder. None begins meanwhile.
func (r Registry) Unused(dir string, do func()) error {
	f, err := identify(dir)
	if err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	use, err := lock(r.useFile(f), unix.LOCK_EX, 0)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return err
	}
	defer use.Close()
	alone(f, do)
	return nil
}

// apart returns an error if an agent works in a folder that is in f or around it. Several may work
// in f itself.
func (r Registry) apart(f folder) error {
	other, err := r.used(f, func(other folder) bool { return other.id != f.id })
	if err == nil && other != "" {
		err = fmt.Errorf("use %s as working directory: another command works in %s, and the upper one of the two "+
			"could take away what protects .git/hooks and the like in the lower one: wait for its end, or start "+
			"this one with --overlay", f.path, other)
	}
	return err
}

// Idle returns an error if a command that may write the folder works in it, in a folder there, or in
// one around it. The error is then [ErrRuns].
func (r Registry) Idle(dir string) error {
	f, err := identify(dir)
	if err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	other, err := r.used(f, func(folder) bool { return true })
	if err == nil && other != "" {
		err = fmt.Errorf("%s: %w: wait for its end", other, ErrRuns)
	}
	return err
}

// Busy returns the paths of the folders in which a command works that may write there.
func (r Registry) Busy() (paths []string, err error) {
	all, err := r.folders()
	for _, f := range all {
		free, err := lock(r.useFile(f), unix.LOCK_EX, 0)
		switch {
		case err == nil:
			free.Close()
		case errors.Is(err, unix.EWOULDBLOCK):
			paths = append(paths, f.path)
		default:
			return paths, err
		}
	}
	return paths, err
}

// used returns a folder that counts, in which an agent works, and that is f, in f or around it; or
// "".
func (r Registry) used(f folder, counts func(folder) bool) (string, error) {
	all, err := r.folders()
	if err != nil {
		return "", err
	}
	mounts, err := readMounts()
	if err != nil {
		return "", err
	}
	for _, other := range all {
		if !counts(other) {
			continue
		}
		free, err := lock(r.useFile(other), unix.LOCK_EX, 0)
		if err == nil {
			free.Close()
			continue
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return "", err
		}
		used := &Folders{mounts: mounts, list: []agentFolder{{folder: other, places: mounts.places(other.path)}}}
		err = used.CheckFolder(f.path)
		if writable := (*WritableError)(nil); errors.As(err, &writable) {
			return other.path, nil
		}
		if err != nil {
			return "", err
		}
	}
	return "", nil
}

// useFile is the file whose lock says that an agent runs in the folder. Only we may open the file.
// It is another one for a folder that was removed, whose inode a new folder may have.
func (r Registry) useFile(f folder) string {
	return fmt.Sprintf("%s.%d.%d.%d.lock", r.file, f.id.device, f.id.inode, f.id.born)
}

// File returns the path of the list.
func (r Registry) File() string { return r.file }

func (r Registry) add(f folder) error {
	if err := os.MkdirAll(filepath.Dir(r.file), 0o700); err != nil {
		return err
	}
	held, err := lock(r.file+".lock", unix.LOCK_EX, lockFor)
	if err != nil {
		return err
	}
	defer held.Close()
	file, err := os.OpenFile(r.file, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	// The control plane reads the list, and may run as a user of its own.
	if err := file.Chmod(0o644); err != nil {
		return err
	}
	folders, whole, err := r.read(file)
	if err != nil {
		return err
	}
	for _, known := range folders {
		if known == f {
			return nil
		}
	}
	// What follows the last whole line was never relied on.
	if err := file.Truncate(whole); err != nil {
		return err
	}
	if _, err := file.WriteAt([]byte(f.line()), whole); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	return r.syncFolder()
}

// read returns the folders in file, and where its last whole line ends.
func (r Registry) read(file *os.File) (folders []folder, whole int64, err error) {
	content, err := io.ReadAll(file)
	if err != nil {
		return nil, 0, err
	}
	for n := 1; ; n++ {
		line, rest, complete := bytes.Cut(content, []byte("\n"))
		if !complete {
			return folders, whole, nil // cut short before an agent was started in it
		}
		f, err := parseFolder(string(line))
		if err != nil {
			return nil, 0, &DamagedError{r.file, n}
		}
		folders = append(folders, f)
		whole += int64(len(line)) + 1
		content = rest
	}
}

// DamagedError says that the registry cannot be read, so that no path can be trusted.
type DamagedError struct {
	File string
	Line int
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s:%d: this line of the list of agents' working directories is damaged, so no path can be trusted: "+
		"correct the line by a backup, or delete it and never keep a secret or a program of yours in its folder", e.File, e.Line)
}

// Folders returns the folders that agents may write at this moment: those of the registry, the
// additional ones, and whatever is mounted in them. A registry that does not exist is empty. A
// damaged registry is an error.
func (r Registry) Folders(more ...string) (*Folders, error) {
	folders, err := r.folders()
	if err != nil {
		return nil, err
	}
	for _, dir := range more {
		f, err := identify(dir)
		if err != nil {
			return nil, fmt.Errorf("look at %s: %w", dir, err)
		}
		folders = append(folders, f)
	}
	mounts, err := readMounts()
	if err != nil {
		return nil, err
	}
	all := &Folders{mounts: mounts, variable: os.LookupEnv, user: os.Geteuid()}
	for _, f := range folders {
		all.list = append(all.list, agentFolder{folder: f, places: mounts.places(f.path)})
	}
	kept, err := r.kept()
	if err != nil {
		return nil, fmt.Errorf("look for what agents keep: %w", err)
	}
	for _, dir := range kept {
		f, err := identify(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // cleared, or being made
		}
		if err != nil {
			return nil, fmt.Errorf("look at what an agent keeps, %s: %w", dir, err)
		}
		all.list = append(all.list, agentFolder{folder: f, places: mounts.places(f.path), home: true})
	}
	return all, nil
}

// kept returns the homes and volumes that agents keep, which are in the state folders of the stacks.
func (r Registry) kept() ([]string, error) {
	base := filepath.Dir(r.file)
	stacks, err := readDir(base)
	if err != nil {
		return nil, err
	}
	var kept []string
	for _, s := range stacks {
		dir := filepath.Join(base, s.Name(), "kept")
		agents, err := readDir(dir)
		if err != nil {
			return nil, err
		}
		for _, a := range agents {
			kept = append(kept, filepath.Join(dir, a.Name(), "files"))
		}
	}
	return kept, nil
}

// readDir returns what is in the folder: nothing if there is no folder there, or if it is another
// user's, because then no path through the folder leads this process anywhere.
func readDir(dir string) ([]fs.DirEntry, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	return entries, err
}

// folders returns what the list holds.
func (r Registry) folders() ([]folder, error) {
	if r.file == "" {
		return nil, errors.New("read the list of agents' working directories: nobody has said where it is, so no path can be trusted")
	}
	file, err := os.OpenFile(r.file, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of agents' working directories: %w", err)
	}
	defer file.Close()
	folders, _, err := r.read(file)
	return folders, err
}

// lockFor bounds the wait for another process that records or forgets a folder.
const lockFor = 5 * time.Second

// lock takes the lock on the file at path, and waits for it at most that long. The kernel drops the
// lock when the file is closed. Only we may open the file, so nobody else can hold the lock.
func lock(path string, how int, patience time.Duration) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for until := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		err := unix.Flock(int(file.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(until) {
			file.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
}

// within reports whether path is dir or below it. Both are clean and absolute.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}
