// Package hostpath decides which of this machine's paths, programs and files a command of ours may
// trust.
//
// An agent writes anything into its working directory, and folders outlive agents. So a path is
// trusted only if no step on the way to its file is in a folder where an agent works or has worked.
// [Registry] remembers those folders. [Folders.Check] walks a path and names the step that is in
// one. [Folders.Open] opens exactly the file that was checked. [Folders.Program] finds the programs
// that may be started on the host.
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

// Registry is the list of the folders that are or were an agent's working directory. Several processes
// may call its methods at once. The zero value has no list, and its methods return an error: see
// [In].
type Registry struct{ file string }

// In returns the registry in base, the folder that holds the state folders of all stacks.
func In(base string) Registry { return Registry{filepath.Join(base, registryFile)} }

// folder is one line of the registry: "device inode born path", where born is the folder's time of birth in
// nanoseconds, 0 if its file system knows none, and the path is real, absolute and quoted as Go does.
type folder struct {
	path string
	id   identity
}

func (f folder) line() string {
	return fmt.Sprintf("%d %d %d %s\n", f.id.device, f.id.inode, f.id.born, strconv.QuoteToASCII(f.path))
}

func parseFolder(line string) (folder, error) {
	var f folder
	var quoted string
	if _, err := fmt.Sscanf(line, "%d %d %d %q", &f.id.device, &f.id.inode, &f.id.born, &quoted); err != nil {
		return f, err
	}
	if f.path = quoted; !filepath.IsAbs(f.path) || filepath.Clean(f.path) != f.path || f.line() != line+"\n" {
		return f, errors.New("it is not a valid line")
	}
	return f, nil
}

// Record adds the folder dir to the registry, unless it is there already, and returns when that is
// on disk. Call it before an agent gets dir. The path must be real. Otherwise an agent that works
// above dir could have any folder recorded, and so keep every command from trusting its content.
func (r Registry) Record(dir string) error {
	f, err := identify(dir)
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
	return folder{last.path, last.identity}, nil
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
	held, err := lock(r.file + ".lock")
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
		use, err := r.inUse(f, unix.LOCK_EX)
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

// Use records the folder as [Registry.Record] does. It keeps the folder from being forgotten until
// done is called or this process ends.
func (r Registry) Use(dir string) (done func(), err error) {
	f, err := identify(dir)
	if err != nil {
		return nil, fmt.Errorf("record the agent's working directory %s: %w", dir, err)
	}
	if err := os.MkdirAll(filepath.Dir(r.file), 0o700); err != nil {
		return nil, err
	}
	// First this: who forgets the folder now has done so before it is recorded.
	use, err := r.inUse(f, unix.LOCK_SH)
	if err != nil {
		return nil, fmt.Errorf("record the agent's working directory %s: %w", dir, err)
	}
	if err := r.Record(dir); err != nil {
		use.Close()
		return nil, err
	}
	return func() { use.Close() }, nil
}

// inUse takes a lock that says that an agent runs in the folder, or that none does. Only we may
// open the file.
func (r Registry) inUse(f folder, how int) (*os.File, error) {
	file, err := os.OpenFile(fmt.Sprintf("%s.%d.%d.lock", r.file, f.id.device, f.id.inode), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(file.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, unix.EINTR) {
			file.Close()
			return nil, err
		}
	}
}

// File returns the path of the list.
func (r Registry) File() string { return r.file }

func (r Registry) add(f folder) error {
	if err := os.MkdirAll(filepath.Dir(r.file), 0o700); err != nil {
		return err
	}
	held, err := lock(r.file + ".lock")
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
		all.list = append(all.list, agentFolder{f, mounts.places(f.path)})
	}
	return all, nil
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

// lockFor bounds the wait for another process that records a folder.
const lockFor = 5 * time.Second

// lock takes the lock on the file at path, which the kernel drops when the file is closed. Nobody else may open the file,
// so that nobody else can hold the lock.
func lock(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for until := time.Now().Add(lockFor); ; time.Sleep(time.Millisecond) {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
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
