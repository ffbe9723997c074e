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
		all := []string{"eu-west-1a", "eu-west-1b", "eu-west-1c", "eu-west-1d", "eu-west-1e", "eu-west-1f"}
		zones := rapid.SliceOfNDistinct(rapid.SampledFrom(all), 1, MaxZones, rapid.ID).Draw(t, "zones")
		agents := netip.PrefixFrom(netip.MustParseAddr("10.1.0.0"), rapid.IntRange(14, 28).Draw(t, "agents")).Masked()
		egress := netip.PrefixFrom(netip.MustParseAddr("172.16.0.0"), rapid.IntRange(14, 28).Draw(t, "egress")).Masked()
		if CheckAgents(agents, zones) != nil || CheckEgress(egress) != nil {
			t.Skip("refused")
		}
		a := &AWS{Zones: zones, AgentsCIDR: agents, EgressCIDR: egress}
		var ranges []netip.Prefix
		for _, tier := range []Tier{TierGate, TierAgents, TierPublic, TierProxies, TierControl, TierServices} {
			within := egress
			if tier == TierGate || tier == TierAgents {
				within = agents
			}
			for zone := range zones {
				p := a.Subnet(tier, zone)
				require.Equal(t, p.Masked(), p)
				require.LessOrEqual(t, p.Bits(), 28)
				require.True(t, within.Contains(p.Addr()) && within.Bits() < p.Bits(), "%s of %s in %s",
					p, tier, within)
				for _, other := range ranges {
					require.False(t, p.Overlaps(other), "%s and %s", p, other)
				}
				ranges = append(ranges, p)
			}
		}
		for zone := range zones {
			gate := a.Subnet(TierGate, zone)
			require.True(t, gate.Contains(a.Gate(zone)))
			for n := 1; n <= 4; n++ { // endpoints that Fargate needs
				require.True(t, gate.Contains(a.Platform(zone, n)))
				require.NotEqual(t, a.Gate(zone), a.Platform(zone, n))
			}
			// Its addresses are those that it has on its own.
			alone := &AWS{Zones: zones[zone : zone+1], AgentsCIDR: agents, EgressCIDR: egress}
			require.Equal(t, gate, alone.Subnet(TierGate, 0))
		}
	})
}

// What is refused says why; a shared network is checked as its halves are used.
func TestChecks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cidr string
		zone string // the last one
		want string
	}{
		{"10.0.0.0/22", "f", ""},
		{"10.0.0.0/23", "f", "too small"},
		{"10.0.0.0/15", "a", "too large"},
		{"8.8.0.0/16", "a", "is not private"},
		{"10.0.0.1/20", "a", "is not the first address"},
		{"fd00::/48", "a", "is not IPv4"},
	} {
		err := CheckAgents(netip.MustParsePrefix(c.cidr), []string{"eu-west-1" + c.zone})
		if c.want == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, c.want)
		}
	}
	require.NoError(t, CheckShared(netip.MustParsePrefix("10.0.0.0/21"), []string{"us-east-1f"}))
	require.ErrorContains(t, CheckShared(netip.MustParsePrefix("10.0.0.0/22"), []string{"us-east-1f"}),
		"too small for the zones us-east-1f")
	agents, egress := Halves(netip.MustParsePrefix("10.0.0.0/19"))
	require.Equal(t, "10.0.0.0/20 10.0.16.0/20", agents.String()+" "+egress.String())
}
