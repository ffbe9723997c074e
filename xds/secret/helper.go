package secret

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
)

// helpTimeout bounds one run of a helper.
const helpTimeout = 20 * time.Second

// maxHelper bounds the program of a helper, which is copied into memory for each run.
const maxHelper = 64 << 20

// fetchHelper runs a program and takes its standard output as the secret. The program has no
// standard input, no standard error, because what it complains about may be secret, and none of the
// control plane's environment. When it is done, or its time is over, every process that it has left
// in its process group is killed.
//
// What runs is a copy in memory that has the published digest: whatever is renamed or written
// meanwhile, no other program runs.
func (s *Store) fetchHelper(ref plan.Reference) fetch {
	return func(ctx context.Context) ([]byte, string, *trouble) {
		program, t := s.openHelper(ref)
		if t != nil {
			return nil, "", t
		}
		defer program.Close()
		ctx, cancel := context.WithTimeout(ctx, helpTimeout)
		defer cancel()
		out := &limited{left: maxAnswer}
		// The interpreter of a script opens the same path, so the program keeps the descriptor.
		cmd := exec.CommandContext(ctx, "/proc/self/fd/3", ref.Args...)
		cmd.Args[0] = ref.Name
		cmd.ExtraFiles = []*os.File{program}
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

// openHelper returns a copy in memory of the published helper. Nothing can change the copy. It
// refuses a helper that anybody but root and the control plane's user could have written.
func (s *Store) openHelper(ref plan.Reference) (*os.File, *trouble) {
	if ref.Digest == "" {
		return nil, &trouble{text: fmt.Sprintf("helper %s was published without a digest, so it is not run: run `postern push` where the helper is", ref.Name)}
	}
	folders, err := s.folders()
	if err != nil {
		return nil, &trouble{text: err.Error()}
	}
	file, err := folders.OpenProgram(ref.Name, hostpath.User)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &trouble{text: "there is no helper " + ref.Name}
	}
	if err != nil {
		return nil, &trouble{text: fmt.Sprintf("helper %s is not run: %s", ref.Name, err)}
	}
	defer file.Close()
	program, digest, err := inMemory(file)
	if err != nil {
		return nil, &trouble{text: fmt.Sprintf("cannot read helper %s", ref.Name), down: true}
	}
	if digest != ref.Digest {
		program.Close()
		return nil, &trouble{text: fmt.Sprintf("helper %s is not the one that was published, so it is not run: look at the change, then run `postern push`", ref.Name)}
	}
	return program, nil
}

// inMemory returns a sealed copy of the file that can be executed, and its SHA-256.
func inMemory(file *os.File) (program *os.File, digest string, err error) {
	fd, err := unix.MemfdCreate("helper", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3, every one can be executed
		fd, err = unix.MemfdCreate("helper", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, "", err
	}
	program = os.NewFile(uintptr(fd), "helper")
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(program, sum), io.LimitReader(file, maxHelper+1))
	if err == nil && n > maxHelper {
		err = errTooLong
	}
	if err == nil {
		_, err = unix.FcntlInt(program.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	}
	if err != nil {
		program.Close()
		return nil, "", err
	}
	return program, hex.EncodeToString(sum.Sum(nil)), nil
}

// helperEnv returns the variables that programs need.
func helperEnv() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	for _, name := range []string{"HOME", "USER"} {
		if v := os.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// limited is a buffer that fails when it is full, because a part of a secret is useless.
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
