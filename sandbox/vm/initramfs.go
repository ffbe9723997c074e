package vm

import (
	"bytes"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/sandbox/wire"
)

// lacksError says what a kernel lacks.
type lacksError struct{ module string }

func (e *lacksError) Error() string { return "it has no module " + e.module }

// initramfs makes the archive that the kernel starts from: the modules that the machine needs, of
// those in the folder, and postern-sandbox.
func initramfs(folders *hostpath.Folders, dir, inside string) ([]byte, error) {
	needed, err := needed(folders, dir)
	if err != nil {
		return nil, err
	}
	program, err := folders.ReadFile(inside, maxModule)
	if err != nil {
		return nil, fmt.Errorf("read postern-sandbox: %w", err)
	}
	a := new(archive)
	for _, d := range []string{"dev", "proc", strings.TrimPrefix(wire.Modules, "/")} {
		a.add(d, unix.S_IFDIR|0o755, nil)
	}
	for i, module := range needed {
		content, err := read(folders, path.Join(dir, module))
		if err != nil {
			return nil, fmt.Errorf("read module: %w", err)
		}
		name := fmt.Sprintf("%s/%02d-%s", strings.TrimPrefix(wire.Modules, "/"), i, path.Base(module))
		a.add(name, unix.S_IFREG|0o400, content)
	}
	// The kernel wants a console for the first process before that can make one.
	a.device("dev/console", 5, 1)
	a.add(strings.TrimPrefix(wire.Init, "/"), unix.S_IFREG|0o500, program)
	a.add("TRAILER!!!", 0, nil)
	return a.Bytes(), nil
}

// needed returns the files of the modules in the folder that the machine needs, each after those
// that it needs itself.
func needed(folders *hostpath.Folders, dir string) ([]string, error) {
	list, err := read(folders, path.Join(dir, "modules.dep"))
	if err != nil {
		return nil, &lacksError{"at all: " + err.Error()}
	}
	built, err := read(folders, path.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, &lacksError{"at all: " + err.Error()}
	}
	uses, files := map[string][]string{}, map[string]string{}
	for line := range strings.Lines(string(list)) {
		file, needs, _ := strings.Cut(strings.TrimSpace(line), ":")
		files[moduleName(file)], uses[file] = file, strings.Fields(needs)
	}
	for line := range strings.Lines(string(built)) {
		files[moduleName(strings.TrimSpace(line))] = ""
	}
	var order []string
	for _, name := range modules {
		file, ok := files[name]
		if !ok {
			return nil, &lacksError{name}
		}
		if file == "" {
			continue // in the kernel itself
		}
		// modules.dep has all that a module needs, the first to load last.
		all := append([]string{file}, uses[file]...)
		for _, f := range slices.Backward(all) {
			if !slices.Contains(order, f) {
				order = append(order, f)
			}
		}
	}
	return order, nil
}

// moduleName returns the name of the module in the file.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// archive is a cpio archive of the kind "newc", the only one that the kernel reads.
type archive struct {
	bytes.Buffer
	inode int
}

func (a *archive) add(name string, mode uint32, content []byte) { a.entry(name, mode, content, 0, 0) }

func (a *archive) device(name string, major, minor int) {
	a.entry(name, unix.S_IFCHR|0o600, nil, major, minor)
}

func (a *archive) entry(name string, mode uint32, content []byte, major, minor int) {
	a.inode++
	fmt.Fprintf(a, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0, name)
	a.pad()
	a.Write(content)
	a.pad()
}

// pad fills up to a multiple of four bytes.
func (a *archive) pad() { _, _ = io.WriteString(a, "\x00\x00\x00"[:-a.Len()&3]) }
