package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/blang/semver"
)

// FindCLI returns the path of the pulumi CLI: $PULUMI, or the one in PATH, or
// .cache/bin/pulumi in dir or a folder above it.
func FindCLI(dir string) (string, error) {
	if path := os.Getenv("PULUMI"); path != "" {
		abs, err := filepath.Abs(path)
		if err != nil {
			return "", fmt.Errorf("find $PULUMI: %w", err)
		}
		if _, err := exec.LookPath(abs); err != nil {
			return "", fmt.Errorf("use $PULUMI: %w", err)
		}
		return abs, nil
	}
	if path, err := exec.LookPath("pulumi"); err == nil {
		return filepath.Abs(path)
	}
	for ; ; dir = filepath.Dir(dir) {
		path := filepath.Join(dir, ".cache", "bin", "pulumi")
		if _, err := exec.LookPath(path); err == nil {
			return path, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no pulumi CLI: run `make up`, which builds one into .cache/bin, or put yours in PATH or $PULUMI")
		}
	}
}

// cli is the pulumi CLI as the Automation API uses it (auto.PulumiCommand).
type cli struct {
	path    string
	version semver.Version
}

// oldest is the first CLI of the API that the SDK was made for.
var oldest = semver.Version{Major: 3, Minor: 200}

func newCLI(ctx context.Context, path string) (*cli, error) {
	c := &cli{path: path}
	out, stderr, _, err := c.Run(ctx, "", nil, nil, nil, []string{"PULUMI_SKIP_UPDATE_CHECK=true"}, "version")
	if err != nil {
		return nil, fmt.Errorf("run %s version: %w %s", path, err, stderr)
	}
	if c.version, err = semver.ParseTolerant(strings.TrimSpace(out)); err != nil {
		return nil, fmt.Errorf("read the version of %s: %w", path, err)
	}
	if c.version.Major != oldest.Major || c.version.LT(oldest) {
		return nil, fmt.Errorf("%s is version %s: a 3.x of at least %s is needed", path, c.version, oldest)
	}
	return c, nil
}

func (c *cli) Version() semver.Version { return c.version }

// Run runs one command. When ctx ends the CLI is interrupted, once, and gets
// the time to undo what is half done.
func (c *cli) Run(
	ctx context.Context, workdir string, stdin io.Reader, outs, errs []io.Writer, env []string, args ...string,
) (stdout, stderr string, code int, err error) {
	// Up, Refresh and Destroy end by asking for outputs and history, which
	// nobody here wants and which take half a second each.
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
	cmd.Env = append(environ(), append(slices.Clone(env), "PULUMI_AUTOMATION_API=true")...)
	var o, e bytes.Buffer
	cmd.Stdout = io.MultiWriter(append(slices.Clone(outs), &o)...)
	cmd.Stderr = io.MultiWriter(append(slices.Clone(errs), &e)...)
	// A group of its own: Ctrl-C in a terminal reaches it by way of us only,
	// and a second interrupt would mean "leave everything as it is".
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

// environ is the caller's environment without what another Pulumi project of
// theirs has set there, such as a backend or an access token.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "PULUMI_") })
}
