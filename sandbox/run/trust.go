package run

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
)

// trusted checks, before an agent gets the folder workdir, that nothing that the host trusts can be
// written there: the state folder, Postern's own programs, and the files that the plan names.
// Whatever the sandbox would hide or protect, a path on a file system that the host changes too is
// nobody's to protect.
func (r *Request) trusted(folders *hostpath.Folders, workdir string, own []string) error {
	if err := folders.CheckFolder(filepath.Dir(r.Home.Root)); err != nil {
		return r.anotherFolder("the folder of Postern's keys and sockets", err)
	}
	for _, program := range own {
		if err := folders.Check(program); err != nil {
			return r.anotherFolder("a program of Postern's", err)
		}
	}
	if err := outsideCheckout(own[0], workdir); err != nil {
		return r.anotherFolder("Postern's own sources", err)
	}
	for _, f := range r.Plan.Files() {
		err := folders.Check(f.Path)
		if writable := (*hostpath.WritableError)(nil); errors.As(err, &writable) {
			if f.Socket {
				return fmt.Errorf("%s: %w: have its service listen in a folder where no agent works, name that socket "+
					"in the stack file, and publish that with `postern push`", f.What, err)
			}
			return fmt.Errorf("%s: %w: copy it to where no agent works (%s), name the copy in the stack file, publish "+
				"that with `postern push`, and remove the old one (rm %s): an agent may read it",
				f.What, err, writable.Advice(), hostpath.Quote(f.Path))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.What, err)
		}
	}
	return nil
}

// outsideCheckout refuses a working directory in the checkout in which the program self was built,
// because `make` and `go run .` run its content. Only the demonstration's folder may be an agent's.
func outsideCheckout(self, workdir string) error {
	root := filepath.Dir(filepath.Dir(self))
	module, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil || !bytes.HasPrefix(module, []byte("module github.com/postern/postern\n")) {
		return nil //nolint:nilerr // an installed program has no sources next to it
	}
	demo := filepath.Join(root, ".cache", "demo", "work")
	if below := workdir + "/"; !strings.HasPrefix(below, root+"/") || strings.HasPrefix(below, demo+"/") {
		return nil
	}
	return &hostpath.WritableError{Path: root, Step: root, Folder: workdir}
}

// anotherFolder advises to run the agent in another folder.
func (r *Request) anotherFolder(what string, err error) error {
	if writable := (*hostpath.WritableError)(nil); !errors.As(err, &writable) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w: run the agent in another folder: %s", what, err, inAnotherFolder(r.Args))
}

// inAnotherFolder returns the command line args with the flag for another working directory, to be
// pasted into a shell.
func inAnotherFolder(args []string) string {
	var words []string
	flags := true // of postern's, not of the agent's command
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
		return "", fmt.Errorf("find postern-sandbox: %w; `make build` builds it", err)
	}
	return self, nil
}
