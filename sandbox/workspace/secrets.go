package workspace

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/advice"
	"github.com/postern/postern/home"
	"github.com/postern/postern/sandbox/leak"
	"github.com/postern/postern/sandbox/workspace/beneath"
	"github.com/postern/postern/sandbox/workspace/tool"
	"github.com/postern/postern/visible"
)

// In these files only what the words show is secret.
var secretWords = map[string][]string{
	".pem": {"PRIVATE KEY"}, ".npmrc": {"_auth", "_password"}, ".yarnrc.yml": {"npmAuth"},
}

// maxWords is how much of a file is searched for words and credentials, in bytes.
const maxWords = 1 << 20

// Secret is a path in a folder that looks as if it held a secret.
type Secret struct {
	// Path is relative to the folder. Of a folder that is hidden, only its own path is there.
	Path string
	// Why says what it looks like. It has no part of the secret.
	Why string
	// Reason is why an agent may see it all the same, for [Found.Shown].
	Reason string
}

// Search looks for secrets in a folder of the host.
type Search struct {
	// Hide are patterns of [path.Match], at any depth, for what counts as a secret. One that ends
	// in a slash is a folder.
	Hide []string
	// Show are paths of files and folders that do not count as one, unless Hide says so, with the
	// reasons.
	Show map[string]string
	// Git is set if the folder is git's own. Nothing has a name in its objects.
	Git bool
	// Cache is a folder that only the caller may write. What is remembered there keeps the next
	// search from reading a file again. If it is "", nothing is remembered.
	Cache string
}

// Found is what a search has found, each part in the order of the paths.
type Found struct {
	Hidden []Secret
	// Shown look like secrets, and do not count because of [Search.Show].
	Shown []Secret
	// Repositories are the folders with git's folder .git. Bare are git's folders with other names.
	Repositories, Bare []string
}

// Paths returns the paths of what is hidden.
func (f *Found) Paths() []string {
	var paths []string
	for _, s := range f.Hidden {
		paths = append(paths, s.Path)
	}
	return paths
}

// Secrets returns what is in the folder at the real path. A folder that cannot be looked into, or
// in which another file system is mounted, counts as a secret. No link is followed. What is deeper
// than a path can name is an error. If ctx ends first, the next search continues.
func (s Search) Secrets(ctx context.Context, folder string) (*Found, error) {
	root, err := beneath.Folder(folder)
	if err != nil {
		return nil, fmt.Errorf("look for secret files: %w", err)
	}
	defer root.Close()
	f := &finder{Search: s, folder: folder, ctx: ctx, linked: map[uint64]string{}}
	cache, err := s.cache(root)
	if err == nil {
		f.clean, err = leak.OpenClean(cache, time.Now())
	}
	if err == nil {
		err = f.below(root, ".", "")
		err = errors.Join(err, f.clean.Save(err == nil))
	}
	if err == nil && len(f.linked) > 0 {
		f.hidden = map[string]bool{}
		for _, at := range f.Paths() {
			f.hidden[at] = true
		}
		if _, err = root.Seek(0, io.SeekStart); err == nil {
			err = f.otherNames(root, ".")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("look for secret files: %w", err)
	}
	for _, all := range [][]Secret{f.Hidden, f.Shown} {
		slices.SortFunc(all, func(a, b Secret) int { return strings.Compare(a.Path, b.Path) })
	}
	return &f.Found, nil
}

// cache returns the path of the file that remembers the open folder, or "".
func (s Search) cache(folder *os.File) (string, error) {
	if s.Cache == "" {
		return "", nil
	}
	id, err := home.IdentityOf(folder)
	sum := sha256.Sum256(fmt.Append(nil, id, leak.Version()))
	return filepath.Join(s.Cache, hex.EncodeToString(sum[:16])), err
}

// finder is one search.
type finder struct {
	Search
	Found
	folder string
	ctx    context.Context
	clean  *leak.Clean
	// linked are hidden files that have several names: by inode, one that is hidden.
	linked map[uint64]string
	hidden map[string]bool
}

// each calls visit for what is in the folder itself.
func (f *finder) each(dir *os.File, at string, visit func(name, child string, e *beneath.Entry) error) error {
	entries, err := names(dir)
	if err != nil {
		return err
	}
	for _, name := range entries {
		if err := context.Cause(f.ctx); err != nil {
			return err
		}
		child := path.Join(at, name)
		if len(child) > beneath.MaxPath {
			return fmt.Errorf("%s...: the path is longer than %d bytes: remove what has such a path with `%s`",
				visible.Quote(child[:100]), beneath.MaxPath, advice.Unnameable(f.folder, beneath.MaxPath))
		}
		e, err := beneath.Look(dir, name)
		if err == nil && e != nil { // else removed meanwhile
			err = visit(name, child, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// shows returns the reason for which the path does not count as a secret, or "", and whether
// something below it does not.
func (f *finder) shows(at string) (reason string, leads bool) {
	for p, why := range f.Show {
		if at == p || strings.HasPrefix(at, p+"/") {
			reason = why
		}
		leads = leads || strings.HasPrefix(p, at+"/")
	}
	return reason, leads
}

// below looks into a folder. If it counts as a secret, because says why.
func (f *finder) below(dir *os.File, at, because string) error {
	has := func(name string) bool { e, _ := beneath.Look(dir, name); return e != nil }
	return f.each(dir, at, func(name, child string, e *beneath.Entry) error {
		switch objects := e.Is(unix.S_IFDIR) && name == "objects"; { // nothing has a name there
		case objects && (path.Base(at) == ".git" || f.Git && at == "."):
			f.Repositories = append(f.Repositories, path.Dir(at))
			return nil
		case objects && has("HEAD") && has("refs"):
			f.Bare = append(f.Bare, at)
			return nil
		}
		why, fixed := because, false
		lower := strings.ToLower(child)
		if i := slices.IndexFunc(f.Hide, func(p string) bool { return matches(strings.ToLower(p), lower) }); i >= 0 {
			why, fixed = "the stack file hides "+f.Hide[i], true
		} else if why == "" {
			why = f.look(dir, name, child, e)
		}
		reason, leads := f.shows(child)
		switch {
		case why != "" && reason != "" && !fixed:
			f.Shown = append(f.Shown, Secret{Path: child, Why: why, Reason: reason})
			why = ""
		case why != "" && leads && !fixed && e.Is(unix.S_IFDIR): // what is in it counts by itself
		case why != "":
			f.Hidden = append(f.Hidden, Secret{Path: child, Why: why})
			return f.noteLinks(dir, name, child, e)
		}
		if !e.Is(unix.S_IFDIR) {
			return nil
		}
		below, err := beneath.Open(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EXDEV) {
			f.Hidden = append(f.Hidden, Secret{Path: child, Why: "nobody can look into it"}) // names in it may be known
			return nil
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer below.Close()
		return f.below(below, child, why)
	})
}

// noteLinks notes the hidden file, or the files in the hidden folder, that have other names too.
func (f *finder) noteLinks(dir *os.File, name, at string, e *beneath.Entry) error {
	switch {
	case e.Is(unix.S_IFREG) && e.Links > 1:
		f.linked[e.Inode] = at
	case e.Is(unix.S_IFDIR):
		below, err := beneath.Open(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return nil // nor can the agent
		}
		defer below.Close()
		return f.each(below, at, func(name, child string, e *beneath.Entry) error {
			return f.noteLinks(below, name, child, e)
		})
	}
	return nil
}

// otherNames hides what is a hidden file under another name.
func (f *finder) otherNames(dir *os.File, at string) error {
	return f.each(dir, at, func(name, child string, e *beneath.Entry) error {
		reason, _ := f.shows(child)
		switch {
		case f.hidden[child] || reason != "" && !e.Is(unix.S_IFDIR):
		case e.Is(unix.S_IFREG) && f.linked[e.Inode] != "":
			why := "it is " + visible.Quote(f.linked[e.Inode]) + " by another name"
			f.Hidden = append(f.Hidden, Secret{Path: child, Why: why})
		case e.Is(unix.S_IFDIR):
			below, err := beneath.Open(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
			if err != nil {
				return nil // it is hidden, or has been removed
			}
			defer below.Close()
			return f.otherNames(below, child)
		}
		return nil
	})
}

// cached is the entry as the cache knows it.
func cached(e *beneath.Entry) leak.File { return leak.File{Inode: e.Inode, Changed: e.Changed} }

// look says what the thing in dir looks like, or "".
func (f *finder) look(dir *os.File, name, at string, e *beneath.Entry) string {
	if isSecret(dir, name, at, e) || f.Git && at == "credentials" {
		return "its name"
	}
	if !e.Is(unix.S_IFREG) || e.Size == 0 || tool.Unsearched(at) || f.clean.Has(cached(e)) {
		return ""
	}
	file, now, err := beneath.OpenRegular(dir, name)
	if err != nil { // the kernel reads for an overlay what this user cannot
		return "its content cannot be looked at"
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxWords))
	if err != nil {
		return "its content cannot be looked at"
	}
	if bytes.IndexByte(content, 0) < 0 { // else it is no text
		find := leak.Find
		if f.Git || strings.Contains("/"+at, "/.git/") || path.Base(at) == ".gitconfig" {
			find = leak.InGit
		}
		if kind := find(content); kind != "" {
			return "its content: " + kind
		}
	}
	f.clean.Add(cached(now))
	return ""
}

// isSecret reports whether what dir has under the name, which is at the path, looks like a secret.
// Case does not count.
func isSecret(dir *os.File, name, at string, e *beneath.Entry) bool {
	if leak.Named(at, e.Is(unix.S_IFDIR)) {
		return true
	}
	lower := strings.ToLower(name)
	for ending, words := range secretWords {
		if !e.Is(unix.S_IFDIR) && strings.HasSuffix(lower, ending) && hasWord(dir, name, words) {
			return true
		}
	}
	return false
}

// hasWord reports whether the file has one of the words. A file that cannot be read may have one.
func hasWord(dir *os.File, name string, words []string) bool {
	f, _, err := beneath.OpenRegular(dir, name)
	if errors.Is(err, unix.ELOOP) {
		return false // a link; what it leads to counts by itself
	}
	if err != nil {
		return true
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxWords))
	for _, w := range words {
		if bytes.Contains(content, []byte(w)) {
			return true
		}
	}
	return err != nil
}
