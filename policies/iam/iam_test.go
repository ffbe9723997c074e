package iam

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const (
	role   = "arn:aws:iam::123456789012:role/control"
	other  = "arn:aws:iam::123456789012:role/other"
	secret = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/key-AbCdEf"
	read   = "secretsmanager:GetSecretValue"
)

func doc(t *testing.T, statements string) *Document {
	t.Helper()
	d, err := Parse(`{"Version":"2012-10-17","Statement":` + statements + `}`)
	require.NoError(t, err, statements)
	return d
}

// allow and deny are statements about reading the secret; more is the rest of the statement.
func allow(more string) string { return says("Allow", more) }
func deny(more string) string  { return says("Deny", more) }

func says(effect, more string) string {
	return fmt.Sprintf(`{"Sid":"x","Effect":%q,"Action":%q,"Resource":%q%s}`, effect, read, secret, more)
}

// TestTheOrderOfEvaluation is the documented one: an explicit deny, what limits, what grants.
func TestTheOrderOfEvaluation(t *testing.T) {
	t.Parallel()
	const from, to = `,"Principal":{"AWS":"` + role + `"}`, `,"Principal":{"AWS":"` + other + `"}`
	const account = `,"Principal":{"AWS":"arn:aws:iam::123456789012:root"}`
	const nobody = `[{"Effect":"Allow","Action":"s3:GetObject","Resource":"*"}]`
	vpc := func(op, v string) string { return `,"Condition":{"` + op + `":{"aws:SourceVpc":"` + v + `"}}` }
	for name, c := range map[string]struct {
		identity, resource, boundary, session string
		want                                  Answer
	}{
		"nothing":                             {"", "", "", "", Denied},
		"the identity's":                      {allow(""), "", "", "", Allowed},
		"the resource's":                      {"", allow(from), "", "", Allowed},
		"the resource's, for another":         {"", allow(to), "", "", Denied},
		"the resource's, for the account":     {"", allow(account), "", "", Denied},
		"the resource's, for everybody":       {"", allow(`,"Principal":"*"`), "", "", Allowed},
		"a deny of the identity":              {allow("") + "," + deny(""), allow(from), "", "", Denied},
		"a deny of the resource":              {allow(""), deny(`,"Principal":"*"`), "", "", Denied},
		"a deny of the resource, for another": {allow(""), deny(to), "", "", Allowed},
		"a deny of the account":               {allow(""), deny(account), "", "", Denied},
		"a boundary that allows":              {allow(""), "", allow(""), "", Allowed},
		"a boundary that does not":            {allow(""), "", nobody, "", Denied},
		"a boundary grants nothing":           {"", "", allow(""), "", Denied},
		"a boundary that denies":              {allow(""), "", allow("") + "," + deny(""), "", Denied},
		"a boundary limits the resource's":    {"", allow(from), nobody, "", Denied},
		"a session that allows":               {allow(""), "", "", allow(""), Allowed},
		"a session that does not":             {allow(""), "", "", nobody, Denied},
		"a session grants nothing":            {"", "", "", allow(""), Denied},
		"a condition that holds":              {allow(vpc("StringEquals", "vpc-1")), "", "", "", Allowed},
		"a condition that does not":           {allow(vpc("StringEquals", "vpc-2")), "", "", "", Denied},
		"a condition without an answer": {
			allow(`,"Condition":{"StringEquals":{"aws:PrincipalTag/x":"1"}}`), "", "", "", Unknown,
		},
		"an operator that nobody knows": {
			allow(`,"Condition":{"DateLessThan":{"aws:SourceVpc":"1"}}`), "", "", "", Unknown,
		},
		"a deny elsewhere": {
			allow(""), deny(`,"Principal":"*"` + vpc("StringNotEquals", "vpc-1")), "", "", Allowed,
		},
		"a deny here": {
			allow(""), deny(`,"Principal":"*"` + vpc("StringNotEquals", "vpc-2")), "", "", Denied,
		},
		"a deny that may hold": {
			allow(""), deny(`,"Principal":"*","Condition":{"Bool":{"aws:x":"true"}}`), "", "", Unknown,
		},
		"a key that is absent": {
			allow(`,"Condition":{"StringEquals":{"aws:gone":"1"}}`), "", "", "", Denied,
		},
		"a key that may be absent": {
			allow(`,"Condition":{"StringEqualsIfExists":{"aws:gone":"1"}}`), "", "", "", Allowed,
		},
		"a key that must be absent": {
			allow(`,"Condition":{"Null":{"aws:gone":"true"}}`), "", "", "", Allowed,
		},
		"all but one action": {
			`{"Effect":"Allow","NotAction":"iam:*","Resource":"*"}`, "", "", "", Allowed,
		},
		"all but this action": {
			`{"Effect":"Allow","NotAction":"SecretsManager:*","Resource":"*"}`, "", "", "", Denied,
		},
		"all but this resource": {
			`{"Effect":"Allow","Action":"*","NotResource":"` + secret + `"}`, "", "", "", Denied,
		},
		"a variable": {
			`{"Effect":"Allow","Action":"*","Resource":"arn:aws:*:secret:${aws:x}-*"}`, "", "", "", Unknown,
		},
		"a variable elsewhere": {
			`{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::${aws:x}"}`, "", "", "", Denied,
		},
		"patterns": {
			`{"Effect":"Allow","Action":"secretsmanager:Get*","Resource":"*:secret:prod/key-??????"}`,
			"", "", "", Allowed,
		},
	} {
		p := &Policies{}
		list := func(s string) []*Document {
			if s == "" {
				return nil
			}
			if s[0] != '[' {
				s = "[" + s + "]"
			}
			return []*Document{doc(t, s)}
		}
		p.Identity, p.Resource = list(c.identity), list(c.resource)
		if d := list(c.boundary); d != nil {
			p.Boundary = d[0]
		}
		if d := list(c.session); d != nil {
			p.Session = d[0]
		}
		got := p.Decide(&Request{
			Principal: role, Action: read, Resource: secret,
			Keys: map[string][]string{"aws:sourcevpc": {"vpc-1"}, "aws:gone": {}},
		})
		require.Equal(t, c.want, got, name)
	}
}

// TestParseRefuses: a policy that is not understood whole is not evaluated.
func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		``, `{}`, `[]`, `{"Statement":[{"Effect":"Permit","Action":"*"}]}`, `{"Statement":[{"Effect":"Allow"}]}`,
		`{"Statement":[{"Effect":"Allow","Action":"*","Ressource":"*"}]}`,
		`{"Statement":[{"Effect":"Allow","Action":{"a":1}}]}`,
	} {
		_, err := Parse(text)
		require.Error(t, err, text)
	}
}

// TestMoreKnowledgeChangesNoAnswer: an answer that does not depend on an unknown key is the same
// whatever the key is.
func TestMoreKnowledgeChangesNoAnswer(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		statements := ""
		for range rapid.IntRange(1, 4).Draw(rt, "statements") {
			if statements != "" {
				statements += ","
			}
			statements += says(rapid.SampledFrom([]string{"Allow", "Deny"}).Draw(rt, "effect"),
				`,"Condition":{"`+rapid.SampledFrom([]string{
					"StringEquals", "StringNotEquals", "StringLike", "StringEqualsIfExists", "ArnLike", "Null",
				}).Draw(rt, "operator")+`":{"`+rapid.SampledFrom([]string{"aws:a", "aws:b"}).Draw(rt, "key")+`":"`+
					rapid.SampledFrom([]string{"true", "x", "x*"}).Draw(rt, "value")+`"}}`)
		}
		p := &Policies{Identity: []*Document{doc(t, "["+statements+"]")}}
		ask := func(keys map[string][]string) Answer {
			return p.Decide(&Request{Principal: role, Action: read, Resource: secret, Keys: keys})
		}
		before := ask(map[string][]string{"aws:a": {"x"}})
		after := ask(map[string][]string{
			"aws:a": {"x"}, "aws:b": rapid.SampledFrom([][]string{{}, {"x"}, {"xy"}, {"true"}}).Draw(rt, "b"),
		})
		if before != Unknown {
			require.Equal(rt, before, after, statements)
		}
	})
}
