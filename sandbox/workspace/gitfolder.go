package workspace

import (
	"cmp"
	"os"
	"path"
	"strings"

	"github.com/postern/postern/sandbox/workspace/since"
	"github.com/postern/postern/sandbox/workspace/tool"
)

// maxBare bounds how many folders are kept of which it is known whether they are bare.
const maxBare = 100_000

// asGit returns the path as git has it: see [tool.AsGit].
func (w *walker) asGit(at string) string {
	as := "."
	steps := strings.Split(at, "/")
	for i, name := range steps {
		in := path.Join(steps[:i]...)
		bare, known := w.bare[in]
		if !known {
			upper, _ := w.upper.folder(cmp.Or(in, ".")) // nil, if it is only in the other one
			host, _ := w.host.folder(cmp.Or(in, "."))
			bare = path.Base(in) != ".git" && since.IsBare(upper, host)
			upper.Close()
			host.Close()
		}
		if len(w.bare) < maxBare {
			w.bare[in] = bare
		}
		as = tool.AsGit(as, name, bare)
	}
	return as
}

// judge notes who acts on what the agent has made of a path that is there, and why it stays in the
// layer.
func (w *walker) judge(c *Change, name string, upper *os.File) {
	as, kind := w.asGit(c.Path), c.new.Type()
	who := tool.Who(as)
	if !kind.IsDir() {
		who = cmp.Or(tool.Acts(as, kind, false, false), tool.Who(c.Path))
	}
	if who == "" && kind.IsRegular() {
		who, _ = since.Deceives(upper, name, c.Path, as, w.upper.root, w.host.root)
	}
	if who != "" {
		c.Notes = append(c.Notes, who)
	}
	c.stays = tool.Stays(as, who, kind)
	c.never = c.stays != "" && tool.IsIndex(as)
}
