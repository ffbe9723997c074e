package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/sandbox/run/named"
	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/workspace"
	"github.com/postern/postern/sandbox/workspace/tool"
	"github.com/postern/postern/visible"
)

// A working directory may have git's folder elsewhere: a linked worktree and a submodule have a
// file called .git that says where, and a subfolder of a repository is below it. An agent may have
// written that file. So git's folder is shown only if it says itself that the working directory
// belongs to it, if both have the same owner, if it could be a working directory, and if no other
// agent works or has worked there.

// mostOfGit bounds the files of git's that are read, in bytes.
const mostOfGit = 1 << 20

// gitFolder is git's folder of a working directory, outside of it.
type gitFolder struct {
	// named is the path that leads there, and top the folder with .git.
	named, top string
	// common is what all worktrees share, and own what is only this one's, or nil.
	common, own *os.File
	// above is set if the working directory is below top.
	above bool
}

func (g *gitFolder) close() {
	if g.common != nil {
		g.common.Close()
	}
	if g.own != nil {
		g.own.Close()
	}
}

// owner is the agent in the words of [hostpath.Registry.Use].
func (r *Request) owner() string { return filepath.Base(r.Home.Root) + "/" + r.Agent }

// repository has in show git's folder, if that is not in the working directory, and says in Git
// what git will not do.
func (p *Prepared) repository(
	ctx context.Context, r *Request, folders *hostpath.Folders, in *view.Input, hide []string,
) error {
	if in.Workdir.Path == "" {
		return nil
	}
	if in.Workspace.Mode == view.Write {
		if err := refuseSubmodules(ctx, folders, in.Workdir.Path); err != nil {
			return err
		}
	}
	g, err := findGit(in.Workdir.Path)
	if g != nil {
		defer g.close()
	}
	if err == nil && g != nil && r.Runtime != plan.RuntimeBubblewrap {
		err = fmt.Errorf("%s is not shown by runtime %s", g.common.Name(), r.Runtime)
	}
	if err == nil && g != nil {
		err = r.mayShow(g, folders, in)
	}
	if err == nil && g != nil {
		search := Search(filepath.Dir(r.Home.Root), plan.Workspace{Hide: hide})
		err = g.search(ctx, search)
	}
	if err != nil {
		p.Git = "git does not work in this folder, because its repository is elsewhere: " + err.Error()
		p.Leaked = slices.DeleteFunc(p.Leaked, func(l Leaked) bool { return l.Elsewhere })
		return nil
	}
	if g == nil {
		return nil
	}
	return p.show(g, in)
}

// ownName is the name, in the common folder, of a linked worktree's own folder, or "".
func (g *gitFolder) ownName() string {
	if g.own == nil {
		return ""
	}
	return filepath.Join("worktrees", filepath.Base(g.own.Name()))
}

// mayShow says why an agent may not see git's folder.
func (r *Request) mayShow(g *gitFolder, folders *hostpath.Folders, in *view.Input) error {
	dir := g.common.Name()
	looked, err := view.Look(dir, in.Environ, in.Private)
	switch {
	case err != nil:
		return err
	case len(looked.Mounts) > 0:
		return fmt.Errorf("something is mounted in %s", dir)
	}
	if g.above {
		if _, err := view.Look(g.top, in.Environ, in.Private); err != nil {
			return err
		}
	}
	if err := folders.Except(r.owner()).CheckFolder(dir); err != nil {
		return fmt.Errorf("another agent works or has worked there: %w", err)
	}
	own, err := ownPrograms(r.Home)
	if err != nil {
		return err
	}
	withGit, err := hostpath.In(filepath.Dir(r.Home.Root)).Folders(in.Workdir.Path, dir)
	if err != nil {
		return err
	}
	return r.trusted(withGit, dir, own)
}

// search says why an agent may not see git's folder, in any mode: nothing in it can be
// hidden, because git replaces its files.
func (g *gitFolder) search(ctx context.Context, search workspace.Search) error {
	limited, cancel := context.WithTimeoutCause(ctx, searchPatience, fmt.Errorf(
		"it takes more than %v; the next run continues", searchPatience))
	defer cancel()
	dir := g.common.Name()
	search.Git = true
	found, err := search.Secrets(limited, dir)
	if err != nil {
		return err
	}
	if len(found.Hidden) > 0 {
		s := found.Hidden[0]
		return fmt.Errorf("%s looks like a secret, by %s: move it out of git's folder, a token in a URL to a "+
			"credential helper (git help credentials)", visible.Quote(filepath.Join(dir, s.Path)), s.Why)
	}
	return nil
}

// show has the sandbox show git's folder, of which a command can write nothing: git outside
// follows a link in the place of any file or folder there, copies objects from where it leads, and
// takes an object that was written again for what it was. Everybody who works in the main
// checkout, or in the repository above a submodule, runs git there.
func (p *Prepared) show(g *gitFolder, in *view.Input) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(g.common.Fd()), &st); err != nil {
		return fmt.Errorf("look at %s: %w", g.common.Name(), err)
	}
	in.Repository = &view.Repository{Path: g.named, Above: g.above, Folders: []view.GitFolder{
		{Path: g.common.Name(), Device: st.Dev, Inode: st.Ino},
	}}
	if in.Workspace.Mode == view.Write && !g.above {
		p.Git = "git only reads in this folder, because its repository is elsewhere: to let the command commit, " +
			"give it a clone (git clone --no-local)"
	}
	return nil
}

// findGit returns git's folder of the working directory, or nil if it is in there, or if there is
// none. The error says why git's folder is not used.
func findGit(workdir string) (*gitFolder, error) {
	for top := workdir; ; top = filepath.Dir(top) {
		info, err := os.Lstat(filepath.Join(top, ".git"))
		switch {
		case errors.Is(err, fs.ErrNotExist) && top != "/":
			continue
		case err != nil:
			return nil, nil //nolint:nilerr,nilnil // there is none
		case info.IsDir() && top == workdir:
			return nil, nil //nolint:nilnil // it is in view
		}
		g := &gitFolder{top: top, named: filepath.Join(top, ".git"), above: top != workdir}
		switch {
		case info.IsDir():
			g.common, err = hostpath.OpenBelow("/", g.named)
		case info.Mode().IsRegular():
			err = g.follow()
		default:
			return nil, fmt.Errorf("%s is neither a file nor a folder", g.named)
		}
		if err == nil {
			err = g.check(workdir)
		}
		if err != nil {
			g.close()
			return nil, err
		}
		if strings.HasPrefix(g.common.Name()+"/", workdir+"/") {
			g.close()
			return nil, nil //nolint:nilnil // it is in view
		}
		return g, nil
	}
}

// follow goes where the file .git leads, if what is there leads back.
func (g *gitFolder) follow() error {
	text, err := hostpath.ReadFile(g.named, mostOfGit)
	if err != nil {
		return err
	}
	named, ok := strings.CutPrefix(string(text), "gitdir: ")
	if !ok {
		return fmt.Errorf("%s does not say where git's folder is", g.named)
	}
	g.named = from(g.top, strings.TrimRight(named, "\r\n"))
	real, err := filepath.EvalSymlinks(g.named)
	if err != nil {
		return fmt.Errorf("%s does not lead to git's folder: %w", filepath.Join(g.top, ".git"), err)
	}
	notBack := fmt.Errorf("%s does not say that it is the git folder of %s", real, g.top)
	if parent := filepath.Dir(real); filepath.Base(parent) == "worktrees" {
		if g.common, err = hostpath.OpenBelow("/", filepath.Dir(parent)); err != nil {
			return err
		}
		if g.own, err = hostpath.FolderIn(g.common, filepath.Join("worktrees", filepath.Base(real))); err != nil {
			return err
		}
		common, err1 := hostpath.ReadIn(g.own, "commondir", mostOfGit)
		back, err2 := hostpath.ReadIn(g.own, "gitdir", mostOfGit)
		if errors.Join(err1, err2) != nil || from(real, strings.TrimSpace(string(common))) != g.common.Name() ||
			!leads(from(real, strings.TrimRight(string(back), "\r\n")), filepath.Join(g.top, ".git")) {
			return notBack
		}
		return nil
	}
	if g.common, err = hostpath.OpenBelow("/", real); err != nil {
		return err
	}
	config, err := hostpath.ReadIn(g.common, "config", mostOfGit)
	if worktree := coreWorktree(string(config)); err != nil || worktree == "" || !leads(from(real, worktree), g.top) {
		return notBack
	}
	if _, err := hostpath.ReadIn(g.common, "commondir", mostOfGit); err == nil {
		return notBack
	}
	return nil
}

// check makes sure that the common folder is a repository of the working directory's owner.
func (g *gitFolder) check(workdir string) error {
	dir := g.common.Name()
	if strings.HasPrefix(workdir+"/", dir+"/") {
		return fmt.Errorf("%s is in git's own folder", workdir)
	}
	for _, name := range []string{"objects", "refs"} {
		f, err := hostpath.FolderIn(g.common, name)
		if err != nil {
			return fmt.Errorf("%s is not a git folder: %w", dir, err)
		}
		f.Close()
	}
	if _, err := hostpath.ReadIn(g.common, "HEAD", mostOfGit); err != nil {
		return fmt.Errorf("%s is not a git folder: %w", dir, err)
	}
	var owner unix.Stat_t
	if err := unix.Stat(workdir, &owner); err != nil {
		return fmt.Errorf("look at %s: %w", workdir, err)
	}
	for _, f := range []*os.File{g.common, g.own} {
		var st unix.Stat_t
		if f == nil {
			continue
		}
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Uid != owner.Uid {
			return fmt.Errorf("%s does not belong to the owner of %s", f.Name(), workdir)
		}
	}
	return nil
}

// from returns the path, which may be relative to the folder dir.
func from(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// leads reports whether the path leads to the real path.
func leads(path, real string) bool {
	end, err := filepath.EvalSymlinks(path)
	return err == nil && end == real
}

// coreWorktree returns the setting core.worktree in a file of git's, or "" if it is not written as
// git writes it.
func coreWorktree(config string) (value string) {
	section := ""
	for line := range strings.Lines(config) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = strings.ToLower(line)
			continue
		}
		name, v, ok := strings.Cut(line, "=")
		if ok && section == "[core]" && strings.EqualFold(strings.TrimSpace(name), "worktree") {
			value = strings.TrimSpace(v)
		}
	}
	if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
		value = value[1 : len(value)-1]
	}
	if strings.ContainsAny(value, `"\;#`) {
		return ""
	}
	return value
}

// Named returns what settings outside of the folder at the real path name in it: see [named.In].
func Named(folder string) []tool.Named { return named.In(folder, caller, elsewhere(folder)) }

// elsewhere returns the repository of the working directory, if git's folder is elsewhere.
func elsewhere(workdir string) (r named.Repository) {
	g, err := findGit(workdir)
	if err != nil || g == nil {
		return r
	}
	defer g.close()
	r.Top = g.top
	for _, at := range []string{"config", "config.worktree", filepath.Join(g.ownName(), "config.worktree")} {
		r.Files = append(r.Files, filepath.Join(g.common.Name(), at))
	}
	return r
}
