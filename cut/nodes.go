package cut

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/daemon"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
)

// NodesHere are the nodes that have a folder on this machine.
func NodesHere(home home.Folder) []string {
	folders, _ := os.ReadDir(home.NodesDir())
	var ids []string
	for _, f := range folders {
		if f.IsDir() {
			ids = append(ids, f.Name())
		}
	}
	return ids
}

// RunningNodes are the nodes of this machine whose supervisor runs, or whose Envoy does.
func RunningNodes(home home.Folder) []string {
	// All processes are looked at only if a node's own is gone.
	all := sync.OnceValues(func() ([]daemon.Process, error) { return proxiesIn(home.NodesDir()) })
	return slices.DeleteFunc(NodesHere(home), func(id string) bool {
		if _, running, err := daemon.Running(filepath.Join(home.NodeDir(id), "pid")); running || err != nil {
			return false
		}
		proxies, err := all()
		return err == nil && !slices.ContainsFunc(proxies, func(p daemon.Process) bool { return p.Dir == home.NodeDir(id) })
	})
}

// proxiesIn returns the Envoys that run in the folder, or below it.
func proxiesIn(folder string) ([]daemon.Process, error) {
	return daemon.Find(func(p daemon.Process) bool {
		return (p.Dir == folder || strings.HasPrefix(p.Dir, folder+"/")) && p.Has("--config-path", "bootstrap.json")
	})
}

// Unconfirmed are the nodes that run on this machine and have not confirmed.
func Unconfirmed(home home.Folder, out *bundle.Outcome) []string {
	return slices.DeleteFunc(RunningNodes(home), func(id string) bool {
		return out != nil && out.Converged != nil && slices.Contains(out.Converged.Confirmed, id)
	})
}

// Whom returns the state folders of the stacks with that name, at least one. If there is none of that
// name and everyone is true, they are all stacks of this user. why is the reason why no stack file
// says which stack is meant, or nil.
func Whom(name string, everyone bool, why error) ([]home.Folder, error) {
	homes, err := home.All(name)
	if err == nil && len(homes) == 0 && everyone {
		homes, err = home.All("")
	}
	if err != nil || len(homes) > 0 {
		return homes, err
	}
	base, err := hostpath.StateFolder()
	return nil, errors.Join(why, err, fmt.Errorf(
		"nothing was done: no stack%s is in %s: another user has others, and so has another $POSTERN_HOME", called(name), base))
}

func called(name string) string {
	if name == "" {
		return ""
	}
	return " called " + name
}
