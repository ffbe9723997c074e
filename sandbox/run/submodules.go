package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/sandbox/workspace"
)

// apart is how an agent works where git above goes nowhere.
const apart = "use --overlay, or give the agent a clone (git clone --no-local)"

// refuseSubmodules returns an error if git in a folder above goes into a repository that an agent
// which writes in the working directory can make there: git, also that of a prompt or an editor,
// then runs what the settings of that one name. Git goes where an index names a submodule: one in
// the working directory, or the working directory itself, and then where that one's index leads.
func refuseSubmodules(ctx context.Context, folders *hostpath.Folders, workdir string) error {
	ctx, cancel := context.WithTimeout(ctx, historyPatience)
	defer cancel()
	top, own := aboveOrAt(workdir), workdir
	if top == workdir {
		top = aboveOrAt(filepath.Dir(workdir))
	}
	if top == "" {
		return nil
	}
	below, err := filepath.Rel(top, workdir)
	var at string
	if err == nil {
		at, err = submoduleIn(ctx, folders, top, below, "")
	}
	if err == nil && at == below { // it is the working directory: what is in its own index?
		at, err = submoduleIn(ctx, folders, own, ".", workdir)
	}
	switch {
	case err != nil:
		return fmt.Errorf("look for submodules of %s in this folder: %w: %s", workspace.Quote(top), err, apart)
	case at != "":
		return fmt.Errorf("git in %s goes into its submodule %s, where it would run what an agent puts in its place: "+
			"%s", workspace.Quote(top), workspace.Quote(at), apart)
	}
	return nil
}

// aboveOrAt returns the next folder with .git, at dir or above, or "".
func aboveOrAt(dir string) string {
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(filepath.Join(dir, ".git")); !errors.Is(err, fs.ErrNotExist) {
			return dir
		}
		if dir == "/" {
			return ""
		}
	}
}

// indexScript prints what the index has in the folder, its argument.
const indexScript = confinedGit + `
GIT_WORK_TREE=/repository git ls-files -s -z -- "$1"`

// gitlink begins what git says of a submodule: its mode.
const gitlink = "160000 "

// submoduleIn returns the path of a submodule that the repository at top has at the path in it or
// below, or "". If git's folder is in the folder writes, an agent can add one: then that is the
// path.
func submoduleIn(ctx context.Context, folders *hostpath.Folders, top, in, writes string) (string, error) {
	l, err := gitOf(top)
	if err != nil {
		return "", err
	}
	if writes != "" && strings.HasPrefix(l.git+"/", writes+"/") {
		return in, nil
	}
	out, complaint := limitedBuffer{left: maxHistory}, limitedBuffer{left: 4 << 10}
	err = l.confined(ctx, folders, nil, nil, &out, &complaint, "/bin/sh", "-c", indexScript, "sh", in)
	if err != nil {
		return "", complaint.explain(err)
	}
	for entry := range strings.SplitSeq(out.String(), "\x00") {
		if _, at, _ := strings.Cut(entry, "\t"); strings.HasPrefix(entry, gitlink) {
			return at, nil
		}
	}
	return "", nil
}

// gitOf returns where git has the repository at top, as git finds it: in .git, or where that leads.
// Only git in a sandbox of its own reads there.
func gitOf(top string) (l Leaked, err error) {
	at := filepath.Join(top, ".git")
	if text, err := hostpath.ReadFile(at, mostOfGit); err == nil {
		if named, ok := strings.CutPrefix(strings.TrimRight(string(text), "\r\n"), "gitdir: "); ok {
			at = from(top, named)
		}
	}
	if l.git, err = filepath.EvalSymlinks(at); err != nil {
		return l, err
	}
	if common, err := hostpath.ReadFile(filepath.Join(l.git, "commondir"), mostOfGit); err == nil {
		own := l.git
		l.git, err = filepath.EvalSymlinks(from(own, strings.TrimRight(string(common), "\r\n")))
		if err != nil {
			return l, err
		}
		if l.own, err = filepath.Rel(l.git, own); err != nil || !filepath.IsLocal(l.own) {
			return l, fmt.Errorf("%s leads out of %s", workspace.Quote(own), workspace.Quote(l.git))
		}
	}
	return l, unix.Stat(l.git, &l.id)
}
