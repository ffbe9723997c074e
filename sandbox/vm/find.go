package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/sandbox/container"
	"github.com/postern/postern/sandbox/wire"
)

// Options say how a machine is made, besides its view.
type Options struct {
	// QEMU and Kernel are real paths of files that only root may write, but an unpacked Kernel is
	// the person's own.
	QEMU, Kernel string
	// Initramfs is the archive with the kernel's modules and the first process. It is made for each
	// run, from root's files, and never on a disk.
	Initramfs []byte
	// KVM is true if a machine has started with it. Otherwise QEMU translates every instruction.
	KVM bool
}

const (
	kvmDevice     = "/dev/kvm"
	installKernel = "apt install linux-image-amd64"
	// trialPatience bounds the start of a machine with KVM, which takes less than a second where it
	// works.
	trialPatience = 10 * time.Second
	// trialAgain is when KVM is tried again: perhaps the machine was busy.
	trialAgain = time.Hour
	// maxModule bounds each file of an initramfs, in bytes.
	maxModule = 256 << 20
)

// modules are those that the machine needs.
var modules = []string{"virtio_pci", "virtio_console", "9pnet_virtio", "9p", "unix_diag"}

// programs are the names of QEMU by the machine's architecture.
var programs = map[string]string{"amd64": "qemu-system-x86_64"}

// Find finds what a machine needs on this one, and tries KVM. inside is the path of
// postern-sandbox. cache, if set, is a private folder that keeps, until the next start of this
// machine, whether KVM works, and the unpacked kernel if KVM does not.
// If something is missing, the error is a [container.UnusableError].
func Find(ctx context.Context, folders *hostpath.Folders, inside, cache string) (*Options, error) {
	name, ok := programs[runtime.GOARCH]
	if !ok {
		return nil, &container.UnusableError{Why: "virtual machines are not built yet for " + runtime.GOARCH}
	}
	o := new(Options)
	var err error
	o.QEMU, err = folders.Program(name, hostpath.Root)
	if notFound := (*hostpath.NotFoundError)(nil); errors.As(err, &notFound) {
		return nil, &container.UnusableError{Why: "QEMU is not installed", Remedy: "apt install qemu-system-x86"}
	}
	if err != nil {
		return nil, fmt.Errorf("find QEMU: %w", err)
	}
	if !strings.HasPrefix(o.QEMU, "/usr/") {
		return nil, &container.UnusableError{
			Why: fmt.Sprintf("QEMU is %s, and not in /usr, which its sandbox sees", o.QEMU),
		}
	}
	if err := o.findKernel(folders, "/boot", "/lib/modules", inside); err != nil {
		return nil, err
	}
	if o.KVM = o.mayUseKVM() && o.worksKVM(ctx, cache); !o.KVM && cache != "" {
		o.unpackKernel(ctx, folders, cache)
	}
	return o, nil
}

// Accelerator says what runs the machine's instructions.
func (o *Options) Accelerator() string {
	if o.KVM {
		return "KVM"
	}
	return "TCG: slow, because KVM does not work here"
}

// findKernel finds the newest kernel of the distribution that has what a machine needs, in the
// folder boot. libraries has the modules of each.
func (o *Options) findKernel(folders *hostpath.Folders, boot, libraries, inside string) error {
	var unusable []*container.UnusableError // the newest first
	kernels, err := filepath.Glob(filepath.Join(boot, "vmlinuz-*"))
	if err != nil {
		return fmt.Errorf("find kernel: %w", err)
	}
	slices.SortFunc(kernels, func(a, b string) int { return modified(b).Compare(modified(a)) })
	for _, kernel := range kernels {
		version := strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")
		f, err := open(folders, kernel)
		if err != nil {
			u := &container.UnusableError{Why: fmt.Sprintf("kernel %s: %v", kernel, err)}
			if errors.Is(err, unix.EACCES) {
				u.Remedy = "sudo chmod a+r " + hostpath.Quote(kernel)
			}
			unusable = append(unusable, u)
			continue
		}
		f.Close()
		initramfs, err := initramfs(folders, filepath.Join(libraries, version), inside)
		if lacks := (*lacksError)(nil); errors.As(err, &lacks) {
			unusable = append(unusable, &container.UnusableError{
				Why: fmt.Sprintf("kernel %s: %v", kernel, err), Remedy: installKernel,
			})
			continue
		}
		if err != nil {
			return fmt.Errorf("prepare kernel %s: %w", kernel, err)
		}
		o.Kernel, o.Initramfs = kernel, initramfs
		return nil
	}
	return append(unusable, &container.UnusableError{
		Why: "there is no kernel for a machine in " + boot, Remedy: installKernel,
	})[0]
}

// open opens a file that nobody but root may write.
func open(folders *hostpath.Folders, path string) (*os.File, error) { return openOf(folders, path, 0) }

// openOf opens a file of the user that nobody else but root may write.
func openOf(folders *hostpath.Folders, path string, uid int) (*os.File, error) {
	f, err := folders.Open(path)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(f.Fd()), &st); err == nil && (int(st.Uid) != uid || st.Mode&0o022 != 0) {
		err = fmt.Errorf("%s is not a file that only root may write: a machine would start what others put there",
			path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// read reads a file that nobody but root may write.
func read(folders *hostpath.Folders, path string) ([]byte, error) {
	f, err := open(folders, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxModule))
}

// modified is the time at which the distribution made the file.
func modified(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// mayUseKVM reports whether the machine's user may open the device. Root's machine has a user of
// its own.
func (o *Options) mayUseKVM() bool {
	var st unix.Stat_t
	if unix.Stat(kvmDevice, &st) != nil {
		return false
	}
	if os.Getuid() == 0 {
		return st.Mode&0o006 == 0o006
	}
	return unix.Access(kvmDevice, unix.R_OK|unix.W_OK) == nil
}

// worksKVM is tryKVM, of which the cache keeps what it found with these files.
func (o *Options) worksKVM(ctx context.Context, cache string) bool {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if cache == "" || err != nil {
		return o.tryKVM(ctx)
	}
	sum := sha256.Sum256(fmt.Append(boot, o.QEMU, o.Kernel, sha256.Sum256(o.Initramfs)))
	path := filepath.Join(cache, "kvm-"+hex.EncodeToString(sum[:16]))
	info, err := os.Stat(path)
	if kept, readErr := os.ReadFile(path); err == nil && readErr == nil {
		if works := string(kept) == "works"; works || time.Since(info.ModTime()) < trialAgain {
			return works
		}
	}
	found := map[bool]string{true: "works", false: "hangs"}[o.tryKVM(ctx)]
	if os.MkdirAll(cache, 0o700) == nil {
		_ = atomicfile.Write(path, []byte(found), 0o600) // or it is tried again
	}
	return found == "works"
}

// tryKVM reports whether a machine that does nothing starts and ends with KVM. There are machines
// with the device on which an ordinary kernel hangs.
func (o *Options) tryKVM(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, trialPatience)
	defer cancel()
	file, err := unix.MemfdCreate("initramfs", unix.MFD_CLOEXEC)
	if err != nil {
		return false
	}
	archive := os.NewFile(uintptr(file), "initramfs")
	defer archive.Close()
	if _, err := archive.Write(o.Initramfs); err != nil {
		return false
	}
	with := *o
	with.KVM = true
	line := with.line(256, 1000, o.Kernel, "/proc/self/fd/3", wire.Trial)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	// QEMU takes its firmware from the current folder, if it is there.
	cmd.Dir, cmd.Env, cmd.ExtraFiles = "/", []string{}, []*os.File{archive}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL} // of this thread
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	said, err := cmd.Output()
	return err == nil && bytes.Contains(said, []byte(wire.Ready))
}
