package hostpath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Folders are the folders that agents may write on this machine, at the time when
// [Registry.Folders] returned. Use it for one command or one check of a file, and do not keep it:
// mounts change.
type Folders struct {
	list   []agentFolder
	mounts mounts
	// variable and user are os.LookupEnv and os.Geteuid.
	variable func(string) (string, bool)
	user     int
}

// agentFolder is a folder of an agent, and where in the file systems its content is.
type agentFolder struct {
	folder
	places []place
	// home is true for a home that an agent keeps. It is in the state folder, which nobody else
	// writes, and no link (hard link) in it can be another name of a file elsewhere.
	home bool
}

// Except returns the folders without those that only this agent has used, in the words of
// [Registry.Use].
func (f *Folders) Except(agent string) *Folders {
	others := *f
	others.list = slices.DeleteFunc(slices.Clone(f.list), func(a agentFolder) bool { return a.agent == agent })
	return &others
}

// WritableError says that an agent may write, or may have written, a file or some step on the way
// to it.
type WritableError struct {
	// Path is the file.
	Path string
	// Step is the folder, link or file on the way that is in Folder.
	Step string
	// Folder is the agent's folder.
	Folder string
	// Names is the number of names (hard links) of the file, if that is the reason: one of them may
	// be in Folder.
	Names int
}

func (e *WritableError) Error() string {
	where := e.Folder + ", where an agent may write"
	switch {
	case e.Names > 0:
		return fmt.Sprintf("%s has %d names (hard links), and one may be in %s", e.Path, e.Names, where)
	case within(e.Folder, e.Step) && e.Folder != e.Step:
		return fmt.Sprintf("%s contains %s", e.Path, where)
	case within(filepath.Clean(e.Path), e.Folder):
		return fmt.Sprintf("%s is in %s", e.Path, where)
	case within(e.Step, e.Folder):
		return fmt.Sprintf("%s leads through %s, which is in %s", e.Path, e.Step, where)
	}
	return fmt.Sprintf("%s leads through %s, which is also in %s", e.Path, e.Step, where)
}

// Alone returns the command that gives the file one name, if it has several: the other names stay
// with the old file.
func (e *WritableError) Alone() string {
	own := Quote(e.Step + ".own")
	return fmt.Sprintf("cp -p %s %s && mv -f %s %s", Quote(e.Step), own, own, Quote(e.Step))
}

// controlGroup is the group of the control plane's own user, which reads what the plan names where
// root brings stacks up.
const controlGroup = "postern-control"

// Advice returns the command that copies the file to a place where no agent works. Moving the file
// would not help: a running agent keeps its open files, and a moved file keeps its other names.
func (e *WritableError) Advice() string {
	to := "/etc/postern"
	if dir, err := os.UserConfigDir(); err == nil && os.Geteuid() != 0 {
		to = filepath.Join(dir, "postern")
	}
	read, run := "600", "700"
	if _, err := user.LookupGroup(controlGroup); err == nil && os.Geteuid() == 0 {
		read, run = "640 -g "+controlGroup, "750 -g "+controlGroup
	}
	mode := read
	if info, err := os.Stat(e.Path); err == nil && info.Mode()&0o111 != 0 {
		mode = run
	}
	return fmt.Sprintf("install -D -m %s %s %s", mode, Quote(e.Path), Quote(filepath.Join(to, filepath.Base(e.Path))))
}

// Quote returns s as one word of a POSIX shell.
func Quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+=:@,") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Check returns a [*WritableError] if an agent may write the file at the absolute path, any folder
// on the way to it, or any symbolic link on the way, by name, by identity or through a mount. It
// also does so if the file has a further name that may be in an agent's folder. A path that does
// not exist yet is judged by the way to it. Any other error means that the way could not be
// inspected; then the caller must not use the file either.
func (f *Folders) Check(path string) error {
	w := &walk{}
	defer w.close()
	if err := f.walk(w, path, nil); err != nil {
		return missing(err)
	}
	return f.otherNames(w, path)
}

// CheckFolder is Check for a folder that must not contain an agent's folder either.
func (f *Folders) CheckFolder(path string) error {
	w := &walk{}
	defer w.close()
	if err := f.walk(w, path, nil); err != nil {
		return missing(err)
	}
	last := w.last()
	here, err := f.place(last)
	if err != nil {
		return err
	}
	for _, a := range f.list {
		if a.home && within(a.path, last.path) {
			continue
		}
		if within(a.path, last.path) || slices.ContainsFunc(a.places, func(p place) bool { return p.within(here) }) {
			return &WritableError{Path: path, Step: last.path, Folder: a.path}
		}
	}
	return nil
}

// Straight returns the real path of the absolute path, and a [*WritableError] if a symbolic link on
// the way is where an agent may write: the agent chooses where that leads. If something is not
// there, Straight returns the real path of the first step that is missing.
func (f *Folders) Straight(path string) (string, error) {
	w := &walk{see: func(step *file) error {
		if !step.is(unix.S_IFLNK) {
			return nil
		}
		return f.judge(path, step)
	}}
	defer w.close()
	err := w.to(path)
	if at := (*os.PathError)(nil); errors.Is(err, fs.ErrNotExist) && errors.As(err, &at) {
		return at.Path, nil
	}
	if err != nil {
		return "", err
	}
	return w.last().path, nil
}

// missing makes an absent file good: the way to it was checked.
func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Open opens the regular file at the absolute path for reading, if [Folders.Check] returns nil for
// it. It opens the file that was checked, whatever is renamed meanwhile.
func (f *Folders) Open(path string) (*os.File, error) {
	w := &walk{}
	defer w.close()
	if err := f.walk(w, path, nil); err != nil {
		return nil, err
	}
	if err := f.otherNames(w, path); err != nil {
		return nil, err
	}
	return w.open(path)
}

// open opens the regular file at the end for reading.
func (w *walk) open(path string) (*os.File, error) {
	last := w.last()
	if !last.is(unix.S_IFREG) {
		return nil, &os.PathError{Op: "open", Path: path, Err: errors.New("it is not a regular file")}
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", last.fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// walk goes to path, and stops at the first step that is in an agent's folder or that see, if set,
// is against.
func (f *Folders) walk(w *walk, path string, see func(*file) error) error {
	w.see = func(step *file) error {
		if err := f.judge(path, step); err != nil {
			return err
		}
		if see != nil {
			return see(step)
		}
		return nil
	}
	return w.to(path)
}

// judge returns an error if one step is in an agent's folder.
func (f *Folders) judge(path string, step *file) error {
	here, err := f.place(step)
	if err != nil {
		return err
	}
	for _, a := range f.list {
		if within(step.path, a.path) || step.same(a.id) || slices.ContainsFunc(a.places, here.within) {
			return &WritableError{Path: path, Step: step.path, Folder: a.path}
		}
	}
	return nil
}

func (f *Folders) place(step *file) (place, error) {
	here, ok := f.mounts.place(step.path, step.mount)
	if !ok {
		return here, fmt.Errorf("/proc/self/mountinfo does not say what %s is mounted from: run this again, and not in a chroot", step.path)
	}
	return here, nil
}

// ReadFile is [ReadFile] for a file for which [Folders.Check] returns nil. It reads exactly the
// file that was checked.
func (f *Folders) ReadFile(path string, most int) ([]byte, error) {
	w := &walk{}
	defer w.close()
	err := f.walk(w, path, nil)
	if err == nil {
		err = f.otherNames(w, path)
	}
	if err != nil {
		return nil, err
	}
	return readOpen(w.last().fd, path, most)
}
