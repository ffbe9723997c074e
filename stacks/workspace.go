package stacks

import (
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks/yaml"
)

// workspace reads what an agent's commands have of their working directory. The default is nil, so
// that equal policies are equal plans.
func (l *loader) workspace(n *yaml.Node, what string, target string) *plan.Workspace {
	if !l.Mapping(n, what, "mode", "size", "name", "hide", "show") {
		return nil
	}
	if target != TargetLocal {
		l.At(n, "remove it", "%s is for target: local; other machines have no working directory", what)
		return nil
	}
	m := n.Get("mode")
	if m == nil {
		l.At(n, "write mode: overlay", "%s has no mode", what)
		return nil
	}
	var words []string
	for _, mode := range plan.WorkspaceModes() {
		words = append(words, string(mode))
	}
	w := &plan.Workspace{Mode: plan.WorkspaceMode(l.OneOf(m, "mode", words...))}
	if s := n.Get("size"); s != nil {
		if w.Mode == plan.WorkspaceWrite || w.Mode == plan.WorkspaceReadOnly {
			l.At(s, "remove it, or write mode: overlay", "a workspace with mode %s has no size", w.Mode)
		}
		w.Size = l.Size(s, "size", "")
	}
	if v := n.Get("name"); v != nil {
		if w.Mode != plan.WorkspaceVolume {
			l.At(v, "remove it, or write mode: volume", "a workspace with mode %s has no name", w.Mode)
		}
		l.name(v, "a volume")
		w.Volume = v.Text
	}
	l.hidden(n, w)
	if w.Mode == plan.WorkspaceWrite && w.Size == 0 {
		return nil
	}
	return w
}

// hidden reads which files an agent does not see, and which it sees although they look like
// secrets.
func (l *loader) hidden(n *yaml.Node, w *plan.Workspace) {
	hide, show := n.Get("hide"), n.Get("show")
	for _, list := range []*yaml.Node{hide, show} {
		if list != nil && w.Mode != plan.WorkspaceReadOnly && w.Mode != plan.WorkspaceOverlay {
			l.At(list, "remove it, or write mode: overlay", "with mode %s nothing is hidden", w.Mode)
			return
		}
	}
	if hide != nil {
		l.Texts(hide, "hide", "remove it", func(item *yaml.Node, text string) {
			if _, err := path.Match(text, ""); err != nil || !isBelow(strings.TrimSuffix(text, "/")) {
				l.At(item, `write a name, a path in the folder, or a pattern such as "*.tfstate"`,
					"%q is not a valid pattern of files", text)
			}
			w.Hide = append(w.Hide, text)
		})
		slices.Sort(w.Hide)
	}
	if show == nil || !l.Mapping(show, "show") {
		return
	}
	w.Show = map[string]string{}
	for _, f := range show.Fields {
		if !isBelow(f.Key.Text) || strings.ContainsAny(f.Key.Text, "*?[") {
			l.At(f.Key, "write the path of a file or folder, relative to the working directory",
				"%q is not a valid path in the working directory", f.Key.Text)
		}
		reason, _ := l.Text(f.Value, "the reason to show "+f.Key.Text)
		if strings.ContainsFunc(reason, unicode.IsControl) || len(reason) > 200 {
			l.At(f.Value, "write a line of at most 200 bytes", "the reason to show %s is too long", f.Key.Text)
		}
		w.Show[f.Key.Text] = reason
	}
}

// isBelow reports whether a path leads to something in a folder, in the only way to write it.
func isBelow(at string) bool {
	return at != "" && at != "." && path.Clean(at) == at && !path.IsAbs(at) && at != ".." &&
		!strings.HasPrefix(at, "../") && !strings.ContainsFunc(at, unicode.IsControl)
}

// home reads whether an agent's commands keep their home.
func (l *loader) home(n *yaml.Node, what string, target string) *plan.Home {
	if !l.Mapping(n, what, "persist", "size") {
		return nil
	}
	if target != TargetLocal {
		l.At(n, "remove it", "%s is for target: local; on other machines the homes are theirs", what)
		return nil
	}
	p, size := n.Get("persist"), n.Get("size")
	if p == nil {
		l.At(n, "write persist: true", "%s does not say if it persists", what)
		return nil
	}
	if !l.Boolean(p, "persist") {
		if size != nil {
			l.At(size, "remove it, or write persist: true", "%s has no size unless it persists", what)
		}
		return nil
	}
	h := &plan.Home{}
	if size != nil {
		h.Size = l.Size(size, "size", "")
	}
	return h
}
