package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/hostpath"
)

// unpackers are the programs that unpack a kernel, by what it begins with.
var unpackers = map[string]string{
	"\xfd7zXZ\x00": "xz", "\x28\xb5\x2f\xfd": "zstd", "\x02\x21\x4c\x18": "lz4", "\x1f\x8b\x08": "gzip",
}

// unpackKernel puts the unpacked kernel in the place of the packed one. Without KVM the packed one
// takes longer to unpack itself than all the rest of its start. It stays if anything is in the way.
func (o *Options) unpackKernel(ctx context.Context, folders *hostpath.Folders, cache string) {
	image, err := read(folders, o.Kernel)
	if err != nil {
		return
	}
	sum := sha256.Sum256(image)
	path := filepath.Join(cache, "vmlinux-"+hex.EncodeToString(sum[:]))
	if f, err := openOf(folders, path, os.Geteuid()); err == nil {
		f.Close()
		o.Kernel = path
		return
	}
	kernel, err := unpacked(ctx, folders, image)
	if err != nil || os.MkdirAll(cache, 0o700) != nil {
		return
	}
	if atomicfile.Write(path, kernel, 0o444) != nil {
		return
	}
	o.Kernel = path
	// A machine that runs keeps its own.
	all, _ := filepath.Glob(filepath.Join(cache, "vmlinux-*"))
	for _, each := range all {
		if each != path {
			_ = os.Remove(each)
		}
	}
}

// unpacked returns the program in a kernel's image, if QEMU can start that.
func unpacked(ctx context.Context, folders *hostpath.Folders, image []byte) ([]byte, error) {
	packed, size, err := payload(image)
	if err != nil {
		return nil, err
	}
	name := ""
	for magic, program := range unpackers {
		if bytes.HasPrefix(packed, []byte(magic)) {
			name = program
		}
	}
	if name == "" {
		return nil, errors.New("nobody knows how the kernel is packed")
	}
	if name != "gzip" { // whose own end has the size
		packed = packed[:len(packed)-4]
	}
	program, err := folders.Program(name, hostpath.Root)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", name, err)
	}
	cmd := exec.CommandContext(ctx, program, "-dc")
	cmd.Dir, cmd.Env, cmd.Stdin = "/", []string{}, bytes.NewReader(packed)
	kernel, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("unpack kernel: %w", err)
	}
	if len(kernel) != int(size) {
		return nil, fmt.Errorf("the kernel has %d bytes, and %d were packed", len(kernel), size)
	}
	return kernel, startable(kernel)
}

// payload returns what is packed in a kernel's image, with the last four bytes, and the size that
// they say it has. See Documentation/arch/x86/boot.rst of Linux.
func payload(image []byte) (packed []byte, size uint32, err error) {
	const sectors, magic, offset, length, end = 0x1f1, 0x202, 0x248, 0x24c, 0x250
	if len(image) < end || string(image[magic:magic+4]) != "HdrS" {
		return nil, 0, errors.New("it is not a kernel's image")
	}
	number := func(at int) uint64 { return uint64(binary.LittleEndian.Uint32(image[at:])) }
	from := (uint64(image[sectors])+1)*512 + number(offset)
	to := from + number(length)
	if number(length) < 8 || to > uint64(len(image)) {
		return nil, 0, errors.New("the kernel's image is cut off")
	}
	return image[from:to], uint32(number(int(to) - 4)), nil
}

// startable returns nil if the program has the note by which QEMU starts it: it says where.
func startable(kernel []byte) error {
	const kindAndOwner = "\x12\x00\x00\x00Xen\x00"
	file, err := elf.NewFile(bytes.NewReader(kernel))
	if err != nil {
		return fmt.Errorf("read kernel: %w", err)
	}
	for _, p := range file.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		notes, err := io.ReadAll(io.LimitReader(p.Open(), maxModule))
		if err != nil {
			return fmt.Errorf("read kernel: %w", err)
		}
		if bytes.Contains(notes, []byte(kindAndOwner)) {
			return nil
		}
	}
	return errors.New("the kernel has no note that says where it starts")
}
