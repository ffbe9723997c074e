package cloud

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/postern/postern/plan/network"
)

// Tier is a row of subnets, one in each zone.
type Tier string

// The tiers of the agents' network.
const (
	// TierGate contains the agents' way to the proxies, and nothing else.
	TierGate Tier = "gate"
	// TierAgents contains the agents' machines.
	TierAgents Tier = "agents"
)

// The tiers of the egress network.
const (
	TierPublic   Tier = "public"   // NAT gateways
	TierProxies  Tier = "proxies"  // load balancer, Envoys
	TierControl  Tier = "control"  // the control plane
	TierServices Tier = "services" // endpoints of AWS services
)

const (
	// gateBits is the smallest subnet that AWS has.
	gateBits = 28
	// zoneBits is room for eight zones, of which six can be used.
	zoneBits = 3
	// egressTierBits is room for the four tiers of the egress network.
	egressTierBits = 2
	// largestVPC is the largest range that AWS has.
	largestVPC = 16
	// gateHost is which address of a gate subnet leads to the proxies. AWS
	// keeps the first four and the last.
	gateHost = 10
	// platformHosts is the last address that AWS keeps. The endpoints that Fargate needs follow it.
	platformHosts = 3
)

// MaxZones is the highest number of zones that a region has, and the number of their letters.
const MaxZones = 6

// Place returns the place, in the alphabet, of the letter of the zone with that index.
// The place decides the zone's addresses and rules, so that they stay the same
// whichever other zones there are.
func (a *AWS) Place(zone int) int { return place(a.Zones[zone]) }

func place(zone string) int { return int(zone[len(zone)-1] - 'a') }

var egressTiers = map[Tier]int{TierPublic: 0, TierProxies: 1, TierControl: 2, TierServices: 3}

// Subnet returns the range of a tier in the zone with that index. It panics if the tier or zone
// does not exist. The ranges must have passed the Check functions.
func (a *AWS) Subnet(tier Tier, index int) netip.Prefix {
	zone := a.Place(index)
	if zone < 0 || zone >= MaxZones {
		panic(fmt.Sprintf("cloud: there is no zone %s", a.Zones[index]))
	}
	switch tier {
	case TierGate:
		return nth(a.AgentsCIDR, gateBits, zone)
	case TierAgents: // the first eighth is the gates'
		return nth(a.AgentsCIDR, a.AgentsCIDR.Bits()+zoneBits, zone+1)
	}
	i, ok := egressTiers[tier]
	if !ok {
		panic("cloud: there is no tier " + string(tier))
	}
	bits := a.EgressCIDR.Bits() + egressTierBits
	return nth(nth(a.EgressCIDR, bits, i), bits+zoneBits, zone)
}

// Gate returns the fixed address, in the zone with that index, at which agents reach the proxies.
// Agents need no DNS to find it.
func (a *AWS) Gate(zone int) netip.Addr {
	return add(a.Subnet(TierGate, zone).Addr(), gateHost)
}

// Platform returns the fixed address, in the zone with that index, of the nth endpoint that Fargate
// needs, counted from 1.
func (a *AWS) Platform(zone, n int) netip.Addr {
	return add(a.Subnet(TierGate, zone).Addr(), platformHosts+n)
}

// CheckAgents returns an error if the range is not valid for the agents' network in the zones.
func CheckAgents(p netip.Prefix, zones []string) error {
	last := 0
	for _, zone := range zones {
		last = max(last, place(zone))
	}
	least := 25 // an eighth must be a subnet
	for gates := (last + 1) << (32 - gateBits); 1<<(32-least-zoneBits) < gates; {
		least--
	}
	return check(p, least)
}

// CheckEgress returns an error if the range is not valid for the egress network.
func CheckEgress(p netip.Prefix) error {
	return check(p, gateBits-egressTierBits-zoneBits)
}

// CheckShared returns an error if the range is not valid for both networks together.
func CheckShared(p netip.Prefix, zones []string) error {
	if err := check(p, gateBits-egressTierBits-zoneBits-1); err != nil {
		return err
	}
	agents, _ := Halves(p)
	if CheckAgents(agents, zones) != nil {
		return fmt.Errorf("%s is too small for the zones %s", p, strings.Join(zones, ", "))
	}
	return nil
}

// Halves splits a shared range into the ranges of the two networks.
func Halves(p netip.Prefix) (agents, egress netip.Prefix) {
	return nth(p, p.Bits()+1, 0), nth(p, p.Bits()+1, 1)
}

func check(p netip.Prefix, least int) error {
	switch {
	case !p.Addr().Is4():
		return fmt.Errorf("%s is not IPv4", p)
	case p != p.Masked():
		return fmt.Errorf("%s is not the first address of its range, %s is", p.Addr(), p.Masked())
	case !network.Private(p):
		return fmt.Errorf("%s is not private", p)
	case p.Bits() > least:
		return fmt.Errorf("%s is too small: it must be a /%d or larger", p, least)
	case p.Bits() < largestVPC:
		return fmt.Errorf("%s is too large: AWS has networks up to a /%d", p, largestVPC)
	}
	return nil
}

// nth is the range with that index among those with bits in p.
func nth(p netip.Prefix, bits, i int) netip.Prefix {
	return netip.PrefixFrom(add(p.Masked().Addr(), i<<(32-bits)), bits)
}

func add(a netip.Addr, n int) netip.Addr {
	b := a.As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n))
	return netip.AddrFrom4(b)
}
