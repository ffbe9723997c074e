package since

import (
	"cmp"
	"errors"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/sandbox/workspace/beneath"
	"github.com/postern/postern/sandbox/workspace/tool"
)

// leads are the paths in the folder to which tools go by a link, or by the settings of a
// repository. No name of such a path is a link, but its last one may be. done are those that were
// looked at.
type leads struct {
	all  []toolFolder
	seen map[toolFolder]bool
	done int
}

// maxLeads bounds the [leads]: an agent can make any number of them.
const maxLeads = 1000

// lead notes a path, if there is something. If it is the whole folder, nobody acts on all of that.
func (s *toolSearch) lead(to toolFolder) {
	if to.at == "." && to.led != "" || to.at == "" || s.leads.seen[to] {
		return
	}
	in, err := s.top.Folder(path.Dir(to.at))
	if err != nil {
		return
	}
	there := in.Of(path.Base(to.at)) != nil
	in.Close()
	if !there {
		return
	}
	if len(s.leads.all) >= maxLeads {
		s.found["."] = unfinished
		return
	}
	if s.leads.seen == nil {
		s.leads.seen = map[toolFolder]bool{}
	}
	s.leads.seen[to] = true
	s.leads.all = append(s.leads.all, to)
}

// leadTo notes where a path leads that is relative to the folder in, and the links on the way: who
// acts on all of them.
func (s *toolSearch) leadTo(in, to, who string) {
	end := s.way.Follow(in, to)
	for _, at := range append(end.Links, end.In) {
		s.lead(toolFolder{at: at, as: at, led: who})
	}
}

// follow looks at what is where the leads lead. What it finds there may lead on.
func (s *toolSearch) follow() {
	for ; s.leads.done < len(s.leads.all) && s.ctx.Err() == nil; s.leads.done++ {
		to := s.leads.all[s.leads.done]
		if below, err := s.top.Folder(to.at); err == nil {
			if !to.file {
				s.below(below, to)
			}
			below.Close()
			continue
		}
		in, err := s.top.Folder(path.Dir(to.at))
		if err != nil {
			continue // there is nothing
		}
		name := path.Base(to.at)
		if layer := in.Of(name); layer != nil && to.led != "" {
			if e, err := beneath.Look(layer, name); err == nil && e != nil {
				s.add(to.at, File{state: state(layer, name, e), Who: to.led, how: to.led})
			}
		}
		in.Close()
	}
	if s.leads.done < len(s.leads.all) {
		s.found["."] = unfinished
	}
}

// link says who acts on a link that the folder dir has under the name, or on what is there, and
// where it leads, if that is out of the folder. It notes where else it leads.
func (s *toolSearch) link(dir *os.File, name string, at toolFolder, who string) (_, there string) {
	to, err := beneath.ReadLink(dir, name)
	if err != nil {
		return who, ""
	}
	end := s.way.Follow(path.Dir(at.at), to)
	leads, there := s.outside.leads(at.at, end)
	switch begins, _ := tool.Begins(at.as); {
	case who != "":
		s.leadTo(path.Dir(at.at), to, who)
	case tool.Among(name, at.among):
	case begins != "": // ".hg" is where ".hg/hgrc" is
		s.lead(toolFolder{at: end.In, as: begins})
	case tool.Within(end.In): // what is there is in view
		s.lead(toolFolder{at: end.In, as: end.In})
	}
	if who == "" || leads != "" && tool.Rank(who) >= tool.ByThemselves {
		who = leads // "build" is also a name of Bazel's
	}
	return who, there
}

// repository notes what the settings name of the repository whose folder top has .git, if it has.
// Git's folder, and what the settings include, may be elsewhere.
func (s *toolSearch) repository(top string) {
	git := top + "/.git"
	if to, ok := strings.CutPrefix(strings.TrimRight(s.read(git), "\r\n"), "gitdir: "); ok {
		git = from(top, to)
	}
	s.settings(top, git)
}

// settings notes what the settings in git's folder name for a repository whose files are in top.
func (s *toolSearch) settings(top, git string) {
	who, in := tool.Who(".git/config"), s.way.Follow(".", git).In
	files := []string{git + "/config", git + "/config.worktree"}
	if to := strings.TrimRight(s.read(git+"/commondir"), "\r\n"); to != "" {
		files = append(files, from(git, to)+"/config")
	}
	if !(tool.Repository{Top: top, Settings: files}).Named(s.home, s.read, func(at string, included bool) {
		end := s.way.Follow(".", at)
		for _, link := range end.Links {
			s.lead(toolFolder{at: link, as: link, led: who})
		}
		// What is in .git is named by itself, and what git writes is no hook.
		below, own := strings.CutPrefix(end.In, in+"/")
		own = own && in != "" && path.Base(in) != ".git"
		if included || own && !tool.HasForm(below) || !own && !strings.Contains("/"+end.In+"/", "/.git/") {
			s.lead(toolFolder{at: end.In, as: end.In, led: who})
		}
	}) {
		s.found["."] = unfinished
	}
}

// from returns the path, which may be relative to the folder in. It is not clean.
func from(in, to string) string {
	if path.IsAbs(to) {
		return to
	}
	return in + "/" + to
}

// read returns the content of the file at the path, or what can be had of it. If there is more than
// is read, the search is unfinished. The path is absolute, and may have links on it.
func (s *toolSearch) read(at string) string {
	end := s.way.Follow(".", at)
	if end.In == "" {
		content, err := hostpath.ReadFile(at, maxHashed)
		if unfit := (*hostpath.UnfitError)(nil); errors.As(err, &unfit) && unfit.Large {
			s.found["."] = unfinished
		}
		return string(content)
	}
	f, is, err := s.top.Regular(end.In)
	if err != nil {
		return ""
	}
	defer f.Close()
	if is.Size > maxHashed {
		s.found["."] = unfinished
	}
	content, _ := io.ReadAll(io.LimitReader(f, maxHashed))
	return string(content)
}

// inRepository notes what settings outside of the folder name in the repository at the path.
func (s *toolSearch) inRepository(in string) {
	for _, n := range s.personal {
		end := s.way.Follow(in, n.Path)
		for _, link := range end.Links {
			s.lead(toolFolder{at: link, as: link, led: tool.ByPerson})
		}
		s.lead(toolFolder{at: end.In, as: end.In, led: tool.ByPerson, file: !n.Folder})
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
	at := cmp.Or(s.way.Follow(in, to).In, ".git")
	if err != nil || to == "" || path.Base(at) == ".git" {
		return
	}
	for _, each := range []string{"config", "config.worktree", "hooks"} {
		s.leadTo(in, to+"/"+each, tool.Who(".git/config"))
	}
	s.settings(s.root+"/"+path.Dir(at), s.root+"/"+at)
}
