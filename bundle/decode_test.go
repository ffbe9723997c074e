package bundle

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postern/postern/plan"
)

// same holds decode to package json: the same bundle, or an error too, whatever
// was known before; and a version that is the plan's. It returns what is known then.
func same(t require.TestingT, payload []byte, known *spelling) *spelling {
	var want Bundle
	wrong := json.Unmarshal(payload, &want)
	got, spelled, err := decode(payload, known)
	require.Equal(t, wrong, err, "%s", payload)
	if err != nil {
		return known
	}
	if got.planVersion != "" {
		version, err := want.Plan.Version()
		require.NoError(t, err)
		require.Equal(t, version, got.planVersion, "%s", payload)
	}
	got.planVersion = ""
	require.Equal(t, &want, got, "%s", payload)
	return spelled
}

func genRule(rt *rapid.T) plan.Rule {
	r := plan.Rule{
		ID:   rapid.SampledFrom([]string{"a/1", "a/2", "b/\\\"}]", "a/<ü>"}).Draw(rt, "id"),
		Host: rapid.SampledFrom([]string{"one.test", "two.test"}).Draw(rt, "host"), Port: 443,
		Methods: rapid.SampledFrom([][]string{nil, {}, {"GET"}, {"GET", "POST"}}).Draw(rt, "methods"),
	}
	if rapid.Bool().Draw(rt, "more") {
		r.Query, r.Limits = []plan.Condition{{Name: "rules", Value: `"agents":[{`}}, &plan.Limits{Requests: 1}
	}
	return r
}

func genBundle(rt *rapid.T, before *Bundle) *Bundle {
	b := &Bundle{
		Seq: 7, By: `"plan":{"agents":[{"rules":[`, Plan: &plan.Plan{Stack: "test"},
		Generations: map[string]string{"plan": "agents"},
	}
	for i := range rapid.IntRange(0, 3).Draw(rt, "agents") {
		a := plan.Agent{Name: "a" + strconv.Itoa(i)}
		if before != nil && i < len(before.Plan.Agents) {
			a.Rules = slices.Clone(before.Plan.Agents[i].Rules)
		}
		for range rapid.IntRange(0, 40).Draw(rt, "changes") {
			at := rapid.IntRange(0, len(a.Rules)).Draw(rt, "at")
			if at < len(a.Rules) && rapid.Bool().Draw(rt, "remove") {
				a.Rules = slices.Delete(a.Rules, at, at+1)
			} else {
				a.Rules = slices.Insert(a.Rules, at, genRule(rt))
			}
		}
		b.Plan.Agents = append(b.Plan.Agents, a)
	}
	return b
}

// TestDecodeIsJSON: publications one after the other, some of them damaged or
// written by somebody else, are what package json says they are.
func TestDecodeIsJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var before *Bundle
		var known *spelling
		for range rapid.IntRange(1, 5).Draw(rt, "bundles") {
			b := genBundle(rt, before)
			before = b
			payload, err := encode(b)
			require.NoError(rt, err)
			if rapid.IntRange(0, 2).Draw(rt, "damage") == 0 {
				for range rapid.IntRange(1, 3).Draw(rt, "times") {
					at := rapid.IntRange(0, len(payload)-1).Draw(rt, "byte")
					piece := rapid.SampledFrom([]string{
						"", " ", "\"", "\\", "{", "}", "[", "]", ",", ":", "0", "x", "null", `"rules":[{}],`,
						`"Rules":null,`, `{},`, `"agents":[],`,
					}).Draw(rt, "piece")
					payload = slices.Replace(payload, at, at+rapid.IntRange(0, 1).Draw(rt, "instead"), []byte(piece)...)
					if len(payload) == 0 {
						payload = []byte("{}")
					}
				}
			} else {
				_, spelled, err := decode(payload, known)
				require.NoError(rt, err)
				require.NotNil(rt, spelled, "what we write is read the fast way")
			}
			known = same(rt, payload, known)
		}
	})
}

// TestDecodeShares: of one rule more, the others are those that were there, and
// nothing has to be hashed or decoded for that.
func TestDecodeShares(t *testing.T) {
	t.Parallel()
	p := policy("a.test", "b.test", "c.test")
	first, err := encode(&Bundle{Seq: 1, Plan: p})
	require.NoError(t, err)
	a, known, err := decode(first, nil)
	require.NoError(t, err)
	require.Equal(t, (&Bundle{Plan: p}).version(), a.planVersion)
	second, err := encode(&Bundle{Seq: 2, Plan: policy("a.test", "new.test", "c.test")})
	require.NoError(t, err)
	b, _, err := decode(second, known)
	require.NoError(t, err)
	is, was := b.Plan.Agents[0].Rules, a.Plan.Agents[0].Rules
	require.Same(t, &was[0].Paths[0], &is[0].Paths[0])
	require.Same(t, &was[2].Paths[0], &is[2].Paths[0])
	require.Equal(t, "new.test", is[1].Host)
	require.NotEmpty(t, b.planVersion)
}

// TestExpect: what was expected is not decoded, and what was not is what was published.
func TestExpect(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	o.store(t, policy("one.test", "two.test"))
	plain, err := (&Store{URL: o.URL, Stack: o.Stack, Trusted: o.Trusted}).Get(t.Context(), 1)
	require.NoError(t, err)
	expected := policy("one.test", "three.test")
	require.NoError(t, o.Expect(expected))
	got, err := o.Get(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, plain, got)
	require.Same(t, &expected.Agents[0].Rules[0].Methods[0], &got.Plan.Agents[0].Rules[0].Methods[0])

	// If it is what was expected, that is the plan.
	o = folder(t, "test")
	o.store(t, policy("one.test", "two.test"))
	expected = policy("one.test", "two.test")
	require.NoError(t, o.Expect(expected))
	got, err = o.Get(t.Context(), 1)
	require.NoError(t, err)
	require.Same(t, expected, got.Plan)
	plain, err = (&Store{URL: o.URL, Stack: o.Stack, Trusted: o.Trusted}).Get(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, plain, got)
}

// TestDecodeAs: only a payload that has the expected plan, and that one alone, is taken for it.
func TestDecodeAs(t *testing.T) {
	t.Parallel()
	p := policy("one.test")
	encoded, err := p.Encode()
	require.NoError(t, err)
	e := &expected{p, encoded}
	payload, err := encode(&Bundle{Seq: 7, Plan: p})
	require.NoError(t, err)
	require.NotNil(t, decodeAs(payload, e))
	require.Nil(t, decodeAs(payload, nil))
	for _, other := range []string{
		`{"seq":7,"plan":{"stack":"x"},"plan":` + string(encoded) + `}`,
		`{"seq":7,"Plan":{"stack":"x"},"plan":` + string(encoded) + `}`,
		`{,"plan":` + string(encoded) + `}`,
		`{"seq":7,,"plan":` + string(encoded) + `}`,
		`{"seq":"x,"plan":` + string(encoded) + `}`,
		`{"seq":7,"x":{"y":1,"plan":` + string(encoded) + `}`,
		`{"seq":7,"plan":` + string(encoded) + `}}`,
		`{"plan":` + string(encoded) + `,"seq":7}`,
		`{"seq":7,"plan":` + string(encoded),
	} {
		require.Nil(t, decodeAs([]byte(other), e), other)
	}
}

func FuzzDecode(f *testing.F) {
	payload, err := encode(&Bundle{Seq: 1, Plan: policy("a.test", "b.test")})
	require.NoError(f, err)
	other, err := encode(&Bundle{Seq: 2, Plan: policy("a.test", "c.test", "b.test")})
	require.NoError(f, err)
	f.Add(payload, other)
	f.Add(payload, []byte(strings.ReplaceAll(string(other), `"rules"`, `"Rules"`)))
	f.Add(payload, []byte(strings.Replace(string(other), `"rules"`, `"rules":[{"id":"x"}], "rules"`, 1)))
	f.Add(payload, []byte(strings.Replace(string(other), `},{`, `} ,{`, 1)))
	f.Add(payload, []byte(`{"plan":{"agents":[{"rules":[null,1,{}]},null,{"rules":null}]}}`))
	f.Fuzz(func(t *testing.T, first, second []byte) { same(t, second, same(t, first, nil)) })
}

// TestNarrows holds it to what its comment says.
func TestNarrows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		rules := rapid.Custom(func(rt *rapid.T) plan.Rule {
			return plan.Rule{
				ID:   rapid.SampledFrom([]string{"a/1", "a/2", "a/3", "a/4"}).Draw(rt, "id"),
				Deny: rapid.IntRange(0, 4).Draw(rt, "deny") == 0,
				Port: rapid.SampledFrom([]uint16{443, 443, 8443}).Draw(rt, "port"),
			}
		})
		id := func(r plan.Rule) string { return r.ID }
		was := plan.Agent{Rules: rapid.SliceOfNDistinct(rules, 0, 4, id).Draw(rt, "was")}
		is := plan.Agent{Rules: slices.Clone(was.Rules)}
		if len(is.Rules) > 0 && rapid.IntRange(0, 2).Draw(rt, "less") == 0 {
			at := rapid.IntRange(0, len(is.Rules)-1).Draw(rt, "which")
			is.Rules = slices.Delete(is.Rules, at, at+1)
		}
		for range rapid.IntRange(0, 3).Draw(rt, "more") {
			if r := rules.Draw(rt, "rule"); !slices.ContainsFunc(is.Rules,
				func(o plan.Rule) bool { return o.ID == r.ID }) {
				is.Rules = slices.Insert(is.Rules, rapid.IntRange(0, len(is.Rules)).Draw(rt, "at"), r)
			}
		}
		var kept []plan.Rule
		for _, r := range is.Rules {
			if r.Deny || slices.ContainsFunc(was.Rules, func(o plan.Rule) bool { return o.ID == r.ID }) {
				kept = append(kept, r)
			}
		}
		// All that there was, in its order, but for some that denied.
		var same func(kept, was []plan.Rule) bool
		same = func(kept, was []plan.Rule) bool {
			if len(was) == 0 {
				return len(kept) == 0
			}
			return len(kept) > 0 && kept[0].Equal(&was[0]) && same(kept[1:], was[1:]) || was[0].Deny &&
				same(kept, was[1:])
		}
		require.Equal(rt, !same(kept, was.Rules), narrows(was, is))
	})
}
