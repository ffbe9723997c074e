package plan

import (
	"fmt"
	"slices"
	"strings"
)

// Tools are what an agent may have done in sandboxes other than its own. The zero value is nothing.
type Tools struct {
	// Git, if set, lets the agent have git run on repositories of its working directory.
	Git *GitTool `json:"git,omitempty"`
}

// GitTool says with which repositories git exchanges objects for an agent. The agent's rules decide
// about each of its requests as well.
type GitTool struct {
	// Repositories are patterns: a host, ":PORT" unless the port is 443, and the path of the
	// repository without ".git". A * in the path stands for one segment. They are sorted.
	Repositories []string `json:"repositories"`
}

// RepositoryPattern is what a pattern in [GitTool] looks like, and a repository without a *.
const RepositoryPattern = `^[a-z0-9][a-z0-9.-]*(?::[1-9][0-9]{0,4})?(?:/(?:\*|[A-Za-z0-9_][A-Za-z0-9._-]*)){1,8}$`

var isRepository = Matching(RepositoryPattern)

// IsRepository reports whether s can be a pattern in [GitTool].
func IsRepository(s string) bool { return len(s) <= maxRepository && isRepository(s) }

// maxRepository bounds the name of a repository, in bytes.
const maxRepository = 500

// Allows reports whether git may talk to the repository, such as "git.example.test/acme/app". It may
// end in ".git".
func (g *GitTool) Allows(repository string) bool {
	if g == nil || !IsRepository(repository) || strings.Contains(repository, "*") {
		return false
	}
	segments := strings.Split(strings.TrimSuffix(repository, ".git"), "/")
	return slices.ContainsFunc(g.Repositories, func(pattern string) bool {
		wanted := strings.Split(pattern, "/")
		return slices.EqualFunc(wanted, segments, func(w, s string) bool { return w == s || w == "*" && s != "" })
	})
}

// git returns the repositories of the agent's git outside.
func (a *Agent) git() []string {
	if a.Tools == nil || a.Tools.Git == nil {
		return nil
	}
	return a.Tools.Git.Repositories
}

// diffTools returns what changes for what an agent has done outside its sandbox.
func diffTools(name string, was, is *Agent) (out []Change) {
	before, after := was.git(), is.git()
	if slices.Equal(before, after) {
		return nil
	}
	list := func(all []string) string {
		if len(all) == 0 {
			return "none"
		}
		return fmt.Sprintf("git with %s", strings.Join(all, ", "))
	}
	return []Change{change("~", name, RiskLow, "it reaches nothing that no rule allows",
		" has the tools: %s, was %s", list(after), list(before))}
}
