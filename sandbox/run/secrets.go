package run

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/sandbox"
	"github.com/postern/postern/sandbox/view"
	"github.com/postern/postern/sandbox/workspace"
	"github.com/postern/postern/visible"
)

// searchPatience bounds the search for secrets before a command starts, and historyPatience the one
// in a repository's history.
const (
	searchPatience  = 10 * time.Second
	historyPatience = 5 * time.Second
)

// Search returns how to look for what an agent with the workspace does not see. base is the folder
// of all stacks.
func Search(base string, w plan.Workspace) workspace.Search {
	return workspace.Search{Hide: w.Hide, Show: w.Show, Cache: filepath.Join(base, "scans")}
}

// Unsaid returns the folder for notes about commands whose end is not told yet: see
// package begun. base is the folder of all stacks.
func Unsaid(base string) string { return filepath.Join(base, "unsaid") }

// layer makes the layer that takes what the agent writes, and hides the folder's secrets. A folder
// that is read-only needs one only for those.
func (p *Prepared) layer(
	ctx context.Context, folders *hostpath.Folders, r *Request, in *view.Input, w plan.Workspace,
) error {
	limited, cancel := context.WithTimeoutCause(ctx, searchPatience, fmt.Errorf(
		"it takes more than %v; the next run continues, and this finishes it: %s", searchPatience,
		r.Home.Command("workspace", "scan", "--agent", r.Agent, in.Workdir.Path)))
	defer cancel()
	var err error
	if p.Secrets, err = Search(filepath.Dir(r.Home.Root), w).Secrets(limited, in.Workdir.Path); err != nil {
		return err
	}
	p.Leaked = Committed(ctx, folders, in.Workdir.Path, p.Secrets)
	hidden := p.Secrets.Paths()
	if w.Mode == plan.WorkspaceReadOnly && len(hidden) == 0 {
		return nil
	}
	p.Layer, err = workspace.Create(limited, r.Home.WorkspacesDir(), workspace.Record{
		Agent: r.Agent, Command: r.Command, Workdir: in.Workdir.Path, Size: cmp.Or(w.Size, workspace.DefaultSize),
		Hidden: hidden, Owners: p.Spec.Container != nil,
	})
	if err != nil {
		return err
	}
	p.done = append(p.done, p.Layer.Close)
	in.Workspace.Layers = p.Layer.Layers()
	return nil
}

// Leaked says what of the hidden files a repository's objects have.
type Leaked struct {
	// Folder is the repository that the lists are about. Clean is where [Leaked.Clone] makes
	// another one: next to the folder in which the agent works, where no agent has written.
	Folder, Clean string
	// Elsewhere is set if its git folder is not in the folder that was searched.
	Elsewhere bool
	// git is its git folder, and own is the name of a linked worktree's part in there, or "". id is
	// the folder that was searched: an agent may have put another one, or a link, in its place.
	git, own string
	id       unix.Stat_t
	// searched is the folder that was searched.
	searched string
	// most is how many bytes the clone may have.
	most uint64
	// hidden are the files that agents do not see, and Paths those of them that were committed at
	// some time, or are in the index. All are relative to Folder.
	hidden, Paths []string
	// Unknown says why somebody should look: not everything could be looked at, and Paths may not
	// be all.
	Unknown error
}

// Committed looks for the hidden files in the histories of the repositories in the folder, and
// returns the repositories in which there are some, or may be. An agent may have written the
// repositories: so git runs in a sandbox of its own, with the folder read-only and without a
// network.
func Committed(
	ctx context.Context, folders *hostpath.Folders, folder string, found *workspace.Found,
) (all []Leaked) {
	if len(found.Hidden) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, historyPatience)
	defer cancel()
	anywhere, tooMany := ends(found.Paths())
	named := map[string]int{}
	for i, at := range slices.Concat(found.Repositories, found.Bare) {
		if ctx.Err() != nil { // an agent can make any number of them
			all = append(all, Leaked{Folder: folder, Unknown: fmt.Errorf(
				"look at the histories of all repositories in %s: they take more than %v",
				visible.Quote(folder), historyPatience)})
			break
		}
		bare := i >= len(found.Repositories)
		paths, err := anywhere, tooMany
		if !bare {
			paths, err = below(at, found.Hidden), nil
		}
		if len(paths) == 0 && err == nil {
			continue
		}
		l := Leaked{
			Folder: filepath.Join(folder, at), Clean: folder + "-clean", searched: folder,
			most: workspace.DefaultSize,
		}
		if at != "." {
			l.Clean = folder + "-" + strings.ReplaceAll(at, "/", "-") + "-clean"
		}
		if named[l.Clean]++; named[l.Clean] > 1 { // a/b and a-b
			l.Clean += fmt.Sprintf("-%d", named[l.Clean])
		}
		if l.git = l.Folder; !bare {
			l.git = filepath.Join(l.Folder, ".git")
		}
		var f *os.File
		if err == nil {
			f, err = hostpath.OpenBelow("/", l.git)
		}
		if err != nil {
			l.Unknown = fmt.Errorf("look at the history of %s: %w", visible.Quote(l.Folder), err)
			all = append(all, l)
			continue
		}
		all = append(all, l.look(ctx, folders, f, paths)...)
		f.Close()
	}
	g, err := findGit(folder)
	if err != nil || g == nil {
		return all // then no agent sees it either
	}
	defer g.close()
	below, err := filepath.Rel(g.top, folder)
	if err != nil {
		return all
	}
	var paths []string
	for _, at := range found.Paths() {
		paths = append(paths, filepath.Join(below, at))
	}
	l := Leaked{
		Folder: g.top, Clean: g.top + "-clean", Elsewhere: true, git: g.common.Name(), own: g.ownName(),
		searched: folder, most: workspace.DefaultSize,
	}
	return append(all, l.look(ctx, folders, g.common, paths)...)
}

// below returns the paths of what is hidden below the repository, relative to it.
func below(repository string, hidden []workspace.Secret) (paths []string) {
	for _, s := range hidden {
		if at, err := filepath.Rel(repository, s.Path); err == nil && filepath.IsLocal(at) {
			paths = append(paths, at)
		}
	}
	return paths
}

// ends returns the paths and all that they end with: a worktree may be anywhere above a file. It
// fails if these are more than maxHistory bytes.
func ends(paths []string) (all []string, err error) {
	size := 0
	for _, at := range paths {
		for more := true; more; _, at, more = strings.Cut(at, "/") {
			if size += len(at); size > maxHistory {
				return nil, errors.New("more files are hidden, or deeper, than can be looked for in it")
			}
			all = append(all, at)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// look returns l with what the repository, whose git folder is open, has of the paths, if it has
// anything.
func (l Leaked) look(ctx context.Context, folders *hostpath.Folders, git *os.File, paths []string) []Leaked {
	l.hidden = paths
	err := unix.Fstat(int(git.Fd()), &l.id)
	if err == nil {
		l.Paths, err = l.history(ctx, folders)
	}
	if err != nil {
		l.Unknown = fmt.Errorf("look at the history of %s: %w", visible.Quote(l.Folder), err)
	}
	if len(l.Paths) == 0 && l.Unknown == nil {
		return nil
	}
	return []Leaked{l}
}

// confinedGit is the git of scripts that only read a repository.
const confinedGit = `
git() {
	/usr/bin/prlimit --nproc=64 --as=4294967296 --cpu=10 --core=0 --nofile=256 /usr/bin/git --no-pager \
		-c safe.directory='*' -c core.fsmonitor=false -c core.hooksPath=/dev/null -c log.showRoot=true \
		--literal-pathspecs "$@"
}`

// historyScript prints which of its arguments were committed or are in the index.
const historyScript = confinedGit + `
git log --all --reflog --full-history -m --no-show-signature --no-renames --no-ext-diff --no-textconv \
	--format= --name-only -z -- "$@" &&
git ls-files -z -- "$@" &&
if git rev-parse -q --verify HEAD >/dev/null; then git ls-tree -r --name-only -z HEAD -- "$@"; fi`

// maxPaths is how many paths are named to git. If there are more, all names are read.
const maxPaths = 1000

// maxHistory bounds what git says, in bytes.
const maxHistory = 64 << 20

// history returns which of the hidden files the repository ever had. With an error these may not be
// all.
func (l Leaked) history(ctx context.Context, folders *hostpath.Folders) (ever []string, err error) {
	args := []string{"/bin/sh", "-c", historyScript, "sh"}
	if len(l.hidden) <= maxPaths {
		args = append(args, l.hidden...)
	}
	var out, complaint limitedBuffer
	out.left, complaint.left = maxHistory, 4<<10
	err = l.confined(ctx, folders, nil, nil, &out, &complaint, args...)
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("it takes more than %v", historyPatience)
	case err != nil:
		err = complaint.explain(err)
	}
	return among(l.hidden, out.String()), err
}

// sameScript runs its further arguments if the git folder is the first one: bwrap follows links.
const sameScript = `
[ "$(/usr/bin/stat -c %d:%i /repository/.git)" = "$1" ] || {
	echo "its git folder is not the one that was searched: an agent may have replaced it" >&2; exit 1
}
shift; exec "$@"`

// confined runs a command in a sandbox without a network, and with a filter of system calls: it
// sees the git folder that was searched at /repository/.git, and cannot write it. options are
// further ones of bwrap's, and in may be nil.
func (l Leaked) confined(
	ctx context.Context, folders *hostpath.Folders, options []string,
	in io.Reader, out, complaint io.Writer, command ...string,
) error {
	bwrap, err := folders.Program("bwrap", hostpath.Root)
	if err == nil {
		_, err = folders.Program("/usr/bin/git", hostpath.Root)
	}
	if err != nil {
		return err
	}
	calls, err := sandbox.Filter()
	if err != nil {
		return err
	}
	defer calls.Close()
	args := []string{
		"--seccomp", "3", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv",
		"--setenv", "GIT_CONFIG_NOSYSTEM", "1", "--setenv", "GIT_NO_LAZY_FETCH", "1",
		"--setenv", "GIT_ALLOW_PROTOCOL", "none", "--setenv", "GIT_OPTIONAL_LOCKS", "0",
		"--setenv", "GIT_NO_REPLACE_OBJECTS", "1", "--setenv", "GIT_GRAFT_FILE", "/dev/null",
		"--ro-bind", "/usr", "/usr", "--dev", "/dev", "--proc", "/proc",
		"--setenv", "GIT_DIR", filepath.Join("/repository/.git", l.own),
		"--setenv", "GIT_COMMON_DIR", "/repository/.git",
		"--ro-bind", l.git, "/repository/.git", "--chdir", "/repository",
	}
	for _, dir := range []string{"bin", "lib", "lib32", "lib64"} {
		if to, err := filepath.EvalSymlinks("/" + dir); err == nil && to == "/usr/"+dir {
			args = append(args, "--symlink", "usr/"+dir, "/"+dir)
		} else if err == nil {
			args = append(args, "--ro-bind", to, "/"+dir)
		}
	}
	same := []string{"/bin/sh", "-c", sameScript, "sh", fmt.Sprintf("%d:%d", l.id.Dev, l.id.Ino)}
	cmd, err := folders.Command(ctx, hostpath.Root, bwrap, slices.Concat(args, options, same, command)...)
	if err != nil {
		return err
	}
	asOwner(cmd, l.id)
	cmd.WaitDelay = time.Second
	cmd.ExtraFiles, cmd.Stdin, cmd.Stdout, cmd.Stderr = []*os.File{calls}, in, out, complaint
	return cmd.Run()
}

// asOwner has the command run as the folder's owner, if this is root.
func asOwner(cmd *exec.Cmd, folder unix.Stat_t) {
	if os.Geteuid() == 0 && folder.Uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: folder.Uid, Gid: folder.Gid}}
	}
}

// among returns those of the paths that are in the list, or above something there.
func among(paths []string, list string) []string {
	seen := map[string]bool{}
	for at := range strings.SplitSeq(list, "\x00") {
		for at = strings.TrimLeft(at, "\n"); at != "" && at != "." && !seen[at]; at = filepath.Dir(at) {
			seen[at] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(paths), func(p string) bool { return !seen[p] })
}

// limitedBuffer keeps as many bytes as are left, and fails then.
type limitedBuffer struct {
	bytes.Buffer
	left int
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, errors.New("it says too much")
	}
	return b.Buffer.Write(p)
}

func (b *limitedBuffer) explain(err error) error {
	first, _, _ := strings.Cut(strings.TrimSpace(b.String()), "\n")
	return fmt.Errorf("%w: %s", err, visible.Quote(first))
}

// takeScript takes files out of the clone's last commit, which it reads the names of, and prints
// what the clone has.
const takeScript = `
unset GIT_DIR GIT_COMMON_DIR
export GIT_ALLOW_PROTOCOL=file GIT_COMMITTER_NAME=postern GIT_COMMITTER_EMAIL=postern@localhost
limited() { /usr/bin/prlimit --nproc=64 --as=4294967296 --fsize=4294967296 --core=0 --nofile=256 "$@"; }
clean() { limited /usr/bin/git -C /clean --literal-pathspecs "$@"; }
take() {
	clean rm -r -q -f --ignore-unmatch --pathspec-from-file=- --pathspec-file-nul &&
	if clean rev-parse -q --verify HEAD >/dev/null; then
		{ clean diff-index --cached --quiet HEAD ||
			clean commit -q --no-gpg-sign --amend --allow-empty -m 'Take secrets out of the repository'; } &&
		clean ls-tree -r --name-only -z HEAD
	fi && clean ls-files -z && clean reflog expire --expire=now --all && clean gc -q --prune=now
}`

// cleanScript clones the last commit of the repository that its first argument names, without these
// files.
const cleanScript = takeScript + `
limited /usr/bin/git clone -q --depth 1 --no-tags "file:///repository/.git/$1" /clean </dev/null &&
clean remote remove origin && take`

// clonePatience bounds a clone.
const clonePatience = 10 * time.Minute

// Clone makes the repository l.Clean, which has the last commit alone and no hidden file. The last
// commit may have secrets that the searched folder does not have now: the search finds these in the
// clone, and Clone takes them out and returns them. An agent may have written the repository that
// has these objects: its settings run programs, and links and alternates in it lead to other
// repositories. So git runs where there is nothing else.
// Clone fails if l.Unknown is set, while a command may write the repository, or if the git folder
// is not the one that [Committed] looked at. If Clone is killed, it leaves a folder whose name ends
// with ".part", and no l.Clean.
func (l Leaked) Clone(
	ctx context.Context, registry hostpath.Registry, search workspace.Search,
) (more []workspace.Secret, err error) {
	if l.Unknown != nil {
		return nil, fmt.Errorf("%w: clone it from where it came from, and let agents work there", l.Unknown)
	}
	ctx, cancel := context.WithTimeout(ctx, clonePatience)
	defer cancel()
	folders, err := registry.Folders()
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{l.Folder, l.git} {
		if err := registry.Idle(dir); err != nil {
			return nil, err
		}
	}
	if _, err := os.Lstat(l.Clean); err == nil {
		return nil, fmt.Errorf("%s: %w: remove it first", visible.Quote(l.Clean), os.ErrExist)
	}
	if err := folders.Check(l.Clean); err != nil {
		return nil, err
	}
	part := l.Clean + "." + rand.Text() + ".part"
	if err := os.Mkdir(part, 0o755); err != nil { //nolint:gosec // as git does
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, workspace.RemoveAll(context.WithoutCancel(ctx), part))
		}
	}()
	if os.Geteuid() == 0 {
		if err := os.Lchown(part, int(l.id.Uid), int(l.id.Gid)); err != nil {
			return nil, err
		}
	}
	const advice = "an agent may have made its objects so: clone it from where it came from"
	err = workspace.Bounded(ctx, part, l.most, "clone", advice, func(ctx context.Context) error {
		return l.take(ctx, folders, part, l.hidden, cleanScript)
	})
	if err != nil {
		return nil, err
	}
	search = l.inRepository(search)
	found, err := search.Secrets(ctx, part)
	if err == nil && len(found.Hidden) > 0 {
		more = found.Hidden
		if err = l.take(ctx, folders, part, found.Paths(), takeScript+"\ntake"); err == nil {
			found, err = search.Secrets(ctx, part)
		}
	}
	if err != nil {
		return nil, err
	}
	if len(found.Hidden) > 0 {
		return nil, fmt.Errorf("the clone still has %s: report this", visible.Quote(found.Hidden[0].Path))
	}
	// What is there may be an agent's. The registry knows the folder by more than its name.
	if err := registry.Record(part); err != nil {
		return nil, err
	}
	if err := os.Rename(part, l.Clean); err != nil {
		return nil, err
	}
	if err := registry.Record(l.Clean); err != nil {
		part = l.Clean
		return nil, err
	}
	return more, nil
}

// take runs a script that takes the paths out of the clone in the folder part.
func (l Leaked) take(ctx context.Context, folders *hostpath.Folders, part string, paths []string, script string) error {
	out, complaint := limitedBuffer{left: maxHistory}, limitedBuffer{left: 4 << 10}
	err := l.confined(ctx, folders, []string{"--bind", part, "/clean"},
		strings.NewReader(strings.Join(paths, "\x00")), &out, &complaint, "/bin/sh", "-c", script, "sh", l.own)
	if err != nil {
		return complaint.explain(err)
	}
	if left := among(paths, out.String()); len(left) > 0 {
		return fmt.Errorf("the clone still has %s: report this", visible.Quote(left[0]))
	}
	return nil
}

// inRepository returns the search for the repository, of one for the folder that was searched.
func (l Leaked) inRepository(s workspace.Search) workspace.Search {
	shown := map[string]string{}
	for at, reason := range s.Show {
		if in, err := filepath.Rel(l.Folder, filepath.Join(l.searched, at)); err == nil && filepath.IsLocal(in) {
			shown[in] = reason
		}
	}
	s.Show, s.Cache = shown, ""
	return s
}
