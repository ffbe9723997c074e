package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/daemon"
	"github.com/postern/postern/provider"
)

// orphanLimit bounds the wait for the CLI of a killed driver. The CLI notices by itself that it has
// lost its program.
const orphanLimit = 20 * time.Second

// takeOver removes the engine's locks on a stack that no process holds any longer. The caller has
// our own lock, so the process that started the holders is gone. takeOver first ends a CLI that
// still works.
func takeOver(ctx context.Context, dir, stack string) error {
	if err := endOrphans(ctx, dir); err != nil {
		return fmt.Errorf("stack %s: %w", stack, err)
	}
	locks, err := filepath.Glob(filepath.Join(dir, ".pulumi", "locks", "organization", Project, stack, "*.json"))
	if err != nil {
		return fmt.Errorf("look for locks of stack %s: %w", stack, err)
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("look for locks of stack %s: %w", stack, err)
	}
	for _, path := range locks {
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read lock of stack %s: %w", stack, err)
		}
		var holder struct {
			PID      int    `json:"pid"`
			Hostname string `json:"hostname"`
		}
		if err := json.Unmarshal(b, &holder); err == nil && holder.Hostname != host {
			return fmt.Errorf("stack %s is locked by process %d on %s: if that is no longer true, remove %s", stack, holder.PID, holder.Hostname, path)
		}
		if err := waitOrphan(ctx, holder.PID); err != nil {
			return fmt.Errorf("stack %s is locked by process %d, the engine of an earlier run: %w; stop it with `kill %d`", stack, holder.PID, err, holder.PID)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove stale lock of stack %s: %w", stack, err)
		}
	}
	return nil
}

// endOrphans ends the CLIs that work for a killed driver, also those that have not locked the stack
// yet. It recognises them by their working folder, which is ours. When asked to end, a CLI undoes
// half-done work.
func endOrphans(ctx context.Context, dir string) error {
	work, err := filepath.EvalSymlinks(filepath.Join(dir, "work"))
	if err != nil {
		return nil //nolint:nilerr // no CLI has ever worked there
	}
	orphans, err := daemon.Find(func(p daemon.Process) bool {
		return p.Dir == work && strings.HasPrefix(filepath.Base(p.Args[0]), "pulumi")
	})
	if err != nil {
		return err
	}
	for _, p := range orphans {
		limited, cancel := context.WithTimeout(ctx, orphanLimit)
		err := p.End(limited, unix.SIGINT)
		cancel()
		if err != nil {
			return fmt.Errorf("end the engine of an earlier run: %w", err)
		}
	}
	return nil
}

// waitOrphan returns when the process is gone, or is not a pulumi CLI.
func waitOrphan(ctx context.Context, pid int) error {
	if pid <= 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil //nolint:nilerr // no such process exists
	}
	defer unix.Close(fd)
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil || !strings.HasPrefix(string(comm), "pulumi") {
		return nil //nolint:nilerr // another process has the number by now
	}
	for deadline := time.Now().Add(orphanLimit); time.Now().Before(deadline); {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for it: %w", err)
		}
		if n > 0 {
			return nil
		}
	}
	return fmt.Errorf("it is still at work after %s", orphanLimit)
}

// pendingOperation is one that never ended, such as "creating".
type pendingOperation struct {
	Type     string `json:"type"`
	Resource struct {
		URN resource.URN `json:"urn"`
	} `json:"resource"`
}

// saved is the engine's state of a stack.
type saved struct {
	Pending   []pendingOperation `json:"pending_operations"`
	Resources []savedResource    `json:"resources"`
}

type savedResource struct {
	URN     resource.URN `json:"urn"`
	Protect bool         `json:"protect"`
}

// saved returns the state. A stack that was never brought up has an empty one.
func (e *Engine) saved(ctx context.Context) (s saved, err error) {
	if e.opts.Backend != "" {
		state, err := e.stack.Export(ctx)
		if err == nil && len(state.Deployment) > 0 {
			err = json.Unmarshal(state.Deployment, &s)
		}
		if err != nil {
			return s, fmt.Errorf("read the state of stack %s: %w", e.opts.Stack, err)
		}
		return s, nil
	}
	path := stateFile(e.dir, e.opts.Stack)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("read the engine's state: %w", err)
	}
	var state struct {
		Checkpoint struct {
			Latest saved `json:"latest"`
		} `json:"checkpoint"`
	}
	if err := json.Unmarshal(b, &state); err != nil {
		return s, fmt.Errorf("read the engine's state %s: %w", path, err)
	}
	return state.Checkpoint.Latest, nil
}

// protected returns the names of the resources that must not be deleted.
func (s saved) protected() []string {
	var names []string
	for _, r := range s.Resources {
		if r.Protect {
			names = append(names, r.URN.Name())
		}
	}
	return names
}

// elsewhere returns the names of the pending creations that are not ours. A cloud's provider may
// have made these resources, and the state does not know them.
func elsewhere(pending []pendingOperation) []string {
	var names []string
	for _, op := range pending {
		if urn := op.Resource.URN; op.Type == "creating" && !strings.HasPrefix(string(urn.Type()), provider.Name+":") {
			names = append(names, urn.Name())
		}
	}
	return names
}
