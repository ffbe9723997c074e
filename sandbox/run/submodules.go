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
	"github.com/postern/postern/visible"
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
	for _, top := range above(workdir) {
		below, err := filepath.Rel(top, workdir)
		var at string
		if err == nil {
			at, err = submoduleIn(ctx, folders, top, below, workdir)
		}
		if err == nil && at == below && repository(workdir) { // what is in its own index?
			at, err = submoduleIn(ctx, folders, workdir, ".", workdir)
		}
		switch {
		case err != nil:
			return fmt.Errorf("look for submodules of %s in this folder: %w: %s", visible.Quote(top), err, apart)
		case at != "":
			return fmt.Errorf("git in %s goes into its submodule %s, where it would run what an agent puts in its "+
				"place: %s", visible.Quote(top), visible.Quote(at), apart)
		}
	}
	return nil
}

// above returns the folders with .git above dir. Git in each may go into what is below another one.
func above(dir string) (tops []string) {
	for dir != "/" {
		dir = filepath.Dir(dir)
		if repository(dir) {
			tops = append(tops, dir)
		}
	}
	return tops
}

func repository(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, ".git"))
	return !errors.Is(err, fs.ErrNotExist)
}

// linksScript prints what the index has in the folder, its argument, and then what each branch and
// tag has there: whoever checks it out has it in the index, and git then goes there.
const linksScript = confinedGit + `
GIT_WORK_TREE=/repository git ls-files -s -z -- "$1" &&
nothing=$(git hash-object -t tree /dev/null) &&
trees=$(git for-each-ref --format="$nothing %(if)%(*tree)%(then)%(*tree)%(else)%(tree)%(end)") &&
printf '%s\n' "$trees" | git diff-tree --stdin -r -z --no-renames -- "$1"`

// gitlink is the mode of a submodule.
const gitlink = "160000 "

// submoduleIn returns the path of a submodule that the repository at top has at the path in it or
// below, or had in a branch, or "". If git's folder is in the folder writes, an agent can add one:
// then that is the path.
func submoduleIn(ctx context.Context, folders *hostpath.Folders, top, in, writes string) (string, error) {
	l, err := gitOf(top)
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(l.git+"/", writes+"/") {
		return in, nil
	}
	out, complaint := limitedBuffer{left: maxHistory}, limitedBuffer{left: 4 << 10}
	err = l.confined(ctx, folders, nil, nil, &out, &complaint, "/bin/sh", "-c", linksScript, "sh", in)
	if err != nil {
		return "", complaint.explain(err)
	}
	entries := strings.Split(out.String(), "\x00")
	for i, entry := range entries {
		if _, at, indexed := strings.Cut(entry, "\t"); indexed && strings.HasPrefix(entry, gitlink) {
			return at, nil
		}
		// The names of two trees, a line, are before the first entry of the second one.
		if strings.Contains("\n"+entry, "\n:000000 "+gitlink) && i+1 < len(entries) {
			return entries[i+1], nil
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
		return l, unseen(err, at)
	}
	if common, err := hostpath.ReadFile(filepath.Join(l.git, "commondir"), mostOfGit); err == nil {
		own := l.git
		l.git, err = filepath.EvalSymlinks(from(own, strings.TrimRight(string(common), "\r\n")))
		if err != nil {
			return l, unseen(err, own)
		}
		if l.own, err = filepath.Rel(l.git, own); err != nil || !filepath.IsLocal(l.own) {
			return l, fmt.Errorf("%s leads out of %s", visible.Quote(own), visible.Quote(l.git))
		}
	}
	return l, unix.Stat(l.git, &l.id)
}

// unseen returns why git's folder is not found, without the name that was looked for: an agent may
// have written that name.
func unseen(err error, from string) error {
	var name *fs.PathError
	if errors.As(err, &name) {
		err = name.Err
	}
	return fmt.Errorf("%s does not lead to a folder: %w", visible.Quote(from), err)
}
