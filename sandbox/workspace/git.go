package workspace

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/postern/postern/sandbox/workspace/beneath"
	"github.com/postern/postern/sandbox/workspace/objects"
	"github.com/postern/postern/sandbox/workspace/since"
)

// An agent can put any content under the name of an object of git's, such as a file of a commit
// that a person trusts. So nothing comes to the host's folder under such a name that has not the
// content for it, and no object that is there is replaced. None is removed either, as long as its
// repository stays: the agent's git may have packed it, and the pack may be refused.

// keeps reports whether the path is git's objects or their folder, and their repository stays in
// what the agent has made.
func (w *walker) keeps(at string) bool {
	file := objects.Of(at)
	return file.Kind != objects.None && file.Kind != objects.Large && isRepository(w.upper, w.host, file.Repository)
}

// isRepository reports whether the folder has the file HEAD in what the agent has made.
func isRepository(upper, host tree, at string) bool {
	if dir, err := upper.folder(at); err == nil {
		defer dir.Close()
		if head, err := beneath.Look(dir, "HEAD"); err != nil || head != nil {
			return err == nil && !head.IsWhiteout()
		}
		if beneath.IsOpaque(dir, ".") {
			return false
		}
	}
	dir, err := host.folder(at)
	if err != nil {
		return false
	}
	defer dir.Close()
	head, err := beneath.Look(dir, "HEAD")
	return err == nil && head != nil
}

// packsPatience bounds the time in which all packs are checked: an agent can make any number.
const packsPatience = 10 * time.Minute

var errPacks = errors.New("checking the packs before it took all the time there is: apply it by its path")

// actingPatience bounds the look for what settings and links lead to.
const actingPatience = 10 * time.Second

// Checked is [Run.Changes] for the selected changes. It refuses changes of git's objects that have
// not the content that their names say, and of what else git's folder must not have. It also notes
// who acts on a path because settings or links lead there.
func (r *Run) Checked(ctx context.Context, selected func(Change) bool, visit func(Change) error) error {
	upper, host, err := r.both()
	if err != nil {
		return err
	}
	defer host.Close()
	defer upper.Close()
	open := func(root *os.File) func(string) (*os.File, error) {
		return func(at string) (*os.File, error) {
			f, _, err := beneath.OpenRegular(root, at)
			return f, err
		}
	}
	c := objects.Checker{
		Agents: open(upper), Host: open(host), Left: int64(min(r.Size, 1<<62)),
	}
	if r.CheckPack != nil {
		packs, cancel := context.WithTimeoutCause(ctx, packsPatience, errPacks)
		defer cancel()
		c.Pack = func(pack, index *os.File) error {
			if packs.Err() != nil {
				return context.Cause(packs)
			}
			return r.CheckPack(packs, pack, index)
		}
	}
	limited, cancel := context.WithTimeout(ctx, actingPatience)
	defer cancel()
	acting := since.Acts(limited, r.Workdir, upper, host, r.Named)
	return r.Changes(func(change Change) error {
		if !selected(change) {
			return nil
		}
		if who := acting.Who(change.Path); who != "" && !slices.Contains(change.Notes, who) {
			change.Notes = append(change.Notes, who)
		}
		if change.Refused == "" && change.Kind != Deleted {
			if why := c.Refuses(change.Path, change.new.Type(), change.old != nil); why != nil {
				change.Refused = why.Error()
			} else {
				change.Refused = change.stays
			}
		}
		return visit(change)
	})
}
