package run

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern/postern/checkout"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/sandbox/view"
)

// trusted checks, before an agent gets the folder workdir, that it could write nothing there that
// the host trusts: the state folder, Postern's own programs, and the files that the plan names. The
// sandbox could not hide or protect such a path, because the host changes the same file system.
func (r *Request) trusted(folders *hostpath.Folders, workdir string, own []string) error {
	if err := folders.CheckFolder(filepath.Dir(r.Home.Root)); err != nil {
		return r.anotherFolder("the folder of Postern's keys and sockets", err)
	}
	if err := r.unmounted(folders, workdir); err != nil {
		return err
	}
	for _, program := range own {
		if err := folders.Check(program); err != nil {
			return r.anotherFolder("a program of Postern's", err)
		}
	}
	if err := outsideSources(own, workdir); err != nil {
		return r.anotherFolder("Postern's own sources", err)
	}
	for _, f := range r.Plan.Files() {
		err := folders.Check(f.Path)
		if writable := (*hostpath.WritableError)(nil); errors.As(err, &writable) {
			if f.Socket {
				return fmt.Errorf("%s: %w: have its service listen in a folder where no agent works, name that socket "+
					"in the stack file, and publish that with `%s`", f.What, err, r.Home.Command("push"))
			}
			return fmt.Errorf("%s: %w: copy it to where no agent works (%s), name the copy in the stack file, publish "+
				"that with `%s`, and remove the old one (rm %s): an agent may read it",
				f.What, err, writable.Advice(), r.Home.Command("push"), hostpath.Quote(f.Path))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.What, err)
		}
	}
	return nil
}

// unmounted refuses a working directory in which a mount leads to what no agent may see: the home,
// the folders of keys there, and the sockets of container engines. By their names, package view
// has refused them.
func (r *Request) unmounted(folders *hostpath.Folders, workdir string) error {
	home, err := os.UserHomeDir()
	if err != nil {
		return fmt.Errorf("find your home: %w", err)
	}
	for _, path := range append(view.Never(home, os.Getenv("XDG_RUNTIME_DIR")), home) {
		check := folders.CheckFolder
		if path == home || path == "/root" {
			check = folders.Check // in a home there are working directories
		}
		err := check(path)
		if writable := (*hostpath.WritableError)(nil); errors.As(err, &writable) && writable.Folder == workdir {
			return r.anotherFolder(hostpath.Quote(path)+", which no agent may see", err)
		}
	}
	return nil
}

// outsideSources refuses a working directory, "" for none, in or around a source tree that one of
// our programs was built in, because `make` and `go run .` run its content. Only the
// demonstration's folder may be an agent's.
func outsideSources(own []string, workdir string) error {
	if workdir == "" {
		return nil
	}
	for _, program := range own {
		root, ok := checkout.Of(program)
		if !ok {
			var err error
			if root, ok, err = installedFrom(filepath.Dir(program)); err != nil {
				return err
			}
		}
		demo := filepath.Join(root, ".cache", "demo", "work") + "/"
		if below := workdir + "/"; ok && !strings.HasPrefix(below, demo) &&
			(strings.HasPrefix(below, root+"/") || strings.HasPrefix(root, below)) {
			return &hostpath.WritableError{Path: root, Step: root, Folder: workdir}
		}
	}
	return nil
}

// installedFrom returns the source tree, if it is still there, that tools/install.sh installed the
// programs in the folder from.
func installedFrom(folder string) (root string, ok bool, err error) {
	text, err := hostpath.ReadFile(filepath.Join(folder, "source"), 4096)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("find what Postern was installed from: %w", err)
	}
	root, err = filepath.EvalSymlinks(strings.TrimSuffix(string(text), "\n"))
	if err != nil {
		return "", false, nil //nolint:nilerr // it was removed
	}
	root, ok = checkout.Of(filepath.Join(root, "bin", "postern"))
	return root, ok, nil
}

// anotherFolder advises to run the agent in another folder. A file with several names should get
// one instead.
func (r *Request) anotherFolder(what string, err error) error {
	writable := (*hostpath.WritableError)(nil)
	if !errors.As(err, &writable) {
		return fmt.Errorf("%s: %w", what, err)
	}
	if writable.Names > 0 {
		return fmt.Errorf("%s: %w: give it a file of its own: %s", what, err, writable.Alone())
	}
	return fmt.Errorf("%s: %w: run the agent in another folder: %s", what, err, inAnotherFolder(r.Args))
}

// inAnotherFolder returns the command line args with the flag for another working directory, to be
// pasted into a shell.
func inAnotherFolder(args []string) string {
	var words []string
	flags := true // flags of postern, not of the agent's command
	for i := 0; i < len(args); i++ {
		a := args[i]
		flags = flags && a != "--"
		switch {
		case flags && (a == "--workdir" || a == "-w"):
			i++
		case flags && strings.HasPrefix(a, "--workdir="):
		case flags && a == "run":
			words = append(words, a, "--workdir", "~/agent")
		default:
			words = append(words, hostpath.Quote(a))
		}
	}
	return strings.Join(words, " ")
}

// ownPrograms returns the programs that run on the host with the caller's rights: this one, those
// next to it, and those that the stack was brought up with.
func ownPrograms(home home.Folder) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find postern: %w", err)
	}
	own := []string{self}
	for _, name := range []string{
		"posternd", "postern-sandbox", "postern-stack", "postern-cloud", "posternd-cloud", "postern-stack-aws",
		"libguard.so", "pulumi-resource-postern",
	} {
		own = append(own, filepath.Join(filepath.Dir(self), name))
	}
	more, err := home.Programs()
	return append(own, more...), err
}

// findBubblewrap finds the program that makes the namespaces, with the caller's rights: only root's
// will do.
func findBubblewrap(folders *hostpath.Folders) (string, error) {
	path, err := folders.Program("bwrap", hostpath.Root)
	if notFound := (*hostpath.NotFoundError)(nil); errors.As(err, &notFound) {
		return "", fmt.Errorf("%w: install bubblewrap (Debian, Ubuntu: apt install bubblewrap; Fedora: dnf install "+
			"bubblewrap; Alpine: apk add bubblewrap; Arch: pacman -S bubblewrap)", err)
	}
	return path, err
}

// findInside finds the program that runs inside: next to this one.
func findInside(folders *hostpath.Folders) (string, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = folders.Program(filepath.Join(filepath.Dir(self), "postern-sandbox"), hostpath.User)
	}
	if err != nil {
		return "", fmt.Errorf("find postern-sandbox: %w; run `make build` or `make install` again", err)
	}
	return self, nil
}
