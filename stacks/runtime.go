package stacks

import (
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks/yaml"
)

// runtime reads what isolates an agent's commands on this machine, and their image. The default is
// not written, so that equal policies are equal plans. Package aws reads what other machines do.
func (l *loader) runtime(n *yaml.Node, what, target string, agent *plan.Agent) {
	r, i := n.Get("runtime"), n.Get("image")
	if target != TargetLocal {
		if i != nil {
			l.At(i, "write it in the section aws", "image of %s is for target: local", what)
		}
		return
	}
	if r != nil {
		var words []string
		for _, runtime := range plan.Runtimes() {
			words = append(words, string(runtime))
		}
		if t := plan.Runtime(l.OneOf(r, "runtime", words...)); t != plan.RuntimeBubblewrap {
			agent.Runtime = t
		}
	}
	if i == nil {
		return
	}
	t, ok := l.Text(i, "image")
	switch {
	case !ok:
	case !agent.RuntimeOrDefault().HasImage():
		l.At(i, "write runtime: container, or remove it", "%s has an image, and %s has none", what,
			agent.RuntimeOrDefault())
	case !plan.IsImage(t):
		l.At(i, `write one of "docker images", such as debian:12 or "sha256:..."`, "%q is not the name of an image", t)
	}
	agent.Image = t
}
