package plan

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestEncodeIsPackageJSON: the canonical form, of which the version is the hash, is what package
// json writes: for every field that a rule has, every text, and every plan.
func TestEncodeIsPackageJSON(t *testing.T) {
	t.Parallel()
	same := func(t require.TestingT, p *Plan) {
		want, err := json.Marshal(p)
		require.NoError(t, err)
		got, err := p.Encode()
		require.NoError(t, err)
		require.Equal(t, string(want), string(got))
	}
	simple := func() Rule {
		return Rule{ID: "a/x", Host: "x.test", Port: 443, Methods: []string{"GET", "POST"}, Paths: []string{"/v1/**"}}
	}
	of := func(rules ...Rule) *Plan {
		return &Plan{Stack: "s", Agents: []Agent{{Name: "a", Port: 8443, Rules: rules}, {Name: "b"}, {Name: "c", Rules: []Rule{}}}}
	}
	same(t, &Plan{})
	same(t, &Plan{Stack: "<s>", Resolvers: []string{"&"}, Agents: []Agent{}})
	same(t, of(simple(), simple()))
	for i := range reflect.TypeFor[Rule]().NumField() {
		set, unset := simple(), simple()
		fill(reflect.ValueOf(&set).Elem().Field(i))
		reflect.ValueOf(&unset).Elem().Field(i).SetZero()
		same(t, of(simple(), set, unset, simple()))
	}
	none := simple()
	none.Methods, none.Paths = []string{}, []string{}
	same(t, of(none))
	rapid.Check(t, func(t *rapid.T) {
		same(t, genPlan(t, "p"))
		r := simple()
		r.Credential = rapid.String().Draw(t, "credential")
		r.Paths = rapid.SliceOf(rapid.String()).Draw(t, "paths")
		r.Methods = rapid.SliceOf(rapid.SampledFrom([]string{"GET", "<", ">", "&", "\"", "\\", "\x7f", "\xff", "\u2028", "é"})).Draw(t, "methods")
		same(t, of(simple(), r))
	})
}
