package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan/tool"
)

// leftOpen bounds the wait for what holds the tool's output when the tool has ended.
const leftOpen = time.Second

// Outside runs the program of a tool on this machine, as the user of this process. The program
// reads input, and gets nothing else of the agent's. Outside returns what the program writes to its
// standard output, and its exit status. What the program writes to its standard error goes nowhere:
// it may quote a secret.
//
// The program may not be one that an agent may write, and neither may what its command names. When
// Outside returns, nothing of the program's process group is left.
func (t *Tools) Outside(ctx context.Context, of *tool.Tool, input []byte) (said []byte, status int, err error) {
	ctx, cancel, done, err := t.enter(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer done()
	cmd, err := outside(ctx, of)
	if err != nil {
		return nil, 0, err
	}
	out := &bounded{most: int(of.Output), full: func() { cancel(ErrTooMuch) }}
	cmd.Stdin, cmd.Stdout, cmd.WaitDelay = bytes.NewReader(input), out, leftOpen
	// The program ends with the thread that has started it, so with us.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	if err := cmd.Start(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, 0, cause
		}
		var number unix.Errno
		_ = errors.As(err, &number) // without the path
		return nil, 0, fmt.Errorf("start the tool: %w", number)
	}
	// Its number is its own until Wait, so nobody else's group is killed.
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
	}
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	err = cmd.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return out.said.Bytes(), 0, cause
	}
	var exited *exec.ExitError
	switch {
	case errors.As(err, &exited) && exited.ExitCode() < 0:
		return out.said.Bytes(), 0, fmt.Errorf("the tool was ended: %s", exited.ProcessState)
	case errors.As(err, &exited):
		return out.said.Bytes(), exited.ExitCode(), nil
	case errors.Is(err, exec.ErrWaitDelay):
		return out.said.Bytes(), 0, errors.New("the tool has left a process that holds its output")
	case errors.Is(err, unix.EPIPE): // it has not read its input
		err = nil
	}
	return out.said.Bytes(), 0, err
}

// outside returns the command of a tool. Its errors are the agent's to read, and name no file.
func outside(ctx context.Context, of *tool.Tool) (*exec.Cmd, error) {
	folders, err := hostpath.AgentFolders()
	if err != nil {
		return nil, errors.New("this machine does not know where agents work: the operator runs postern doctor")
	}
	program, err := folders.Program(of.Command[0], hostpath.User)
	switch {
	case err != nil:
		return nil, errors.New("the operator's program is not there, or somebody else may write it")
	case tool.IsShell(program):
		return nil, errors.New("the operator's program is a shell, which would run what it reads")
	}
	for _, word := range of.Command[1:] {
		if len(folders.Safe([]string{"WORD=" + word})) == 0 {
			return nil, errors.New("the operator's command names a file where an agent works")
		}
	}
	cmd, err := folders.Single(ctx, hostpath.User, of.Command[0], of.Command[1:]...)
	if err != nil {
		return nil, errors.New("the operator's program is not there, or somebody else may write it")
	}
	cmd.Env = folders.Environ(of.Env...)
	return cmd, nil
}

// bounded keeps what is written to it, and calls full if that is too much.
type bounded struct {
	said bytes.Buffer
	most int
	full func()
}

func (b *bounded) Write(p []byte) (int, error) {
	if rest := b.most - b.said.Len(); len(p) > rest {
		b.said.Write(p[:rest])
		b.full()
		return rest, ErrTooMuch
	}
	return b.said.Write(p)
}
