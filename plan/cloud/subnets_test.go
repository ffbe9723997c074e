package cloud

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Whatever ranges the checks let pass: every subnet is one that AWS has, inside
// its own network, apart from all others, and every gate is an address of its own.
func TestSubnetsAreApart(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		zones := rapid.IntRange(1, MaxZones).Draw(t, "zones")
		agents := netip.PrefixFrom(netip.MustParseAddr("10.1.0.0"), rapid.IntRange(14, 28).Draw(t, "agents")).Masked()
		egress := netip.PrefixFrom(netip.MustParseAddr("172.16.0.0"), rapid.IntRange(14, 28).Draw(t, "egress")).Masked()
		if CheckAgents(agents, zones) != nil || CheckEgress(egress) != nil {
			t.Skip("refused")
		}
		a := &AWS{AgentsCIDR: agents, EgressCIDR: egress}
		var all []netip.Prefix
		for _, tier := range []Tier{TierGate, TierAgents, TierPublic, TierProxies, TierControl, TierServices} {
			within := egress
			if tier == TierGate || tier == TierAgents {
				within = agents
			}
			for zone := range zones {
				p := a.Subnet(tier, zone)
				require.Equal(t, p.Masked(), p)
				require.LessOrEqual(t, p.Bits(), 28)
				require.True(t, within.Contains(p.Addr()) && within.Bits() < p.Bits(), "%s of %s in %s", p, tier, within)
				for _, other := range all {
					require.False(t, p.Overlaps(other), "%s and %s", p, other)
				}
				all = append(all, p)
			}
		}
		for zone := range zones {
			require.True(t, a.Subnet(TierGate, zone).Contains(a.Gate(zone)))
		}
	})
}

// What is refused says why; a shared network is checked as its halves are used.
func TestChecks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cidr  string
		zones int
		want  string
	}{
		{"10.0.0.0/22", 6, ""},
		{"10.0.0.0/23", 6, "too small"},
		{"10.0.0.0/15", 1, "too large"},
		{"8.8.0.0/16", 1, "is not private"},
		{"10.0.0.1/20", 1, "is not the first address"},
		{"fd00::/48", 1, "is not IPv4"},
	} {
		err := CheckAgents(netip.MustParsePrefix(c.cidr), c.zones)
		if c.want == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, c.want)
		}
	}
	require.NoError(t, CheckShared(netip.MustParsePrefix("10.0.0.0/21"), 6))
	require.ErrorContains(t, CheckShared(netip.MustParsePrefix("10.0.0.0/22"), 6), "too small for 6 zones")
	agents, egress := Halves(netip.MustParsePrefix("10.0.0.0/19"))
	require.Equal(t, "10.0.0.0/20 10.0.16.0/20", agents.String()+" "+egress.String())
}
