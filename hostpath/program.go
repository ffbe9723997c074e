package hostpath

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Owner says who may own a program and every folder and link on the way to it. Nobody else may be
// able to write any of them.
type Owner int

const (
	// Root is for programs that make the sandbox: they must not belong to a user.
	Root Owner = iota
	// User is for programs that the operator names: they belong to root or to the calling user,
	// such as programs in ~/.local/bin, ~/.nvm or a checkout.
	User
)

// system has the folders that are searched after the folders of PATH.
var system = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// Program returns the real path of the program of that name, which may be an absolute path. It
// searches a name in the absolute folders of PATH, and then in the system's own. It passes over a
// program that an agent may write (see [Folders.Check]), or that owner does not permit. It judges a
// script's interpreter in the same way. Start the returned path: its folders stay what they were
// when they were checked.
func (f *Folders) Program(name string, owner Owner) (string, error) {
	path, _, err := f.find(name, owner, 0)
	return path, err
}

// Beside returns the path of the file of that name in the folder of this program, whether or not it
// is there. The programs of Postern are in one folder: bin/ of a source tree, or where
// `make install` has put them.
func Beside(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	return filepath.Join(filepath.Dir(self), name), nil
}

// NotFoundError says that a program is not on this machine.
type NotFoundError struct{ Name string }

func (e *NotFoundError) Error() string { return e.Name + " is not installed here" }

// maxScripts bounds the number of interpreters that may be scripts themselves.
const maxScripts = 4

// find returns the real path of the program of that name and what to start: that path or, of a
// script, the path of its interpreter, its arguments and that path.
func (f *Folders) find(name string, owner Owner, scripts int) (path string, argv []string, err error) {
	if filepath.IsAbs(name) {
		return f.program(name, owner, scripts)
	}
	if name == "" || strings.Contains(name, "/") {
		return "", nil, fmt.Errorf("find program %q: write its absolute path", name)
	}
	var refused []error
	for _, dir := range f.search() {
		path, argv, err := f.program(filepath.Join(dir, name), owner, scripts)
		switch {
		case err == nil:
			return path, argv, nil
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR):
		case !slices.ContainsFunc(refused, func(e error) bool { return e.Error() == err.Error() }):
			refused = append(refused, err)
		}
	}
	if len(refused) > 0 {
		return "", nil, fmt.Errorf("find program %s: none of them can be trusted: %w", name, errors.Join(refused...))
	}
	return "", nil, &NotFoundError{name}
}

// search returns the absolute folders of PATH, and the system's. In a relative one, whoever writes
// in the working directory would decide.
func (f *Folders) search() []string {
	path, _ := f.variable("PATH")
	var dirs []string
	for _, dir := range append(filepath.SplitList(path), system...) {
		if filepath.IsAbs(dir) && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// Owned returns the real path of the regular file at the absolute path, judged like a program by
// [Folders.Program]. It is for files that programs load.
func (f *Folders) Owned(path string, owner Owner) (string, error) {
	w := &walk{}
	defer w.close()
	if err := f.owned(w, path, owner); err != nil {
		return "", err
	}
	return w.last().path, nil
}

// owned goes to the regular file at path, if only the owner may write each step.
func (f *Folders) owned(w *walk, path string, owner Owner) error {
	if err := f.walk(w, path, func(step *file) error { return owner.judge(step, f.user) }); err != nil {
		return err
	}
	if !w.last().is(unix.S_IFREG) {
		return fmt.Errorf("%s is not a regular file", path)
	}
	// As an ordinary user, an agent cannot write root's file by any name.
	if w.last().uid == 0 && f.user != 0 {
		return nil
	}
	return f.otherNames(w, path)
}

// OpenProgram opens the program at the absolute path for reading, judged as by [Folders.Program].
// It opens the file that was judged, whatever is renamed meanwhile.
func (f *Folders) OpenProgram(path string, owner Owner) (*os.File, error) {
	w := &walk{}
	defer w.close()
	if _, _, err := f.judged(w, path, owner, 0); err != nil {
		return nil, err
	}
	return w.open(path)
}

// program is find for the absolute path of a program.
func (f *Folders) program(path string, owner Owner, scripts int) (real string, argv []string, err error) {
	w := &walk{}
	defer w.close()
	return f.judged(w, path, owner, scripts)
}

// judged goes to the program at path.
func (f *Folders) judged(w *walk, path string, owner Owner, scripts int) (real string, argv []string, err error) {
	if err := f.owned(w, path, owner); err != nil {
		return "", nil, err
	}
	last := w.last()
	if last.mode&0o111 == 0 {
		return "", nil, fmt.Errorf("%s is not a program", path)
	}
	words, err := w.interpreter(path)
	if err != nil {
		return "", nil, err
	}
	if words == nil {
		return last.path, []string{last.path}, nil
	}
	if scripts++; scripts > maxScripts {
		return "", nil, fmt.Errorf("%s is a script of a script of a script", path)
	}
	_, argv, err = f.find(words[0], owner, scripts)
	if err != nil {
		return "", nil, fmt.Errorf("%s is a script: %w", path, err)
	}
	return last.path, slices.Concat(argv, words[1:], []string{last.path}), nil
}

// interpreter returns the interpreter that the first line of the script at the end names, with env
// resolved, or nil if the file is not a script.
func (w *walk) interpreter(path string) ([]string, error) {
	file, err := w.open(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil // the kernel cannot read a script that its user cannot read
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	head := make([]byte, 256) // what the kernel reads
	n, err := io.ReadFull(file, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	line, _, _ := strings.Cut(string(head[:n]), "\n")
	rest, script := strings.CutPrefix(line, "#!")
	if !script {
		return nil, nil
	}
	program, argument, _ := strings.Cut(strings.Trim(rest, " \t"), " ")
	argument = strings.Trim(argument, " \t\r")
	switch {
	case !filepath.IsAbs(program):
		return nil, fmt.Errorf("%s is a script whose first line does not name an absolute path", path)
	case filepath.Base(program) != "env" && argument == "":
		return []string{program}, nil
	case filepath.Base(program) != "env":
		return []string{program, argument}, nil
	}
	words := strings.Fields(strings.TrimPrefix(argument, "-S"))
	if len(words) == 0 || strings.ContainsAny(words[0], "-=\\'\"$") {
		return nil, fmt.Errorf("%s is a script whose first line does not name its interpreter", path)
	}
	return words, nil
}

// judge returns an error if somebody other than the user me may change the step of a way.
func (o Owner) judge(step *file, me int) error {
	if step.uid != 0 && (o == Root || int(step.uid) != me) {
		whose := "root"
		if o == User && me != 0 {
			whose += " or you"
		}
		return fmt.Errorf("%s belongs to user %d, not to %s", step.path, step.uid, whose)
	}
	open := step.mode & 0o022
	if open&0o020 != 0 && private(step.uid, step.gid) {
		open &^= 0o020
	}
	switch {
	case step.is(unix.S_IFLNK) || open == 0:
	case step.is(unix.S_IFDIR) && step.mode&unix.S_ISVTX != 0:
		// As in /tmp, only its owner can rename an entry, and each step's owner is looked at.
	default:
		return fmt.Errorf("others may write %s: run `chmod go-w %s`", step.path, Quote(step.path))
	}
	return nil
}

// private reports whether the group belongs to the user alone, as most distributions make one for
// each user. It reports false for what this machine's files do not say.
func private(uid, gid uint32) bool {
	owner, err := user.LookupId(strconv.Itoa(int(uid)))
	if err != nil || owner.Gid != strconv.Itoa(int(gid)) {
		return false
	}
	users, uerr := os.ReadFile("/etc/passwd")
	groups, gerr := os.ReadFile("/etc/group")
	if uerr != nil || gerr != nil {
		return false
	}
	for line := range strings.Lines(string(users)) {
		if w := strings.Split(strings.TrimSpace(line), ":"); len(w) > 3 && w[3] == owner.Gid && w[0] != owner.Username {
			return false
		}
	}
	for line := range strings.Lines(string(groups)) {
		if w := strings.Split(strings.TrimSpace(line), ":"); len(w) > 3 && w[2] == owner.Gid {
			return w[3] == "" || w[3] == owner.Username
		}
	}
	return false
}

// Command returns the command that runs the program of that name (see [Folders.Program]) outside
// every project: its working folder is "/" and its environment is that of [Folders.Environ].
func (f *Folders) Command(ctx context.Context, owner Owner, name string, args ...string) (*exec.Cmd, error) {
	cmd, err := f.Single(ctx, owner, name, args...)
	if err != nil {
		return nil, err
	}
	cmd.Env = f.Environ()
	return cmd, nil
}

// Single is [Folders.Command] for a program that starts no other one: unless the program is a
// script, its PATH is empty. To judge all of PATH takes longer than many a program.
func (f *Folders) Single(ctx context.Context, owner Owner, name string, args ...string) (*exec.Cmd, error) {
	_, argv, err := f.find(name, owner, 0)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, argv[0], append(argv[1:], args...)...)
	path := f.path
	if len(argv) == 1 {
		cmd.Args[0] = name // programs with several names go by it
		path = func() string { return "" }
	}
	cmd.Dir, cmd.Env = "/", f.environ(path())
	return cmd, nil
}
