package since

import (
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/sandbox/workspace/beneath"
	"github.com/postern/postern/sandbox/workspace/tool"
)

// lead is a path in the folder to which a tool goes by a link, or by the settings of a repository
// in it, and who does.
type lead struct{ at, who string }

// maxLeads bounds the [lead]s: an agent can make any number of them.
const maxLeads = 1000

// leadsFrom notes where a link leads on which somebody acts, and what the settings of a repository
// below the folder name.
func (s *toolSearch) leadsFrom(dir *os.File, name, at, as string, link bool, who string) {
	in := path.Dir(at)
	switch {
	case link && who != "":
		if to, err := beneath.ReadLink(dir, name); err == nil {
			s.lead(path.Join(in, to), to, who)
		}
	case name == "commondir":
		s.common(dir, name, in)
	case (name == "config" || name == "config.worktree") && in != ".git" && tool.Who(as) == tool.Who(".git/config"):
		named := s.named(in)
		for _, to := range named.Paths() {
			s.lead(to, "", who)
		}
		if named.More {
			s.found["."] = unfinished
		}
	}
}

// common notes what git runs or takes commands from in the folder to which a commondir leads. A
// look at a repository's own .git finds the same.
func (s *toolSearch) common(dir *os.File, name, in string) {
	f, _, err := beneath.OpenRegular(dir, name)
	if err != nil {
		return // nor does git
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, unix.PathMax))
	to := strings.TrimRight(string(text), "\r\n")
	at := path.Join(in, to)
	if err != nil || to == "" || path.Base(at) == ".git" {
		return
	}
	for _, each := range []string{"config", "config.worktree", "hooks"} {
		s.lead(path.Join(at, each), path.Join(to, each), tool.Who(".git/config"))
	}
	for _, named := range s.named(at).Paths() {
		s.lead(named, "", tool.Who(".git/config"))
	}
}

// lead notes a path in the folder. to is the text of a link, if one leads there.
func (s *toolSearch) lead(at, to, who string) {
	if path.IsAbs(to) {
		var below bool
		if at, below = strings.CutPrefix(path.Clean(to), s.root+"/"); !below {
			return
		}
	}
	switch {
	case !filepath.IsLocal(at) || at == ".":
	case len(s.leads) >= maxLeads:
		s.found["."] = unfinished
	default:
		s.leads = append(s.leads, lead{at, who})
	}
}

// follow looks at what is where the leads lead. What it finds there may lead on.
func (s *toolSearch) follow(root *os.File) {
	seen := map[string]bool{}
	for i := 0; i < len(s.leads) && s.ctx.Err() == nil; i++ {
		l := s.leads[i]
		if seen[l.at] {
			continue
		}
		seen[l.at] = true
		if below, err := beneath.Open(root, l.at, unix.O_RDONLY|unix.O_DIRECTORY); err == nil {
			s.below(below, toolFolder{at: l.at, as: l.at, led: l.who})
			below.Close()
			continue
		}
		s.step(root, l)
	}
	if s.ctx.Err() != nil && len(s.leads) > 0 {
		s.found["."] = unfinished
	}
}

// step follows the first link on the way, or looks at the file at its end.
func (s *toolSearch) step(root *os.File, l lead) {
	steps := strings.Split(l.at, "/")
	for i, name := range steps {
		at := path.Join(steps[:i+1]...)
		in, err := beneath.Open(root, path.Dir(at), unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return // there is nothing
		}
		e, err := beneath.Look(in, name)
		switch {
		case err != nil || e == nil:
		case e.Is(unix.S_IFLNK):
			if to, err := beneath.ReadLink(in, name); err == nil {
				rest := path.Join(steps[i+1:]...)
				s.lead(path.Join(path.Dir(at), to, rest), path.Join(to, rest), l.who)
			}
		case i == len(steps)-1:
			s.add(at, File{state: state(in, name, e), Who: l.who, how: l.who})
		}
		in.Close()
		if err != nil || e == nil || e.Is(unix.S_IFLNK) {
			return
		}
	}
}
