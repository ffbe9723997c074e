package stacks

import (
	"slices"
	"strings"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/plan/tool"
	owntools "github.com/postern/postern/stacks/own"
	"github.com/postern/postern/stacks/yaml"
	repo "github.com/postern/postern/toolbox/repository"
)

// toolsPort is the port of the sandbox at which the tools answer.
const toolsPort = 3129

// tools reads what an agent has done outside its sandbox.
func (l *loader) tools(
	n *yaml.Node, what, target string, agent *plan.Agent, rules []placed,
) (git []string, own []tool.Tool) {
	if !l.Mapping(n, "tools of "+what, "git", "own") {
		return nil, nil
	}
	switch {
	case len(n.Fields) == 0:
		l.At(n, "write git: {repositories: [HOST/OWNER/NAME]} or own: [NAME], or remove it",
			"tools of %s names no tool", what)
		return nil, nil
	case target != TargetLocal:
		l.At(n, "remove it", "tools of %s is for target: local", what)
		return nil, nil
	case agent.Workspace != nil:
		l.At(n, "remove it, or write workspace: {mode: write}",
			"tools of %s need workspace write, and it has %s", what, agent.Workspace.Mode)
		return nil, nil
	case agent.RuntimeOrDefault() != plan.RuntimeBubblewrap:
		l.At(n, "remove it, or write runtime: bubblewrap",
			"tools of %s need runtime bubblewrap, and it has %s", what, agent.RuntimeOrDefault())
		return nil, nil
	case slices.ContainsFunc(rules, func(r placed) bool { return r.Gateway == toolsPort }):
		l.At(n, "write another gateway", "%s has a gateway at port %d, at which its tools answer", what, toolsPort)
		return nil, nil
	}
	if list := n.Get("own"); list != nil {
		own = owntools.Names(l.Reader, list, l.owned)
	}
	if g := n.Get("git"); g != nil {
		git = l.gitOutside(g, what, rules)
	}
	return git, own
}

// gitOutside reads for which repositories an agent has git outside its sandbox. It reaches nothing
// that the agent's rules do not allow.
func (l *loader) gitOutside(tool *yaml.Node, what string, rules []placed) (git []string) {
	if !l.Mapping(tool, "git of "+what, "repositories") {
		return nil
	}
	list := tool.Get("repositories")
	if list == nil {
		l.At(tool, "write repositories: and a list such as [HOST/OWNER/NAME]", "git of %s names no repositories", what)
		return nil
	}
	l.Texts(list, "repositories", "remove the tool", func(item *yaml.Node, text string) {
		if !repo.IsPattern(text) || strings.HasSuffix(text, ".git") {
			l.At(item, "write HOST/OWNER/NAME, without https:// and .git, or * for a whole segment of the path",
				"%q does not name a repository", text)
			return
		}
		at, _, _ := strings.Cut(text, "/")
		to, err := ParseHostPort(at)
		if err != nil {
			l.At(item, "write HOST/OWNER/NAME", "%q does not name a repository: %v", text, err)
			return
		}
		if to.String() != at {
			l.At(item, "write "+to.String(), "%q is not how a plan spells that host", at)
			return
		}
		reached := func(r placed) bool {
			return !r.Deny && r.Mode == plan.ModeIntercept && r.Port == to.Port && (r.Host == to.Host || r.Covers(to.Host))
		}
		if !slices.ContainsFunc(rules, reached) {
			l.At(item, "name a destination for it in allow",
				"%s may not go to %s, so git may not either", what, to)
			return
		}
		git = append(git, text)
	})
	slices.Sort(git)
	return git
}
