package container

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/wire"
)

// joinPatience bounds the time from the container's start until its first process connects.
const joinPatience = time.Minute

// closePatience bounds the removal at the end. What is left then is for the next run, and for the
// ender if the engine does not answer.
const closePatience = 15 * time.Second

// Running is a container that runs, or has ended.
type Running struct {
	engine *Engine
	id     string
	// folder holds what is removed with the container, and in its folder host the socket at which
	// the first process connects.
	folder string
	// name is the container's, and nobody's who cannot read the folder.
	name   string
	gone   chan struct{}
	err    error
	cancel context.CancelFunc
	// unanswered is set if the engine may still make a container that it was asked for.
	unanswered bool
	// ender removes the container if this process ends before it has.
	ender *exec.Cmd
}

// Start makes and starts the container of a view, hands its first process the files, and returns
// the connection to that process. profile is the filter of system calls, in Docker's format. The
// caller calls Close at the end.
func Start(
	ctx context.Context, v *view.View, o *Options, profile []byte, files []*os.File,
) (*Running, *net.UnixConn, error) {
	engine, err := Open(ctx, o.Socket)
	if err != nil {
		return nil, nil, err
	}
	r := &Running{engine: engine, gone: make(chan struct{})}
	connection, err := r.start(ctx, v, o, profile, files)
	if err != nil {
		return nil, nil, errors.Join(err, r.Close()) //nolint:contextcheck // also after the end of ctx
	}
	return r, connection, nil
}

func (r *Running) start(
	ctx context.Context, v *view.View, o *Options, profile []byte, files []*os.File,
) (*net.UnixConn, error) {
	if err := r.engine.sweep(ctx, o.Folder); err != nil {
		return nil, err
	}
	listener, err := r.listen(o.Folder)
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	c, err := render(v, o, r.host(), profile)
	if err != nil {
		return nil, err
	}
	if err := r.outlive(v); err != nil {
		return nil, err
	}
	own := append([]string{wire.Dir, v.Workdir.Path}, o.Volumes...)
	if err := r.engine.checkPlaces(ctx, r.name+probeSuffix, c, own); err != nil {
		r.unanswered = isUnanswered(err)
		return nil, err
	}
	if o.Foreign {
		if err := r.checkDevices(ctx, c, o.Folder); err != nil {
			r.unanswered = isUnanswered(err)
			return nil, err
		}
	}
	if r.id, err = r.engine.create(ctx, r.name, c); err != nil {
		r.unanswered = isUnanswered(err)
		return nil, err
	}
	if err := r.engine.checkOverlays(ctx, r.id, c); err != nil {
		return nil, err
	}
	// From here on the engine removes the container when it ends, also if this process is killed.
	waiting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.cancel = cancel
	ready := make(chan struct{})
	go func() {
		r.err = r.engine.gone(waiting, r.id, func() { close(ready) })
		close(r.gone)
	}()
	<-ready
	if err := r.engine.start(ctx, r.id); err != nil {
		return nil, err
	}
	return r.join(ctx, listener, files)
}

// outlive starts the ender. A signal to this process's group does not reach it.
func (r *Running) outlive(v *view.View) error {
	at := slices.IndexFunc(v.Mounts, func(m view.Mount) bool { return m.Target == wire.Inside })
	if at < 0 {
		return fmt.Errorf("make container: the view has no %s", wire.Inside)
	}
	path := r.engine.prefix + "/containers/" + r.name
	what := []string{wire.End, r.engine.Socket, path + probeSuffix, path}
	r.ender = exec.Command(v.Mounts[at].Source, what...) //nolint:noctx // it outlives us
	r.ender.Dir, r.ender.Env, r.ender.SysProcAttr = "/", []string{}, &syscall.SysProcAttr{Setsid: true}
	_, err := r.ender.StdinPipe() // nothing is written
	if err == nil {
		err = r.ender.Start()
	}
	if err != nil {
		r.ender = nil
		return fmt.Errorf("make container: start what removes it if this process is killed: %w", err)
	}
	return nil
}

// join waits for the first process, and hands it the files.
func (r *Running) join(ctx context.Context, listener *net.UnixListener, files []*os.File) (*net.UnixConn, error) {
	if err := listener.SetDeadline(time.Now().Add(joinPatience)); err != nil {
		return nil, fmt.Errorf("wait for the container's first process: %w", err)
	}
	joined := make(chan struct{})
	defer close(joined)
	go func() {
		select {
		case <-r.gone: // it has ended without a word
			listener.Close()
		case <-ctx.Done():
			listener.Close()
		case <-joined:
		}
	}()
	connection, err := listener.AcceptUnix()
	if err != nil {
		select {
		case <-r.gone:
			return nil, errors.New("start container: its first process ended before it connected: " +
				"can this engine start programs of this machine, in a user namespace?")
		default:
			return nil, fmt.Errorf("wait for the container's first process: %w", err)
		}
	}
	descriptors := make([]int, len(files))
	for i, f := range files {
		descriptors[i] = int(f.Fd())
	}
	if _, _, err := connection.WriteMsgUnix([]byte{1}, unix.UnixRights(descriptors...), nil); err != nil {
		connection.Close()
		return nil, fmt.Errorf("hand the streams to the container: %w", err)
	}
	return connection, nil
}

// Wait waits until the container has ended and is removed. At the end of ctx it removes the
// container, whatever that does.
func (r *Running) Wait(ctx context.Context) error {
	select {
	case <-r.gone:
		return r.err
	case <-ctx.Done():
		return r.engine.Remove(context.WithoutCancel(ctx), r.id)
	}
}

// Close ends the container, if it still runs, and removes what is left.
func (r *Running) Close() error {
	var err error
	ended := r.name == ""
	select {
	case <-r.gone:
		ended = ended || r.err == nil
	default:
	}
	ctx, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	if !ended { // by its name: the engine's answer may have been lost
		for _, name := range []string{r.name, r.name + probeSuffix} {
			err = errors.Join(err, r.engine.Remove(ctx, name))
		}
	}
	if r.cancel != nil {
		r.cancel()
	}
	answered := !r.unanswered && !isUnanswered(err) // what the engine makes later, it does not find now
	if r.ender != nil && answered {                 // else it goes on when this process ends
		_ = r.ender.Process.Kill()
		_ = r.ender.Wait()
	}
	if r.folder != "" && err == nil && answered { // else it says to the next run what is to be removed
		err = os.RemoveAll(r.folder)
	}
	return err
}

// isUnanswered reports whether the engine has not answered a request.
func isUnanswered(err error) bool {
	var failed *url.Error
	var unusable *UnusableError
	return errors.As(err, &failed) || errors.As(err, &unusable)
}

// runPrefix begins the name of the folder of a container; the owner follows. nameFile in it has the
// container's name and, in a line of its own, the socket of its engine.
const (
	runPrefix   = "run-"
	namePrefix  = "postern-"
	nameFile    = "name"
	probeSuffix = "-probe"
)

func (r *Running) host() string { return filepath.Join(r.folder, "host") }

// listen chooses the container's name, and listens in a new folder, which the container sees.
func (r *Running) listen(parent string) (*net.UnixListener, error) {
	r.name = namePrefix + strings.ToLower(rand.Text())
	err := os.MkdirAll(parent, 0o700)
	if err == nil {
		r.folder, err = os.MkdirTemp(parent, runPrefix+Owner()+"-")
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(r.folder, nameFile), []byte(r.name+"\n"+r.engine.Socket), 0o600)
	}
	folder := r.host()
	if err == nil {
		err = os.Mkdir(folder, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("make folder for the container: %w", err)
	}
	// The container's user may be another one than ours. Nobody else gets through the folder above.
	if err := os.Chmod(folder, 0o755); err != nil { //nolint:gosec // see above
		return nil, fmt.Errorf("make folder for the container: %w", err)
	}
	opened, err := os.Open(folder)
	if err != nil {
		return nil, fmt.Errorf("make folder for the container: %w", err)
	}
	defer opened.Close()
	// The path itself may be longer than a socket's may be.
	short := fmt.Sprintf("/proc/self/fd/%d/control.sock", opened.Fd())
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: short})
	if err != nil {
		return nil, fmt.Errorf("listen for the container: %w", err)
	}
	listener.SetUnlinkOnClose(false)                             // by then the descriptor may be another file's
	err = os.Chmod(filepath.Join(folder, "control.sock"), 0o666) //nolint:gosec // see above
	if err != nil {
		listener.Close()
		return nil, fmt.Errorf("listen for the container: %w", err)
	}
	return listener, nil
}

// store puts the content into a file of the folder, whose name is a hash of it, and returns the
// file's path.
func store(folder string, content []byte) (string, error) {
	sum := sha256.Sum256(content)
	path := filepath.Join(folder, hex.EncodeToString(sum[:16]))
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && info.Size() == int64(len(content)) {
		return path, nil
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", fmt.Errorf("write file for the container: %w", err)
	}
	if err := atomicfile.Write(path, content, 0o444); err != nil {
		return "", fmt.Errorf("write file for the container: %w", err)
	}
	return path, nil
}

// Owner says which process this is: by its PID namespace, its number there, and its start, because
// numbers are used again.
func Owner() string {
	pid := os.Getpid()
	return fmt.Sprintf("%s-%d-%s", pidNamespace(), pid, started(pid))
}

// ended reports whether the owner is a process of this PID namespace that has ended.
func ended(owner string) bool {
	fields := strings.Split(owner, "-")
	if len(fields) < 3 || fields[0] != pidNamespace() {
		return false
	}
	pid, err := strconv.Atoi(fields[1])
	if err != nil || pid <= 0 {
		return false
	}
	if start := started(pid); start != "" {
		return start != fields[2]
	}
	// There may be a process of another user, of which we may see nothing.
	return errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}

func pidNamespace() string {
	link, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return "none"
	}
	return strings.Trim(strings.TrimPrefix(link, "pid:"), "[]")
}

// started is the time at which the process was started, in the kernel's ticks; "" if that cannot
// be read.
func started(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	const field = 22 - 3 // of proc_pid_stat(5), after the name, which may have spaces
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) <= field {
		return ""
	}
	return fields[field]
}

// sweep removes what a killed `postern run` may have left: a container that never started, and its
// folder. Only what the folder says counts: an image's maker chooses labels.
func (e *Engine) sweep(ctx context.Context, folder string) error {
	left, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for folders of containers: %w", err)
	}
	for _, dir := range left {
		owner, is := strings.CutPrefix(dir.Name(), runPrefix)
		if !is || !ended(owner) {
			continue
		}
		at := filepath.Join(folder, dir.Name())
		// Without a name nothing was made.
		content, err := os.ReadFile(filepath.Join(at, nameFile))
		name, socket, _ := strings.Cut(string(content), "\n")
		if err == nil && strings.HasPrefix(name, namePrefix) {
			if socket != e.Socket {
				continue // the next run with that engine asks it
			}
			for _, made := range []string{name, name + probeSuffix} {
				if err := e.Remove(ctx, made); err != nil {
					return err
				}
			}
		}
		if err := os.RemoveAll(at); err != nil {
			return fmt.Errorf("remove folder of a container: %w", err)
		}
	}
	return nil
}
