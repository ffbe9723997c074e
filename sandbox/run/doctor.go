package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/sandbox/bubblewrap"
	"github.com/postern/postern/sandbox/container"
	"github.com/postern/postern/sandbox/vm"
)

// Finding says whether a runtime can be used on this machine.
type Finding struct {
	Runtime plan.Runtime `json:"runtime"`
	Usable  bool         `json:"usable"`
	// Detail says what was found, and what does not hold with it.
	Detail string `json:"detail,omitempty"`
	// Why says why the runtime cannot be used; Remedy is a command that changes that, if one does.
	Why    string `json:"why,omitempty"`
	Remedy string `json:"remedy,omitempty"`
}

// examination bounds the time for each runtime.
const examination = 20 * time.Second

// Examine finds out which runtimes this machine has. folders are those of all agents. It starts
// nothing that stays.
func Examine(ctx context.Context, folders *hostpath.Folders) []Finding {
	findings := make([]Finding, 0, len(plan.Runtimes()))
	for _, e := range []struct {
		runtime plan.Runtime
		examine func(context.Context, *hostpath.Folders) (string, error)
	}{
		{plan.RuntimeBubblewrap, examineBubblewrap},
		{plan.RuntimeContainer, examineEngine},
		{plan.RuntimeGVisor, examineGVisor},
		{plan.RuntimeVM, examineVM},
	} {
		ctx, cancel := context.WithTimeout(ctx, examination)
		detail, err := e.examine(ctx, folders)
		cancel()
		f := Finding{Runtime: e.runtime, Usable: err == nil, Detail: detail}
		unusable := (*container.UnusableError)(nil)
		switch {
		case errors.As(err, &unusable):
			f.Why, f.Remedy = unusable.Why, unusable.Remedy
		case err != nil:
			f.Why = err.Error()
		}
		findings = append(findings, f)
	}
	return findings
}

// examineBubblewrap makes a sandbox with what every one has.
func examineBubblewrap(ctx context.Context, folders *hostpath.Folders) (string, error) {
	path, err := folders.Program("bwrap", hostpath.Root)
	if notFound := (*hostpath.NotFoundError)(nil); errors.As(err, &notFound) {
		return "", &container.UnusableError{Why: "bubblewrap is not installed", Remedy: "apt install bubblewrap"}
	}
	if err != nil {
		return "", err
	}
	ask := exec.CommandContext(ctx, path, "--version")
	ask.Env = folders.Environ()
	version, err := ask.Output()
	if err != nil {
		return "", fmt.Errorf("start %s: %w", path, err)
	}
	detail := strings.TrimSpace(string(version)) + ", " + path
	var complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, path, "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/",
		"--proc", "/proc", "--dev", "/dev", "true")
	cmd.Stderr, cmd.Env = &complaint, ask.Env
	if err := cmd.Run(); err != nil {
		return detail, bubblewrap.Explain(complaint.String(), err)
	}
	return detail, nil
}

// examineEngine asks the container engine what it is, and which limits it can hold.
func examineEngine(ctx context.Context, folders *hostpath.Folders) (string, error) {
	detail, _, err := engineDetail(ctx, folders)
	return detail, err
}

func engineDetail(ctx context.Context, folders *hostpath.Folders) (string, *container.Info, error) {
	socket, err := findEngine(folders)
	if err != nil {
		return "", nil, err
	}
	engine, err := container.Open(ctx, socket)
	if err != nil {
		return "", nil, err
	}
	info, err := engine.Info(ctx)
	if err != nil {
		return "", nil, err
	}
	detail := "engine " + info.ServerVersion + " on " + socket
	switch users := info.Users(); {
	case users.Rootless:
		detail += ", rootless"
	case users.First != 0:
		detail += fmt.Sprintf(", whose users begin at %d (userns-remap)", users.First)
	}
	for _, limit := range []struct {
		holds bool
		what  string
	}{{info.MemoryLimit, "memory"}, {info.PidsLimit, "processes"}, {info.CPUCfsQuota, "processors"}} {
		if !limit.holds {
			detail += ", cannot limit " + limit.what
		}
	}
	return detail, info, nil
}

// examineGVisor is examineEngine for an engine that must know gVisor too.
func examineGVisor(ctx context.Context, folders *hostpath.Folders) (string, error) {
	detail, info, err := engineDetail(ctx, folders)
	if err != nil {
		return detail, err
	}
	return detail, checkGVisor(info)
}

// examineVM finds what a virtual machine needs, and the sandbox around it.
func examineVM(ctx context.Context, folders *hostpath.Folders) (string, error) {
	if detail, err := examineBubblewrap(ctx, folders); err != nil {
		return detail, err
	}
	inside, err := findInside(folders)
	if err != nil {
		return "", err
	}
	o, err := vm.Find(ctx, folders, inside, "")
	if err != nil {
		return "", err
	}
	return o.QEMU + ", kernel " + o.Kernel + ", " + o.Accelerator(), nil
}
