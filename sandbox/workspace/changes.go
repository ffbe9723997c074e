package workspace

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/workspace/beneath"
	"github.com/postern/postern/sandbox/workspace/objects"
	"github.com/postern/postern/sandbox/workspace/tool"
	"github.com/postern/postern/sandbox/workspace/way"
)

// Kind says what happens to a path.
type Kind string

// The kinds of changes.
const (
	Added    Kind = "added"
	Modified Kind = "modified"
	Deleted  Kind = "deleted"
)

// Change is one difference between the host's folder and what the agent has made of it.
type Change struct {
	// Path is relative to the working directory. It has any bytes but NUL.
	Path string `json:"path"`
	Kind Kind   `json:"kind"`
	// Notes say why somebody should look at it.
	Notes []string `json:"notes,omitempty"`
	// Refused says why the change cannot be applied, or "".
	Refused string `json:"refused,omitempty"`
	// Mode is what a file or folder has afterwards, as git writes it, or what a deleted one had.
	Mode string `json:"mode"`
	// Was is the mode before, if it differs.
	Was string `json:"was,omitempty"`

	old, new *beneath.Entry
	// stays says why it stays in the layer if its objects need not, or is "".
	stays string
	never bool
}

// Never reports whether the change is of an index of git's, which no Apply takes, because git makes
// one of the rest: whoever has that has everything.
func (c Change) Never() bool { return c.never }

// both opens the layer's folder and the host's.
func (r *Run) both() (upper, host *os.File, err error) {
	if host, err = r.host(); err != nil {
		return nil, nil, fmt.Errorf("compare with the host's folder: %w", err)
	}
	if upper, err = beneath.Folder(r.upper()); err != nil {
		host.Close()
		return nil, nil, fmt.Errorf("read the agent's changes: %w", err)
	}
	return upper, host, nil
}

// Changes calls visit with each change, in an order in which they can be applied. If visit returns
// an error, Changes returns it. The command may still run: then a change may be half of one.
func (r *Run) Changes(visit func(Change) error) error {
	upper, host, err := r.both()
	if err != nil {
		return err
	}
	defer host.Close()
	defer upper.Close()
	if err := r.load(); err != nil {
		return err
	}
	w := &walker{
		run: r, visit: visit, hidden: map[string]bool{}, bare: map[string]bool{},
		upper: tree{upper}, host: tree{host},
	}
	w.ways = w.newWays()
	for _, path := range append(r.seen.hidden, r.Hidden...) {
		w.hidden[path] = true
	}
	if err := w.folder(".", upper, host, false); err != nil {
		return fmt.Errorf("read the agent's changes: %w", err)
	}
	return nil
}

type walker struct {
	run    *Run
	visit  func(Change) error
	hidden map[string]bool
	// upper and host are the whole trees.
	upper, host tree
	ways        []*way.Folder
	// bare are the folders by their paths, and whether git takes each for its own.
	bare map[string]bool
	// ended is the error of visit, after which nothing is visited.
	ended error
}

func (w *walker) say(c Change) error {
	w.ended = w.visit(c)
	return w.ended
}

// refuse says why something at the path could not be compared, which is no reason not to look at
// the rest: an agent may have made it so.
func (w *walker) refuse(at string, why error) error {
	if why != nil && w.ended == nil {
		w.ended = w.visit(Change{Path: at, Kind: Modified, Mode: "??????", Refused: why.Error()})
	}
	return w.ended
}

// hides reports whether the agent could not see the path, because of its own name or because of a
// folder that it is in.
func (w *walker) hides(at string) bool {
	for ; at != "."; at, _ = parent(at) {
		if w.hidden[at] {
			return true
		}
	}
	return false
}

// unseen says why the agent cannot have seen what the host has under the name now, or "". What is
// in such a folder is not compared.
func (w *walker) unseen(at, name string, host *os.File, was *beneath.Entry) string {
	switch {
	case was == nil:
		return ""
	case w.hides(at):
		return "the agent could not see it: move yours away to apply this"
	case !was.Is(unix.S_IFDIR):
		return ""
	}
	dir, err := beneath.Open(host, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return unseenFolder
	}
	defer dir.Close()
	if !w.run.saw(at, dir) {
		return unseenFolder
	}
	return ""
}

const unseenFolder = "the host's folder there is not the one that the agent saw: move yours away to apply this"

// folder compares a folder of the layer with the host's, which may be nil. If it is opaque, what
// the layer does not have is deleted.
func (w *walker) folder(at string, upper, host *os.File, opaque bool) error {
	entries, err := names(upper)
	if err != nil {
		return err
	}
	for _, name := range entries {
		child := path.Join(at, name)
		err := ErrTooDeep
		if len(child) <= beneath.MaxPath && strings.Count(child, "/") < deepest {
			err = w.name(child, name, upper, host, opaque)
		}
		if err := w.refuse(child, err); err != nil {
			return err
		}
	}
	if !opaque || host == nil {
		return nil
	}
	there, err := names(host)
	if err != nil {
		return err
	}
	for _, name := range there {
		if _, found := slices.BinarySearch(entries, name); found {
			continue
		}
		child := path.Join(at, name)
		if w.keeps(child) {
			continue
		}
		if err := w.refuse(child, w.deleted(child, name, host)); err != nil {
			return err
		}
	}
	return nil
}

// names returns what is in the folder, sorted.
func names(dir *os.File) ([]string, error) {
	entries, err := dir.Readdirnames(-1)
	slices.Sort(entries)
	return entries, err
}

// name compares one name of a layer's folder with the host's. If the folder is opaque, so is all
// that is in it: the kernel marks only the first.
func (w *walker) name(at, name string, upper, host *os.File, opaque bool) error {
	is, err := beneath.Look(upper, name)
	if err != nil || is == nil { // removed meanwhile
		return err
	}
	var was *beneath.Entry
	if host != nil {
		if was, err = beneath.Look(host, name); err != nil {
			return err
		}
	}
	if is.IsWhiteout() {
		if was == nil || w.keeps(at) {
			return nil
		}
		return w.deleted(at, name, host)
	}
	unseen := w.unseen(at, name, host, was)
	if was != nil && was.Kind != is.Kind && unseen == "" && w.keeps(at) {
		unseen = objects.ErrElsewhere.Error()
	}
	if was != nil && was.Kind != is.Kind && unseen == "" {
		if err := w.deleted(at, name, host); err != nil {
			return err
		}
		was, host = nil, nil
	}
	equal := false
	switch {
	case was == nil, was.Kind != is.Kind, unseen != "" && is.Is(unix.S_IFDIR):
	case is.Is(unix.S_IFDIR):
		equal = is.Mode&0o777 == was.Mode&0o777
	default:
		if equal, err = w.equal(name, upper, host, is, was); err != nil {
			return err
		}
	}
	if !equal {
		c := w.change(at, name, upper, is, was)
		c.Refused = cmp.Or(unseen, c.Refused)
		if err := w.say(c); err != nil {
			return err
		}
	}
	if !is.Is(unix.S_IFDIR) || unseen != "" {
		return nil
	}
	dir, err := beneath.Open(upper, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("the agent took the right to read this folder: %w", err)
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	var hosts *os.File
	if was != nil {
		if hosts, err = beneath.Open(host, name, unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
			return err
		}
		defer hosts.Close()
	}
	return w.folder(at, dir, hosts, opaque || beneath.IsOpaque(upper, name))
}

// equal reports whether the agent's file is the host's.
func (w *walker) equal(name string, upper, host *os.File, is, was *beneath.Entry) (bool, error) {
	switch is.Kind {
	case unix.S_IFLNK:
		a, err := beneath.ReadLink(upper, name)
		if err != nil {
			return false, err
		}
		b, err := beneath.ReadLink(host, name)
		return a == b, err
	case unix.S_IFREG:
		if is.Size != was.Size || is.Mode&0o777 != was.Mode&0o777 {
			return false, nil
		}
		a, _, err := beneath.OpenRegular(upper, name)
		if err != nil {
			return false, err
		}
		defer a.Close()
		b, _, err := beneath.OpenRegular(host, name)
		if err != nil {
			return false, err
		}
		defer b.Close()
		return objects.Same(a, b)
	}
	return false, nil
}

// change describes what the agent has made of a path that is there.
func (w *walker) change(at, name string, upper *os.File, is, was *beneath.Entry) Change {
	c := Change{Path: at, Kind: Modified, Mode: gitMode(is), old: was, new: is}
	if was == nil {
		c.Kind = Added
	} else if before := gitMode(was); before != c.Mode {
		c.Was = before
	}
	note := func(text string) { c.Notes = append(c.Notes, text) }
	w.judge(&c, name, upper)
	switch is.Kind {
	case unix.S_IFREG:
		if is.Mode&0o111 != 0 && (was == nil || was.Mode&0o111 == 0) {
			note("a new program")
		}
		if is.Mode&0o7000 != 0 {
			note("its setuid, setgid or sticky bit is not applied")
		}
		if is.Links > 1 {
			note("it has several names; each becomes a file of its own")
		}
	case unix.S_IFLNK:
		if to, err := beneath.ReadLink(upper, name); err == nil {
			c.Notes = append(c.Notes, w.link(at, to)...)
		}
	case unix.S_IFDIR:
	default:
		c.Refused = "it is not a file, folder or link"
	}
	switch {
	case c.Refused != "":
	case was == nil && !is.Is(unix.S_IFLNK) && hasOrigin(upper, name):
		c.Refused = "it was removed in the host's folder meanwhile"
	case was != nil && !is.Is(unix.S_IFDIR) && w.run.later(was):
		c.Refused = changedMeanwhile
	}
	return c
}

const changedMeanwhile = "it changed in the host's folder meanwhile"

// later reports whether the host's file may have changed since the agent got the folder.
func (r *Run) later(e *beneath.Entry) bool { return e.Changed >= r.Started }

// deleted describes that the agent removed what the host's folder has under the name, from the
// bottom.
func (w *walker) deleted(at, name string, host *os.File) error {
	was, err := beneath.Look(host, name)
	if err != nil || was == nil {
		return err
	}
	unseen := w.unseen(at, name, host, was)
	if was.Is(unix.S_IFDIR) && unseen == "" {
		if err := w.deletedBelow(at, name, host); err != nil {
			return err
		}
	}
	c := Change{Path: at, Kind: Deleted, Mode: gitMode(was), Refused: unseen, old: was}
	if who := tool.Who(w.asGit(at)); who != "" {
		c.Notes = append(c.Notes, who)
	}
	if unseen == "" && !was.Is(unix.S_IFDIR) && w.run.later(was) {
		c.Refused = changedMeanwhile
	}
	return w.say(c)
}

func (w *walker) deletedBelow(at, name string, host *os.File) error {
	dir, err := beneath.Open(host, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dir.Close()
	entries, err := names(dir)
	if err != nil {
		return err
	}
	for _, n := range entries {
		if err := w.deleted(path.Join(at, n), n, dir); err != nil {
			return err
		}
	}
	return nil
}

// gitMode returns the mode as git writes it. Git knows of permissions only whether a file is
// a program; here they are all of them.
func gitMode(e *beneath.Entry) string {
	kinds := map[uint32]string{unix.S_IFREG: "100", unix.S_IFLNK: "120", unix.S_IFDIR: "040"}
	perm := e.Mode & 0o777
	if e.Is(unix.S_IFLNK) {
		perm = 0
	}
	return fmt.Sprintf("%s%03o", cmp.Or(kinds[e.Kind], "???"), perm)
}
