package hostpath

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Environ returns an environment for a program of the host: PATH without folders that lead to
// something an agent or another user may write, the user's name, the language, and those of the
// named variables that are set. It contains a variable that makes a program load or start something
// only if the caller names it, and none that leads to an agent's folder.
func (f *Folders) Environ(names ...string) []string { return f.Safe(f.environ(f.path(), names...)) }

func (f *Folders) environ(path string, names ...string) []string {
	env := []string{"PATH=" + path}
	if home, _ := f.variable("HOME"); filepath.IsAbs(home) && f.Check(home) == nil {
		env = append(env, "HOME="+home)
	}
	for _, name := range append([]string{"USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ"}, names...) {
		if value, ok := f.variable(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// loaders begin the names of the variables that make a program load or start something.
var loaders = []string{
	"LD_", "GCONV_PATH", "BASH_ENV", "BASH_FUNC_", "SHELLOPTS", "BASHOPTS", "ENV=", "IFS=", "PS4=", "CDPATH=", "PYTHON", "NODE_", "npm_", "NPM_", "GIT_", "PERL", "RUBY",
	"GEM_", "BUNDLE_", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH", "GOFLAGS", "GOROOT", "GOCACHEPROG", "GOAUTH", "GODEBUG", "VIRTUAL_ENV",
	"CONDA_", "PIP_", "DIRENV_",
}

// CleanEnvironment makes the environment of this process what [Folders.Clean] makes of it. Each of
// our programs that starts others by name, or links a library that does so, begins with it: the SDK
// of AWS starts `sh` and what ~/.aws/config names as credential_process. If the list of agents'
// folders is damaged, only the system's folders stay in PATH, and HOME is what the system says: the
// state folder stays where HOME had it. The commands say what is damaged.
func CleanEnvironment() {
	env := os.Environ()
	if folders, err := AgentFolders(); err == nil {
		env = folders.Clean(env)
	} else {
		env = append(withoutLoaders(safe(env, func(path string) bool {
			return !slices.ContainsFunc(systems, func(dir string) bool { return within(filepath.Clean(path), dir) })
		})), "PATH="+strings.Join(system, ":"))
		if state, err := StateFolder(); err == nil {
			env = append(env, "POSTERN_HOME="+state)
		}
		env = slices.DeleteFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "HOME=") })
		if own, err := user.LookupId(strconv.Itoa(os.Geteuid())); err == nil && filepath.IsAbs(own.HomeDir) {
			env = append(env, "HOME="+own.HomeDir)
		}
	}
	os.Clearenv()
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		os.Setenv(name, value) //nolint:errcheck // it was set a moment ago
	}
}

// systems have what no agent may write, whatever the list says.
var systems = []string{"/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/dev"}

// KeepDescriptors keeps the descriptors that this process was started with from every program that
// it starts, directly or through a library. Each of our programs outside the sandbox begins with it:
// what a shell left open would otherwise reach Envoy and the helpers, for as long as they run.
func KeepDescriptors() {
	// It fails only on kernels on which nothing of ours runs.
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
}

// Clean returns the environment env as a program of the host may have it. PATH is as in
// [Folders.Environ]. Variables that make a program load or start something are removed, and so are
// variables that lead to an agent's folder; see [Folders.Safe].
func (f *Folders) Clean(env []string) []string {
	return append(withoutLoaders(f.Safe(env)), "PATH="+f.path())
}

func withoutLoaders(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		return strings.HasPrefix(kv, "PATH=") || slices.ContainsFunc(loaders, func(l string) bool { return strings.HasPrefix(kv, l) })
	})
}

var (
	// judged are variables that choose nothing, or that are judged where they are used: without
	// one, a command would be about another stack, or use another program, and not say so.
	judged = regexp.MustCompile(`^(PATH|PWD|OLDPWD|XDG_STATE_HOME|XDG_CONFIG_HOME|ENVOY|PULUMI|POSTERND|POSTERN_\w+)$`)
	// relative are variables whose value is a path, from the current folder if it is not absolute.
	relative = regexp.MustCompile(`^(TMPDIR|\w+_(FILE|DIR|BUNDLE|CONFIG|CREDENTIALS|PATH))$`)
)

// Safe returns env without the variables that name, anywhere in their value, what an agent may
// write: -toolexec=/x/y, -I/x and file:///x too.
func (f *Folders) Safe(env []string) []string {
	return safe(env, func(path string) bool {
		var writable *WritableError
		return errors.As(f.Check(path), &writable)
	})
}

// safe returns env without the variables that name a path that is not safe.
func safe(env []string, unsafe func(path string) bool) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, value, _ := strings.Cut(kv, "=")
		if judged.MatchString(name) {
			return false
		}
		words := strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(":=,;\"' \t\n", r) })
		for _, word := range append(words, filepath.SplitList(value)...) {
			path := word
			if i := strings.Index(word, "/"); relative.MatchString(name) && i != 0 {
				path, _ = filepath.Abs(word)
			} else if i >= 0 {
				path = word[i:]
			}
			if filepath.IsAbs(path) && unsafe(path) {
				return true
			}
		}
		return false
	})
}

// path returns the folders that are searched for programs. It leaves out folders that somebody else
// may write, and folders with a link to something that an agent may write.
func (f *Folders) path() string {
	return strings.Join(slices.DeleteFunc(f.search(), func(dir string) bool {
		w := &walk{}
		defer w.close()
		if err := f.walk(w, dir, func(step *file) error { return User.judge(step, f.user) }); err != nil {
			return true
		}
		entries, err := os.ReadDir(dir)
		return err != nil || slices.ContainsFunc(entries, func(e os.DirEntry) bool {
			var writable *WritableError
			return e.Type() == fs.ModeSymlink && errors.As(f.Check(filepath.Join(dir, e.Name())), &writable) && writable.Names == 0
		})
	}), ":")
}
