package engine

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
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/blang/semver"

	"github.com/postern/postern/hostpath"
)

// FindCLI returns the real path of the pulumi CLI: $PULUMI; the one in dir, where `make install`
// puts it next to our programs; the one in PATH; or .cache/bin/pulumi in dir or a folder above it.
// It passes over a CLI that an agent or another user may write.
func FindCLI(f *hostpath.Folders, dir string) (string, error) {
	if path := os.Getenv("PULUMI"); path != "" {
		path, err := filepath.Abs(path)
		if err == nil {
			path, err = f.Program(path, hostpath.User)
		}
		if err != nil {
			return "", fmt.Errorf("use $PULUMI: %w", err)
		}
		return path, nil
	}
	path, err := f.Program(filepath.Join(dir, "pulumi"), hostpath.User)
	if !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	path, err = f.Program("pulumi", hostpath.User)
	if notFound := (*hostpath.NotFoundError)(nil); !errors.As(err, &notFound) {
		return path, err
	}
	for ; ; dir = filepath.Dir(dir) {
		path, err := f.Program(filepath.Join(dir, ".cache", "bin", "pulumi"), hostpath.User)
		if !errors.Is(err, fs.ErrNotExist) {
			return path, err
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no pulumi CLI: run `make install` or `make deps` in the source tree, or put yours in PATH or $PULUMI")
		}
	}
}

// cli is the pulumi CLI as the Automation API uses it (auto.PulumiCommand).
type cli struct {
	path    string
	environ []string
	version semver.Version
}

// oldest is the first CLI of the API that the SDK was made for.
var oldest = semver.Version{Major: 3, Minor: 200}

// ownVariables are the variables of the caller's own Pulumi that say where its states are, who may
// read them, and where its plugins are.
var ownVariables = []string{
	"PULUMI_HOME", "PULUMI_BACKEND_URL", "PULUMI_ACCESS_TOKEN", "PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE",
}

// newCLI returns the CLI at path. It leaves out variables that configure another Pulumi project of
// the caller, and keeps [ownVariables] only if own is set.
func newCLI(ctx context.Context, path string, environ []string, own bool) (*cli, error) {
	c := &cli{path: path, environ: slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return strings.HasPrefix(name, "PULUMI_") && !(own && slices.Contains(ownVariables, name))
	})}
	out, stderr, _, err := c.Run(ctx, "", nil, nil, nil, []string{"PULUMI_SKIP_UPDATE_CHECK=true"}, "version")
	if err != nil {
		return nil, fmt.Errorf("run %s version: %w %s", path, err, stderr)
	}
	if c.version, err = semver.ParseTolerant(strings.TrimSpace(out)); err != nil {
		return nil, fmt.Errorf("read the version of %s: %w", path, err)
	}
	if c.version.Major != oldest.Major || c.version.LT(oldest) {
		return nil, fmt.Errorf("%s is version %s: a 3.x of at least %s is needed; `make deps` puts one into .cache/bin/pulumi: name it in PULUMI, or put it first in PATH", path, c.version, oldest)
	}
	return c, nil
}

func (c *cli) Version() semver.Version { return c.version }

// Run runs one command. When ctx ends, it interrupts the CLI once, and gives it time to undo
// half-done work.
func (c *cli) Run(
	ctx context.Context, workdir string, stdin io.Reader, outs, errs []io.Writer, env []string, args ...string,
) (stdout, stderr string, code int, err error) {
	// Up, Refresh and Destroy end with a request for outputs and history, which nobody here needs
	// and each of which takes half a second.
	if len(args) > 1 && args[0] == "stack" {
		switch args[1] {
		case "output":
			return "{}", "", 0, nil
		case "history":
			return "[]", "", 0, nil
		}
	}
	cmd := exec.CommandContext(ctx, c.path, append([]string{"--non-interactive"}, args...)...)
	cmd.Dir, cmd.Stdin = workdir, stdin
	cmd.Env = slices.Concat(c.environ, env, []string{"PULUMI_AUTOMATION_API=true"})
	var o, e bytes.Buffer
	cmd.Stdout = io.MultiWriter(append(slices.Clone(outs), &o)...)
	cmd.Stderr = io.MultiWriter(append(slices.Clone(errs), &e)...)
	// A group of its own, so that Ctrl-C in a terminal reaches it only through us: a second
	// interrupt would mean "leave everything as it is".
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	err = cmd.Run()
	code = -1
	if cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
	}
	return o.String(), e.String(), code, err
}
