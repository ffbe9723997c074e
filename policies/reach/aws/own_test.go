package aws_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/policies/reach"
	"github.com/postern/postern/policies/reach/aws"
)

// TestOnesOwnAssertions: what somebody asserts is proved like the rest, and a name that nobody has
// is not proved.
func TestOnesOwnAssertions(t *testing.T) {
	t.Parallel()
	n := aws.Read(reference(t, "shared").Graph, nil)
	reach.Prove("prod", n, false)
	for line, want := range map[string]reach.Result{
		"coder -> 8.8.8.8/32: never":               reach.Holds,
		"agents -> 0.0.0.0/0 udp/443: never":       reach.Holds,
		"coder -> 8.8.8.8/32: must":                reach.Fails,
		"proxies -> 8.8.8.8/32 tcp/443: must":      reach.Holds,
		"proxies -> 8.8.8.8/32 tcp/443: never":     reach.Fails,
		"proxies -> 8.8.8.8/32 tcp/25: never":      reach.Holds,
		"control-plane -> 8.8.8.8/32 tcp/25: must": reach.Fails,
		"nobody -> 8.8.8.8/32: never":              reach.Indeterminate,
	} {
		list, err := reach.ParseOwn("prod.reach", "# mine\n\n"+line+"\n")
		require.NoError(t, err, line)
		verdicts := n.Own(list)
		require.NotEmpty(t, verdicts, line)
		for _, v := range verdicts {
			require.Equal(t, want, v.Result, line)
			require.Equal(t, want == reach.Fails && v.Note == "", len(v.Witness) > 0 && v.Result == reach.Fails, line)
		}
	}
}

// TestOnesOwnMust: without an answer nothing is reached.
func TestOnesOwnMust(t *testing.T) {
	t.Parallel()
	for what, with := range map[string]map[string]any{
		"nothing": nil, "the answer": {
			"networkAclId": ref{"ec2/networkAcl", "-network-egress"}, "egress": false, "ruleNumber": 1.0,
			"ruleAction": "deny", "protocol": "tcp", "fromPort": 1024.0, "toPort": 65535.0, "cidrBlock": "0.0.0.0/0",
		},
	} {
		c := reference(t, "shared")
		if with != nil {
			c.add("ec2/networkAclRule", "mistake", with)
		}
		n := aws.Read(c.Graph, nil)
		reach.Prove("prod", n, false)
		list, err := reach.ParseOwn("prod.reach", "proxies -> 198.51.100.7/32 tcp/443: must")
		require.NoError(t, err)
		for _, v := range n.Own(list) {
			require.Equal(t, with == nil, v.Result == reach.Holds, what)
			require.Equal(t, with != nil, strings.Contains(v.Note, "drops the answer"), what)
		}
	}
}

// TestOnesOwnMistakes: a line that is not understood is an error with its place.
func TestOnesOwnMistakes(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"coder 8.8.8.8/32: never":            `"coder 8.8.8.8/32: never" is not a valid assertion`,
		"coder -> 8.8.8.8/32":                "is not a valid assertion",
		"coder -> 8.8.8.8/32: maybe":         `"maybe" is neither never nor must`,
		"coder -> 8.8.8.8: never":            `"8.8.8.8" is not a valid network`,
		"coder -> 8.8.8.8/8: never":          `"8.8.8.8/8" is not a valid network`,
		"coder -> 8.8.8.0/24 443: never":     `"443" is not a valid port`,
		"coder -> 8.8.8.0/24 tcp/0x1: never": `"tcp/0x1" is not a valid port`,
		"coder -> 8.8.8.0/24 a b: never":     "at most one port",
	} {
		_, err := reach.ParseOwn("prod.reach", "\n"+line)
		require.ErrorContains(t, err, "prod.reach:2: ", line)
		require.ErrorContains(t, err, want, line)
	}
}
