package document

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// call is what IAM knows of where a call comes from (IAM User Guide, "Global
// condition context keys"): the keys that are absent are not there.
type call map[string]string

// refuses reports whether a policy denies the call whoever makes it, as IAM
// would: all operators of a condition hold, and those that are negated hold too
// where their key is absent.
func refuses(t *testing.T, p Policy, c call) bool {
	t.Helper()
	return slices.ContainsFunc(p.Statement, func(s Statement) bool {
		if s.Effect != Deny {
			return false
		}
		for operator, keys := range s.Condition {
			for key, values := range keys {
				got, there := c[key]
				holds := false
				switch operator {
				case "StringNotEquals", "ArnNotEquals":
					holds = !there || !slices.Contains(values, got)
				case "NotIpAddress":
					holds = !there || !slices.ContainsFunc(values, func(v string) bool { return netip.MustParseAddr(v) == netip.MustParseAddr(got) })
				case "Bool":
					holds = there && slices.Contains(values, got)
				case "Null":
					holds = values[0] == map[bool]string{true: "false", false: "true"}[there]
				default:
					require.Failf(t, "not known here", "%s", operator)
				}
				if !holds {
					return false
				}
			}
		}
		return true
	})
}

// Credentials of the control plane are of use in its own network only, and so
// is the right to read a secret.
func TestStolenCredentialsAreOfNoUse(t *testing.T) {
	t.Parallel()
	const own, other, endpoint = "vpc-0123456789abcdef0", "vpc-0fedcba9876543210", "vpce-0123456789abcdef0"
	isolated := From{VPC: own}
	for name, x := range map[string]struct {
		control, secret Policy
		own, elsewhere  []call
	}{
		"isolated": {
			Control{Place: here, Bundles: store, Key: key, From: isolated}.Policy(), Secret(secret("prod/github"), []ARN{role}, From{Endpoint: endpoint}),
			[]call{{"aws:SourceVpc": own, "aws:SourceVpce": endpoint}},
			[]call{{"aws:SourceIp": "198.51.100.7"}, {"aws:SourceIp": "192.0.2.1"}, {"aws:SourceVpc": other, "aws:SourceVpce": "vpce-0fedcba9876543210"}},
		},
		"shared": {
			Control{Place: here, Bundles: store, Key: key, From: shared}.Policy(), Secret(secret("prod/github"), []ARN{role}, shared),
			[]call{{"aws:SourceIp": "192.0.2.1"}, {"aws:SourceVpc": own, "aws:SourceVpce": endpoint}},
			[]call{{"aws:SourceIp": "198.51.100.7"}, {"aws:SourceVpc": other, "aws:SourceVpce": "vpce-0fedcba9876543210"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, policy := range []Policy{x.control, x.secret} {
				for _, from := range x.own {
					from["aws:PrincipalArn"], from["aws:ViaAWSService"] = string(role), "false"
					require.False(t, refuses(t, policy, from), "%v", from)
				}
				for _, from := range x.elsewhere {
					from["aws:PrincipalArn"], from["aws:ViaAWSService"] = string(role), "false"
					require.True(t, refuses(t, policy, from), "%v", from)
				}
			}
			// What Secrets Manager asks of KMS for the role comes from neither.
			require.False(t, refuses(t, x.control, call{"aws:PrincipalArn": string(role), "aws:ViaAWSService": "true"}))
		})
	}
}
