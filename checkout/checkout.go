// Package checkout builds programs of this source tree when they are first needed: the Pulumi
// program, and the programs for stacks that involve a cloud. So nobody compiles the SDK of a cloud
// that none of their stacks uses.
//
// All of our Go programs are built with the same settings, as posternd needs them, here and in
// tools/build.sh. Go keeps compiled packages apart for each setting: a second setting would compile
// a thousand packages again.
package checkout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/hostpath/places"
)

const (
	// patience bounds a build. On one slow processor the largest takes ten minutes.
	patience = 30 * time.Minute
	// every is the interval at which a build reports its progress.
	every = 15 * time.Second
)

// Program is a program of cmd/.
type Program struct {
	// Name is the file's name in bin/.
	Name string
	// Command is the program's folder in cmd/.
	Command string
	// Tags are the build's tags. They add packages with drivers of clouds, and nothing else.
	Tags string
	// Takes is the duration of the first build on two processors, for people.
	Takes string
}

// The programs that `make up` does not build.
var (
	CLI    = Program{"postern-cloud", "postern", "cloud", "2-3 minutes on two processors"}
	Daemon = Program{"posternd-cloud", "posternd", "cloud", "2-3 minutes on two processors"}
)

// Stack returns the Pulumi program for stacks with this target. The program for "local" also reads the stack file and
// finds out which other one is needed.
func Stack(target string) Program {
	if target == "local" {
		return Program{"postern-stack", "postern-stack", "", "2-3 minutes on two processors"}
	}
	return Program{"postern-stack-" + target, "postern-stack", target, "2-4 minutes on two processors, and 4 GB of memory"}
}

// Of returns the source tree in whose bin/ the program at the path is.
func Of(path string) (root string, ok bool) {
	root = filepath.Dir(filepath.Dir(path))
	module, err := hostpath.ReadFile(filepath.Join(root, "go.mod"), 1<<20)
	ours := bytes.HasPrefix(module, []byte("module github.com/postern/postern\n"))
	return root, err == nil && ours && filepath.Base(filepath.Dir(path)) == "bin"
}

// CheckSources refuses a source tree if an agent may write what is built from it: the root, and
// each folder that the Go tool looks at. The tool ignores folders whose names begin with a period
// (`go help packages`); the demo's agent works in one. Who may write a program in bin/ is checked
// when the program is used.
func CheckSources(folders *hostpath.Folders, root string) error {
	if err := folders.Check(root); err != nil {
		return err
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("look at the source tree: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(root, e.Name())
		check := folders.CheckFolder
		if !e.IsDir() {
			check = folders.Check
		}
		if e.IsDir() && strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if err := check(path); err != nil {
			return err
		}
	}
	return nil
}

// Build makes p's file in bin/ of the source tree at root what the sources say, and returns its real path. Lines for
// people go to w: when a first build begins, and every 15 seconds of any build. The caller vouches for the sources;
// neither the Go tool nor the file may be where an agent, or another user, may write.
func (p Program) Build(ctx context.Context, folders *hostpath.Folders, root string, w io.Writer) (string, error) {
	path := filepath.Join(root, "bin", p.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // programs for whoever may read the tree
		return "", fmt.Errorf("build bin/%s: %w", p.Name, err)
	}
	// Before and after: go build takes a file for its own that merely says so.
	if _, err := folders.Program(path, hostpath.User); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(w, "building bin/%s: the first time this takes %s\n", p.Name, p.Takes)
	} else if err != nil {
		return "", fmt.Errorf("build bin/%s: %w", p.Name, err)
	}
	if err := checkGo(folders); err != nil {
		return "", fmt.Errorf("build bin/%s: %w", p.Name, err)
	}
	tool, err := folders.Program("go", hostpath.User)
	if err != nil {
		return "", fmt.Errorf("build bin/%s: %w", p.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, "build", "-v", "-trimpath", "-buildvcs=false", "-ldflags=-s -w",
		"-tags="+p.Tags, "-o", path, "./cmd/"+p.Command)
	settings, err := goSettings(ctx, folders)
	if err != nil {
		return "", fmt.Errorf("build bin/%s: %w", p.Name, err)
	}
	// No other setting of the tool's is used: many name a program that it starts. A go.work of a
	// folder above may name what an agent works on.
	cmd.Dir, cmd.Env = root, append(settings, "GOENV=off", "GOWORK=off", "CGO_ENABLED=0")
	said, err := p.follow(cmd, w)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return "", fmt.Errorf("build bin/%s in %s: %w\n%s", p.Name, root, err, said)
	}
	return folders.Program(path, hostpath.User)
}

// goUses are the settings of the Go tool that a build uses: where packages come from and are kept.
var goUses = []string{
	"GOCACHE", "GOMODCACHE", "GOPATH", "GOTMPDIR", "GOTOOLCHAIN",
	"GOPROXY", "GONOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE", "GOINSECURE",
}

// goSettings returns an environment with what variables and `go env -w` say of goUses, besides what
// leads to an agent's folder.
func goSettings(ctx context.Context, folders *hostpath.Folders) ([]string, error) {
	asked, err := folders.Single(ctx, hostpath.User, "go", append([]string{"env"}, goUses...)...)
	if err != nil {
		return nil, err
	}
	asked.Env = folders.Environ(append([]string{
		"GOENV", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR",
		"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
	}, goUses...)...)
	// Without GOENV, Go reads a file whose place XDG_CONFIG_HOME names, and starts the toolchain that
	// this names.
	dir, err := os.UserConfigDir()
	named := slices.ContainsFunc(asked.Env, func(kv string) bool { return strings.HasPrefix(kv, "GOENV=") })
	if !named && (err != nil || folders.Check(filepath.Join(dir, "go", "env")) != nil) {
		asked.Env = append(asked.Env, "GOENV=off")
	}
	out, err := asked.Output()
	if err != nil {
		return nil, fmt.Errorf("ask Go for its settings, as `go env` does: %w", err)
	}
	env := asked.Env
	for i, value := range strings.Split(strings.TrimSuffix(string(out), "\n"), "\n") {
		if i < len(goUses) && value != "" {
			env = append(env, goUses[i]+"="+value)
		}
	}
	return folders.Safe(env), nil
}

// checkGo refuses the folders from which the Go tool compiles and runs what is there, if an agent may
// write in one: what variables and `go env -w` say, and where they are otherwise.
func checkGo(folders *hostpath.Folders) error {
	home, err := os.UserHomeDir()
	if err != nil {
		return err
	}
	environ := map[string]string{}
	for _, kv := range os.Environ() {
		if name, value, ok := strings.Cut(kv, "="); ok {
			environ[name] = value
		}
	}
	all := places.Of(home, environ, func(path string) ([]byte, error) { return hostpath.ReadFile(path, 64<<10) })
	all = append(all, places.Place{Name: "GOPATH", Path: filepath.Join(home, "go", "pkg")})
	if cache, err := os.UserCacheDir(); err == nil {
		all = append(all, places.Place{Name: "GOCACHE", Path: filepath.Join(cache, "go-build")})
	}
	for _, p := range all {
		if !strings.HasPrefix(p.Name, "GO") {
			continue
		}
		if err := folders.CheckFolder(p.Path); err != nil {
			return fmt.Errorf("%s: %w: set that to another folder", p.Name, err)
		}
	}
	return nil
}

// compiled is a line of go build -v that names a package.
var compiled = regexp.MustCompile(`(?m)^[a-z0-9.~_-]+(/[A-Za-z0-9.~_+-]+)*\n`)

// output is the output of a build so far.
type output struct {
	sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.Lock()
	defer o.Unlock()
	return o.text.Write(b)
}

// follow runs the build, reports its progress, and returns its output besides the names of
// packages.
func (p Program) follow(cmd *exec.Cmd, w io.Writer) (string, error) {
	var said output
	cmd.Stdout, cmd.Stderr = &said, &said
	began, tick, ended := time.Now(), time.NewTicker(every), make(chan struct{})
	defer tick.Stop()
	go func() {
		for {
			select {
			case <-tick.C:
				said.Lock()
				n := len(compiled.FindAllIndex(said.text.Bytes(), -1))
				said.Unlock()
				fmt.Fprintf(w, "building bin/%s: %d packages compiled, %.0f s\n", p.Name, n, time.Since(began).Seconds())
			case <-ended:
				return
			}
		}
	}()
	err := cmd.Run()
	close(ended)
	return string(compiled.ReplaceAll(said.text.Bytes(), nil)), err
}

// Built returns the real path of p next to this program.
func (p Program) Built(folders *hostpath.Folders) (string, error) {
	beside, err := hostpath.Beside(p.Name)
	if err != nil {
		return "", err
	}
	path, err := folders.Program(beside, hostpath.User)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s is not installed: in Postern's source tree, `make cloud install` installs it: %w", p.Name, err)
	}
	return path, err
}

// Find is [Program.Built], and in a source tree builds a program that is missing.
func (p Program) Find(ctx context.Context, folders *hostpath.Folders, w io.Writer) (string, error) {
	path, err := p.Built(folders)
	beside, failed := hostpath.Beside(p.Name)
	if root, ok := Of(beside); failed == nil && ok && errors.Is(err, fs.ErrNotExist) {
		if err := CheckSources(folders, root); err != nil {
			return "", err
		}
		return p.Build(ctx, folders, root, w)
	}
	return path, err
}

// Start replaces this process by p, with these arguments; args[0] is for messages. In a source tree
// p is built first. Start returns only an error.
func (p Program) Start(ctx context.Context, folders *hostpath.Folders, args []string, w io.Writer) error {
	path, err := p.Current(ctx, folders, w)
	if err != nil {
		return err
	}
	return fmt.Errorf("start %s: %w", path, unix.Exec(path, args, os.Environ()))
}

// Current returns the path of p. In a source tree p is built first.
func (p Program) Current(ctx context.Context, folders *hostpath.Folders, w io.Writer) (string, error) {
	path, err := p.Find(ctx, folders, w)
	if err != nil {
		return "", err
	}
	root, ok := Of(path)
	if !ok {
		return path, nil
	}
	if err := CheckSources(folders, root); err != nil {
		return "", err
	}
	return p.Build(ctx, folders, root, w)
}

// Become builds p and replaces this process by it, with the same arguments and environment. It
// returns only an error.
func (p Program) Become(ctx context.Context, folders *hostpath.Folders, root string, w io.Writer) error {
	path, err := p.Build(ctx, folders, root, w)
	if err != nil {
		return err
	}
	if err := unix.Exec(path, os.Args, os.Environ()); err != nil {
		return fmt.Errorf("start %s: %w", path, err)
	}
	return nil
}
