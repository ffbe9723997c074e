package secret

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/plan"
)

// helpTimeout bounds one run of a helper.
const helpTimeout = 20 * time.Second

// fetchHelper runs a program and takes its standard output for the secret. It
// has no standard input, none of the control plane's environment, and no
// standard error: what it complains of may be secret. When it is done, or its
// time is over, whatever it has left in its process group is killed.
func fetchHelper(ref plan.Reference) fetch {
	return func(ctx context.Context) ([]byte, string, *trouble) {
		if t := checkHelper(ref.Name); t != nil {
			return nil, "", t
		}
		ctx, cancel := context.WithTimeout(ctx, helpTimeout)
		defer cancel()
		out := &limited{left: maxAnswer}
		cmd := exec.CommandContext(ctx, ref.Name, ref.Args...)
		cmd.Dir, cmd.Env, cmd.Stdout = "/", helperEnv(), out
		cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
		// A grandchild may hold the pipe open.
		cmd.WaitDelay = time.Second
		err := cmd.Start()
		if err == nil {
			err = cmd.Wait()
			// The group lives as long as one process is in it.
			_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		}
		var exit *exec.ExitError
		switch {
		case out.left < 0:
			return nil, "", &trouble{text: fmt.Sprintf("helper %s wrote more than %d bytes", ref.Name, maxAnswer)}
		case errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(err, exec.ErrWaitDelay):
			return nil, "", &trouble{text: fmt.Sprintf("helper %s was not done within %s", ref.Name, helpTimeout), down: true}
		case errors.As(err, &exit):
			return nil, "", &trouble{text: fmt.Sprintf("helper %s failed (%s); run it by hand to see why", ref.Name, exit.ProcessState), down: true}
		case err != nil:
			return nil, "", &trouble{text: fmt.Sprintf("cannot start helper %s: check its first line and its format", ref.Name), down: true}
		}
		return out.buffer.Bytes(), "", nil
	}
}

// checkHelper makes sure that nobody else decides what is run.
func checkHelper(path string) *trouble {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &trouble{text: "there is no helper " + path}
	}
	if err != nil {
		return &trouble{text: "cannot look at helper " + path}
	}
	file, err := os.Stat(real)
	dir, failed := os.Stat(filepath.Dir(real))
	switch {
	case err != nil || failed != nil:
		return &trouble{text: "cannot look at helper " + path}
	case !file.Mode().IsRegular() || file.Mode()&0o111 == 0:
		return &trouble{text: fmt.Sprintf("helper %s is not a program: make it executable", path)}
	case file.Mode()&0o022 != 0:
		return &trouble{text: fmt.Sprintf("others may change helper %s: run `chmod go-w` on it", path)}
	case dir.Mode()&0o002 != 0:
		return &trouble{text: fmt.Sprintf("everybody may replace helper %s: its folder is writable for all", path)}
	}
	return nil
}

// helperEnv is what programs cannot do without.
func helperEnv() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	for _, name := range []string{"HOME", "USER"} {
		if v := os.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// limited is a buffer that fails when it is full: half a secret is none.
type limited struct {
	// Not embedded: its ReadFrom would be used, and knows no limit.
	buffer bytes.Buffer
	left   int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, errTooLong
	}
	return l.buffer.Write(p)
}
