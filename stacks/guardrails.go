package stacks

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks/yaml"
)

// Guardrails are what a stack file says about guardrails: see package policies/guardrail.
type Guardrails struct {
	// Production means that what is not known fails, and that guardrails for production hold.
	Production bool
	// Policies is the folder with the operator's own policies, or "".
	Policies string
	Waivers  []Waiver
}

// Waiver lets the findings of one guardrail at one resource be, until it ends.
type Waiver struct {
	Rail     string
	Resource string
	Owner    string
	Reason   string
	// Expires is the last day on which it holds, as 2006-01-02.
	Expires string
	// At is where it is written, such as stacks/prod.yaml:12:5.
	At string
}

// railID matches the IDs of guardrails. Which there are, is known when they are checked.
var railID = plan.Matching(`^[A-Z][A-Z0-9]{1,15}-[0-9]{2,4}$`)

// LoadGuardrails reads a file that has only what a stack file has below guardrails. Without the key
// production it is for production.
func LoadGuardrails(path string) (Guardrails, error) {
	data, err := hostpath.ReadFile(path, maxFile)
	if err != nil {
		return Guardrails{}, err
	}
	g := Guardrails{Production: true}
	p := &yaml.Problems{File: path}
	if root := yaml.Parse(data, p); root != nil {
		g.read(&yaml.Reader{Problems: p, Dir: filepath.Dir(path)}, root, path)
	}
	return g, p.Err()
}

// read reads the section guardrails of a file.
func (g *Guardrails) read(l *yaml.Reader, n *yaml.Node, path string) {
	if !l.Mapping(n, "guardrails", "production", "policies", "waivers") {
		return
	}
	if p := n.Get("production"); p != nil {
		g.Production = l.Boolean(p, "production")
	}
	if p := n.Get("policies"); p != nil {
		if path, ok := l.Text(p, "policies"); ok {
			g.Policies = l.Resolve(path)
		}
	}
	list := n.Get("waivers")
	if list == nil {
		return
	}
	if list.Kind != yaml.KindList {
		l.At(list, "write a list", "waivers is %s, not a list", list.Describe())
		return
	}
	for _, item := range list.Items {
		if !l.Mapping(item, "a waiver", "guardrail", "resource", "owner", "reason", "expires") {
			continue
		}
		text := func(key, hint string, valid func(string) bool) string {
			return l.Required(item, "a waiver", key, hint, valid)
		}
		given := func(t string) bool { return strings.TrimSpace(t) != "" && len(t) <= 300 }
		g.Waivers = append(g.Waivers, Waiver{
			Rail:     text("guardrail", "write the ID of one, such as NET-05", railID),
			Resource: text("resource", "write the name of the resource, as the finding has it", given),
			Owner:    text("owner", "write who answers for it", given),
			Reason:   text("reason", "write why it is right here", given),
			Expires: text("expires", "write its last day in quotes, such as \"2027-03-31\"", func(t string) bool {
				_, err := time.Parse(time.DateOnly, t)
				return err == nil
			}),
			At: fmt.Sprintf("%s:%d:%d", path, item.Line, item.Col),
		})
	}
}
