package stacks

import (
	"slices"
	"strings"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks/yaml"
)

// repository is "owner/name", deeper, or flat; a * stands for a whole segment.
var repository = plan.Matching(RepositoryPattern)

const RepositoryPattern = `^(?:\*|[A-Za-z0-9_][A-Za-z0-9._-]*)(?:/(?:\*|[A-Za-z0-9_][A-Za-z0-9._-]*)){0,7}$`

// git compiles lists of repositories into the requests that git sends over HTTPS. Writing includes
// reading, because a push begins by reading. The names of the rules say what they let through, so
// that they stay the same when the lists change.
func (l *loader) git(n *yaml.Node, base plan.Rule) []namedRule {
	if l.repositories != nil {
		n = l.repositories
	}
	if !l.Mapping(n, "git", "read", "write", "lfs") {
		return nil
	}
	var read, write []string
	if r := n.Get("read"); r != nil {
		read = l.repositoryList(r, "read")
	}
	if w := n.Get("write"); w != nil {
		write = l.repositoryList(w, "write")
	}
	if n.Get("read") == nil && n.Get("write") == nil {
		l.At(n, `write read: or write: and a list such as ["owner/name", "owner/*"]`, "git names no repositories")
	}
	for _, r := range write {
		if !slices.Contains(read, r) {
			read = append(read, r)
		}
	}
	g := gitRules{base: base, at: n}
	g.add("git-read-refs", "GET", read, "/info/refs", "git-upload-pack")
	g.add("git-read-pack", "POST", read, "/git-upload-pack", "")
	g.add("git-write-refs", "GET", write, "/info/refs", "git-receive-pack")
	g.add("git-write-pack", "POST", write, "/git-receive-pack", "")
	if v := n.Get("lfs"); v != nil && l.Boolean(v, "lfs") {
		// What a batch asks for, to read or to write, is in its body: it only
		// answers with where objects are.
		g.add("git-lfs-batch", "POST", read, "/info/lfs/objects/batch", "")
		g.add("git-lfs-read", "GET", read, "/info/lfs/objects/*", "")
		g.add("git-lfs-locks", "GET", read, "/info/lfs/locks", "")
		g.add("git-lfs-write", "PUT", write, "/info/lfs/objects/*", "")
		g.add("git-lfs-lock", "POST", write, "/info/lfs/locks", "")
		g.add("git-lfs-verify", "POST", write, "/info/lfs/locks/verify", "")
		g.add("git-lfs-unlock", "POST", write, "/info/lfs/locks/*/unlock", "")
	}
	return g.rules
}

func (l *loader) repositoryList(n *yaml.Node, what string) []string {
	var out []string
	l.Texts(n, what, "remove the key", func(item *yaml.Node, t string) {
		if !repository(t) {
			hint := `write "owner/name", or * for a whole segment, as in "owner/*"`
			if strings.HasPrefix(t, "/") || strings.Contains(t, "://") {
				hint = "write the part of the clone's URL after the host and its slash"
			}
			l.At(item, hint, "%q names no repository", t)
			return
		}
		t = strings.TrimSuffix(t, ".git")
		if t == "" || slices.Contains(out, t) {
			l.At(item, "remove one of them", "%q is in %s already", t, what)
			return
		}
		out = append(out, t)
	})
	return out
}

// gitRules collects the rules of one destination.
type gitRules struct {
	base  plan.Rule
	at    *yaml.Node
	rules []namedRule
}

func (g *gitRules) add(name, method string, repositories []string, suffix, service string) {
	r := g.base
	r.ID, r.Methods, r.Paths = "/"+name, []string{method}, nil
	for _, repo := range repositories {
		r.Paths = append(r.Paths, "/"+repo+suffix)
		if !strings.HasSuffix(repo, "*") { // which matches with .git as well
			r.Paths = append(r.Paths, "/"+repo+".git"+suffix)
		}
	}
	if len(r.Paths) == 0 {
		return
	}
	slices.Sort(r.Paths)
	if service != "" {
		r.Query = []plan.Condition{{Name: "service", Value: service}}
	}
	g.rules = append(g.rules, namedRule{Rule: r, at: g.at})
}
