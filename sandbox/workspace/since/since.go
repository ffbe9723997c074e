// Package since finds what is in a folder that programs of the host run or take commands from, and
// says what of it is other than before an agent worked there.
package since

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/wire"
	"github.com/postern/postern/sandbox/workspace/beneath"
	"github.com/postern/postern/sandbox/workspace/tool"
	"github.com/postern/postern/sandbox/workspace/way"
	"github.com/postern/postern/visible"
)

// Tools are the files of a folder that programs of the host run or take commands from, by path.
type Tools map[string]File

// File is one of [Tools]: what tells its content from another, and Who acts on it. how says
// what leads there, if the name does not. there is where the file, a link, leads out of the folder.
type File struct{ state, Who, how, there string }

// toolJSON is one of [Tools] as JSON. What an agent wrote need not be UTF-8.
type toolJSON struct {
	At    wire.Bytes `json:"at"`
	State wire.Bytes `json:"state"`
	Who   string     `json:"who"`
	How   string     `json:"how,omitempty"`
	There wire.Bytes `json:"there,omitempty"`
}

// MarshalJSON encodes t as a list.
func (t Tools) MarshalJSON() ([]byte, error) {
	all := make([]toolJSON, 0, len(t))
	for at, f := range t {
		all = append(all, toolJSON{wire.Bytes(at), wire.Bytes(f.state), f.Who, f.how, wire.Bytes(f.there)})
	}
	return json.Marshal(all)
}

// UnmarshalJSON is the inverse of MarshalJSON.
func (t *Tools) UnmarshalJSON(data []byte) error {
	var all []toolJSON
	if err := json.Unmarshal(data, &all); err != nil {
		return fmt.Errorf("read which files programs run: %w", err)
	}
	*t = make(Tools, len(all))
	for _, f := range all {
		(*t)[string(f.At)] = File{string(f.State), f.Who, f.How, string(f.There)}
	}
	return nil
}

var (
	// unlisted is a folder that nobody can list.
	unlisted = File{Who: "its names cannot be listed, and git and others may still use what is in it"}
	// tooLong is a folder in which something has a longer path than can be named. It is never the
	// same as before.
	tooLong = File{Who: "a path in it is longer than a program can name: nobody looked at what is there"}
	// unfinished, at the path ".", is what was not looked at. It is never the same as before.
	unfinished = File{Who: "there is more than could be looked at: look yourself, .git first"}
)

const (
	// maxHashed is the size of the largest file that is compared by content, in bytes.
	maxHashed = 1 << 20
	// maxTools bounds what is kept of the files, in bytes.
	maxTools = 32 << 20
)

// HostTools looks for such files in the host's folder, until ctx ends. The paths are relative to
// it. An agent may have written anything there, so what was not looked at is one of the Tools.
// personal is what settings outside of the folder name in it, and in each repository there.
func HostTools(ctx context.Context, folder string, personal ...tool.Named) (Tools, error) {
	root, err := beneath.Folder(folder)
	if err != nil {
		return nil, fmt.Errorf("look for files that programs run: %w", err)
	}
	defer root.Close()
	return search(ctx, folder, beneath.Layers{root}, personal), nil
}

func search(ctx context.Context, folder string, top beneath.Layers, personal []tool.Named) Tools {
	s := toolSearch{ctx: ctx, found: Tools{}, root: folder, top: top, personal: personal}
	s.workdir()
	return s.found
}

// toolSearch is one search for [Tools]. size is what it keeps, in bytes. git is set after the look
// into .git.
type toolSearch struct {
	ctx   context.Context //nolint:containedctx // of one call
	found Tools
	size  int
	git   bool
	leads leads
	// personal is what settings outside of the folder name in each repository.
	personal []tool.Named
	// root is the folder, and top the same, open. home is the person's, or "".
	root, home string
	top        beneath.Layers
	// way knows where paths in the folder lead.
	way *way.Folder
	// outside knows which links lead out of the folder.
	outside *outside
}

// toolFolder is a folder. as is its path as git has it, which is another one if the folder of git's
// is a bare one, or has it by a link. It may be among packages. how says why git acts on all that
// is in it, if it does: it is of a "repository" that has no folder .git.
type toolFolder struct {
	at, as string
	among  bool
	how    string
	// led says who acts on all that is in it, because a link or settings lead here, or is "".
	led string
	// file is true if a folder does not count.
	file bool
}

// add adds a file, unless there is more than is kept. Of two who act on it, the more dangerous one
// is said.
func (s *toolSearch) add(at string, f File) {
	if s.size += len(at) + len(f.state) + len(f.there); s.size > maxTools {
		at, f = ".", unfinished
	}
	if was, ok := s.found[at]; ok && tool.Rank(was.Who) <= tool.Rank(f.Who) {
		f.Who, f.how, f.there = was.Who, was.how, cmp.Or(f.there, was.there)
	}
	s.found[at] = f
}

// workdir looks in the working directory: in .git first, and where settings lead, because time may
// run out.
func (s *toolSearch) workdir() {
	s.home, _ = os.UserHomeDir() // without one, ~ leads nowhere
	s.way = way.New(s.root, s.top.Link)
	s.outside = newOutside(s.top, s.home, os.Geteuid())
	for top := s.root; top != "/"; top = path.Dir(top) {
		s.repository(top)
	}
	if git, err := s.top.Folder(".git"); err == nil {
		s.below(git, toolFolder{at: ".git", as: ".git"})
		git.Close()
		s.git = true
	}
	s.inRepository(".")
	s.follow()
	s.below(s.top, toolFolder{at: ".", as: "."})
	s.follow()
}

// below looks in a folder.
func (s *toolSearch) below(dir beneath.Layers, in toolFolder) {
	bare := path.Base(in.at) != ".git" && IsBare(dir...)
	if err := dir.Each(func(layer *os.File, e os.DirEntry) bool {
		if s.ctx.Err() != nil || s.size > maxTools {
			s.found["."] = unfinished
			return false
		}
		s.one(dir, layer, in, e, bare) // git takes a bare one for its own
		return true
	}); err != nil {
		s.add(in.at, unlisted)
	}
}

// one looks at what a folder has under one name, in one of its layers.
func (s *toolSearch) one(of beneath.Layers, dir *os.File, in toolFolder, e os.DirEntry, bare bool) {
	name := e.Name()
	child := toolFolder{
		at: path.Join(in.at, name), as: tool.AsGit(in.as, name, bare), among: in.among, how: in.how, led: in.led,
	}
	if in.at != "." && (name == ".git" || bare && name == "HEAD") {
		s.inRepository(in.at)
	}
	if bare && tool.Commands(name) {
		child.how = "repository"
	}
	if len(child.at) > beneath.MaxPath {
		s.add(in.at, tooLong)
		return
	}
	if name == ".git" && in.at != "." {
		s.repository(s.root + "/" + in.at)
	}
	if e.IsDir() {
		if child.at == ".git" && s.git {
			return
		}
		child.among = tool.Among(name, in.among)
		below, err := of.Folder(name)
		if err == nil {
			s.below(below, child)
			below.Close()
		} else if !errors.Is(err, unix.ENOENT) {
			s.add(child.at, unlisted)
		}
		return
	}
	who := cmp.Or(tool.Acts(child.as, e.Type(), in.among, child.how != ""), in.led)
	var there string
	switch {
	case e.Type()&fs.ModeSymlink != 0:
		who, there = s.link(dir, name, child, who)
	case name == "commondir":
		s.common(dir, name, in.at)
	case (name == "config" || name == "config.worktree") && in.at != ".git" &&
		tool.Who(child.as) == tool.Who(".git/config"):
		s.settings(s.root+"/"+path.Dir(in.at), s.root+"/"+in.at)
	}
	if who == "" {
		if who, state := Deceives(dir, name, child.at, child.as, s.top...); who != "" {
			s.add(child.at, File{state: state, Who: who})
		}
		return
	}
	if e, err := beneath.Look(dir, name); err == nil && e != nil {
		s.add(child.at, File{state(dir, name, e), who, cmp.Or(child.how, in.led), there})
	}
}

// state returns what tells the file's content and mode from others.
func state(dir *os.File, name string, e *beneath.Entry) string {
	switch {
	case e.Is(unix.S_IFLNK):
		to, err := beneath.ReadLink(dir, name)
		return fmt.Sprint("link ", to, err)
	case e.Is(unix.S_IFREG) && e.Size <= maxHashed:
		f, _, err := beneath.OpenRegular(dir, name)
		if err != nil {
			break
		}
		defer f.Close()
		sum := sha256.New()
		if _, err := io.Copy(sum, io.LimitReader(f, maxHashed)); err == nil {
			return fmt.Sprintf("%o %x", e.Mode, sum.Sum(nil))
		}
	}
	if !e.Is(unix.S_IFREG) { // its times are those of its use
		return fmt.Sprint(e.Kind, e.Mode, e.Inode)
	}
	return fmt.Sprint(*e)
}

// named is how many paths [Tools.Since] names of one kind, and longest how long they may be.
const named, longest = 5, 200

// Since returns lines about the paths that are other files than before, new or gone, with who acts
// on them. What git and shells act on without being asked comes first. There is a line for each
// kind of these, and one for all that each other program acts on: whatever an agent makes, it
// hides no kind behind another one. What one of the two looks did not reach is not said to be new
// or gone.
func (t Tools) Since(before Tools) (lines []string) {
	type kind struct {
		rank      int
		who, name string
	}
	kinds := map[kind][]string{}
	reached, wasReached := t["."] != unfinished, before["."] != unfinished
	for at, now := range t {
		was, seen := before[at]
		same := was == now || seen && was.state == now.state && !(reached && wasReached)
		if same && now != unfinished && now != tooLong {
			continue
		}
		k := kind{rank: tool.Rank(now.Who), who: now.Who}
		if k.rank < tool.ByThemselves && k.who != leadsHome && k.who != leadsOut {
			k.name = cmp.Or(tool.Kind(at), now.how)
		}
		if !seen && !wasReached && now != unfinished && now != tooLong {
			k.who += ": it was not looked at before the command, and may be older"
		}
		kinds[k] = append(kinds[k], at)
	}
	removed := kind{math.MaxInt, "removed", ""}
	for at, was := range before {
		harmless := was == unfinished || was.Who == leadsHome || was.Who == leadsOut || was.Who == tool.Waits
		if _, there := t[at]; !there && !harmless && reached {
			kinds[removed] = append(kinds[removed], at)
		}
	}
	order := slices.SortedFunc(maps.Keys(kinds), func(a, b kind) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), strings.Compare(a.who, b.who), strings.Compare(a.name, b.name))
	})
	for _, k := range order {
		lines = append(lines, fmt.Sprintf("%s (%s)", t.list(kinds[k]), k.who))
	}
	return lines
}

// list names the first of the paths, those first that are in the fewest folders, and says how many
// more there are. The samples of `git init`, which git does not run, come last.
func (t Tools) list(paths []string) string {
	sample := func(at string) int { return strings.Count(path.Ext(at), ".sample") }
	slices.SortFunc(paths, func(a, b string) int {
		return cmp.Or(cmp.Compare(sample(a), sample(b)),
			cmp.Compare(strings.Count(a, "/"), strings.Count(b, "/")), strings.Compare(a, b))
	})
	var quoted []string
	for _, at := range paths[:min(len(paths), named)] {
		text := clipped(at)
		if there := t[at].there; there != "" {
			text += " -> " + clipped(there)
		}
		quoted = append(quoted, text)
	}
	text := strings.Join(quoted, ", ")
	if more := len(paths) - named; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// clipped returns the path as it is named.
func clipped(at string) string {
	if len(at) > longest {
		return visible.Quote(at[:longest]) + "..."
	}
	return visible.Quote(at)
}
