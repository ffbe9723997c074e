package edit

import (
	"fmt"
	"strings"
	"time"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/stacks/yaml"
)

// way finds a rule by which the agent reaches the rule's place already, and lets the rule lead
// there in the same way: to the same upstream, with the same credential. Without that, more access
// would be other access: the host would be asked of DNS, and get no credential. It returns nil if
// the agent does not reach the place. If the agent reaches it in several ways, nobody but a person
// can choose.
func (e *editor) way(rule *plan.Rule) (*plan.Rule, error) {
	a, err := e.stack.Agent(e.agent)
	if err != nil {
		return nil, err
	}
	var found *plan.Rule
	live := (&plan.Plan{Agents: []plan.Agent{*a}}).At(time.Now()).Agents[0] // what has ended leads nowhere
	a = &live
	for i := range a.Rules {
		r := &a.Rules[i]
		switch exact := r.Host == rule.Host; {
		case r.Deny || r.Port != rule.Port || !r.Covers(rule.Host) || !exact && r.Mode == plan.ModeTunnel:
		case found == nil || exact && found.Host != rule.Host:
			found = r
		case !exact && found.Host == rule.Host:
		case !stacks.SameWay(found, r):
			return nil, fmt.Errorf("%s: rules %s and %s lead to %s in different ways (upstream, credential, gateway): "+
				"add it by hand to the one that is meant, then run `%s`",
				e.file.Path, found.ID, r.ID, rule.Host, e.file.Command("push"))
		}
	}
	if found == nil {
		return nil, nil
	}
	secret := found.Credential != "" || found.OwnCredentials
	if secret && found.Expires != "" && (rule.Expires == "" || rule.Expires > found.Expires) {
		return nil, fmt.Errorf("%s: rule %s lends a credential for %s until %s, and would lend it for longer: end this "+
			"no later, with --for, or write by hand what is meant, then run `%s`",
			e.file.Path, found.ID, rule.Host, found.Expires, e.file.Command("push"))
	}
	rule.Credential, rule.OwnCredentials = found.Credential, found.OwnCredentials
	rule.Upstream, rule.Gateway = found.Upstream, found.Gateway
	if !stacks.Partial(rule) { // a tunnel is not inspected
		rule.Mode = found.Mode
	}
	return found, nil
}

// wayEntry writes the way of a rule in the grammar, as keys that follow others.
func (e *editor) wayEntry(r *plan.Rule) string {
	if r == nil {
		return ""
	}
	var s strings.Builder
	name, _, _ := strings.Cut(strings.TrimPrefix(r.ID, e.agent+"/"), "/")
	n := &yaml.Node{} // a preset's
	if o, _ := e.stack.Origin(r.ID); o.Preset == "" {
		n = e.stack.Root.Get("destinations").Get(name)
	}
	if r.Credential != "" {
		s.WriteString(", credential: " + scalar(r.Credential))
	}
	if r.OwnCredentials {
		reason := r.Reason
		if own := n.Get("own_credentials"); own != nil {
			reason = own.Get("reason").Text
		}
		s.WriteString(", own_credentials: {allow: true, reason: " + quote(reason) + "}")
	}
	if r.Gateway != 0 {
		fmt.Fprintf(&s, ", gateway: %d", r.Gateway)
	}
	if up := n.Get("upstream"); up != nil {
		var fields []string
		for _, f := range up.Fields {
			fields = append(fields, f.Key.Text+": "+flow(f.Value))
		}
		s.WriteString(", upstream: {" + strings.Join(fields, ", ") + "}")
	}
	return s.String()
}

// flow writes a text, a boolean or a list of texts on one line.
func flow(n *yaml.Node) string {
	switch n.Kind {
	case yaml.KindList:
		var items []string
		for _, item := range n.Items {
			items = append(items, flow(item))
		}
		return "[" + strings.Join(items, ", ") + "]"
	case yaml.KindText:
		return quote(n.Text)
	}
	return n.Text
}
