package guardrail

import (
	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/guardrail/document"
)

// statements returns what a policy document says. Where IDs are not known yet, the document has
// made up ones. It reports a document that is not known or not valid.
func (c *checker) statements(r *graph.Resource, property string) []document.Statement {
	return c.document(r, property, r.Value(property))
}

// document returns what the policy document v, in the property, says.
func (c *checker) document(r *graph.Resource, property string, v any) []document.Statement {
	if v == nil || v == "" {
		return nil
	}
	text, ok := v.(string)
	if !ok || text == graph.Unknown {
		c.unknown(r, property)
		return nil
	}
	out, err := document.Parse(text)
	if err != nil {
		c.add(r, Indeterminate, property, "it is not a valid policy document")
	}
	return out
}
