package packet_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postern/postern/policies/packet"
)

// The universe of the property tests: the packets between a few addresses of each version of IP,
// at the ends of the ranges and in their middle.
var (
	universe = func() []packet.Packet {
		var all []packet.Packet
		for _, addrs := range [][]string{
			{"0.0.0.0", "10.0.0.1", "10.0.0.2", "127.255.255.255", "128.0.0.0", "255.255.255.255"},
			{"::", "fd00:ec2::253", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		} {
			for _, from := range addrs {
				for _, to := range addrs {
					for _, protocol := range []uint8{0, 6, 17, 255} {
						for _, port := range []uint16{0, 53, 443, 65535} {
							all = append(all, packet.Packet{
								Source: netip.MustParseAddr(from), Destination: netip.MustParseAddr(to),
								Protocol: protocol, Port: port,
							})
						}
					}
				}
			}
		}
		return all
	}()
	prefixes = []string{
		"0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/30", "10.0.0.1/32", "255.255.255.255/32", "::/0", "::/1",
		"fd00:ec2::253/128",
	}
)

// basic draws a set that is simple enough to say for each packet, without the package, whether the
// set has it.
func basic(t *rapid.T) (packet.Set, func(packet.Packet) bool) {
	prefix := func(label string) netip.Prefix {
		return netip.MustParsePrefix(rapid.SampledFrom(prefixes).Draw(t, label))
	}
	first := rapid.SampledFrom([]uint16{0, 53, 443, 65535}).Draw(t, "first")
	last := rapid.SampledFrom([]uint16{first, 65535}).Draw(t, "last")
	low := rapid.SampledFrom([]uint8{0, 6, 17, 255}).Draw(t, "low")
	high := rapid.SampledFrom([]uint8{low, 255}).Draw(t, "high")
	from, to := prefix("from"), prefix("to")
	set := packet.From(from).Intersect(packet.To(to)).
		Intersect(packet.On(packet.Span[uint8]{First: low, Last: high}, packet.Span[uint16]{First: first, Last: last}))
	return set, func(p packet.Packet) bool {
		return from.Contains(p.Source) && to.Contains(p.Destination) && low <= p.Protocol && p.Protocol <= high &&
			first <= p.Port && p.Port <= last
	}
}

// drawn draws a union of basic sets, without some others.
func drawn(t *rapid.T) (packet.Set, func(packet.Packet) bool) {
	set, has := basic(t)
	for range rapid.IntRange(0, 4).Draw(t, "more") {
		other, also := basic(t)
		before := has
		if rapid.Bool().Draw(t, "without") {
			set, has = set.Minus(other), func(p packet.Packet) bool { return before(p) && !also(p) }
		} else {
			set, has = set.Union(other), func(p packet.Packet) bool { return before(p) || also(p) }
		}
	}
	return set, has
}

func TestSetsAreWhatBruteForceSays(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, inA := drawn(t)
		b, inB := drawn(t)
		union, both, without := a.Union(b), a.Intersect(b), a.Minus(b)
		for _, p := range universe {
			require.Equal(t, inA(p), a.Has(p), "%v", p)
			require.Equal(t, inA(p) || inB(p), union.Has(p), "union: %v", p)
			require.Equal(t, inA(p) && inB(p), both.Has(p), "intersection: %v", p)
			require.Equal(t, inA(p) && !inB(p), without.Has(p), "difference: %v", p)
		}
		for _, s := range []packet.Set{a, union, both, without} {
			p, ok := s.Witness()
			require.Equal(t, !s.Empty(), ok)
			require.Equal(t, ok, s.Has(p))
			for i := range s {
				require.True(t, s[i:i+1].Intersect(s[i+1:]).Empty(), "boxes overlap")
			}
		}
		require.True(t, both.Within(a) && a.Within(union) && without.Intersect(b).Empty())
		require.True(t, a.Within(without.Union(both)), "nothing is lost")
	})
}

func TestHalvesAreTheWhole(t *testing.T) {
	t.Parallel()
	for _, p := range universe {
		require.True(t, packet.All().Has(p), "%v", p)
	}
	halves := packet.To(netip.MustParsePrefix("0.0.0.0/1"), netip.MustParsePrefix("128.0.0.0/1"))
	require.True(t, packet.To(netip.MustParsePrefix("0.0.0.0/0")).Within(halves))
	require.False(t, packet.All().Within(halves), "there is IPv6 too")
	mapped := packet.To(netip.MustParsePrefix("::ffff:10.0.0.0/104"))
	require.True(t, mapped.Within(packet.To(netip.MustParsePrefix("10.0.0.0/8"))),
		"a mapped address is the IPv4 address")
}

// one returns a packet of TCP.
func one(from, to string, port uint16) packet.Packet {
	return packet.Packet{
		Source: netip.MustParseAddr(from), Destination: netip.MustParseAddr(to), Protocol: packet.TCP, Port: port,
	}
}

// requests are what a client network asks of a server, over both versions of IP.
func requests() packet.Set {
	https := packet.On(packet.Span[uint8]{First: packet.TCP, Last: packet.TCP},
		packet.Span[uint16]{First: 443, Last: 443})
	return packet.From(netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("fd00::/64")).
		Intersect(packet.To(netip.MustParsePrefix("10.0.1.5/32"), netip.MustParsePrefix("fd00:1::5/128"))).
		Intersect(https)
}

func TestReplies(t *testing.T) {
	t.Parallel()
	replies := requests().Replies(packet.Span[uint16]{First: 1024, Last: 65535})
	for p, is := range map[packet.Packet]bool{
		one("10.0.1.5", "10.0.0.9", 1024): true, one("10.0.1.5", "10.0.0.9", 65535): true,
		one("fd00:1::5", "fd00::9", 1024): true,
		one("10.0.1.5", "10.0.0.9", 1023): false, one("10.0.0.9", "10.0.1.5", 1024): false,
		one("10.0.1.6", "10.0.0.9", 1024): false, one("10.0.1.5", "10.0.2.9", 1024): false,
	} {
		require.Equal(t, is, replies.Has(p), "%v", p)
		p.Protocol = packet.UDP
		require.False(t, replies.Has(p), "%v", p)
	}
}

func TestSent(t *testing.T) {
	t.Parallel()
	sent := requests().Sent(netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("fd00:2::1/128"))
	for p, is := range map[packet.Packet]bool{
		one("192.0.2.1", "10.0.1.5", 443): true, one("fd00:2::1", "fd00:1::5", 443): true,
		one("10.0.0.9", "10.0.1.5", 443): false, one("192.0.2.1", "10.0.1.5", 444): false,
		one("192.0.2.1", "10.0.1.6", 443): false, one("192.0.2.1", "fd00:1::5", 443): false,
		one("fd00:2::1", "10.0.1.5", 443): false,
	} {
		require.Equal(t, is, sent.Has(p), "%v", p)
		p.Protocol = packet.UDP
		require.False(t, sent.Has(p), "%v", p)
	}
	for _, b := range sent { // no box is of two versions
		require.Equal(t, b.Source.First.Is4(), b.Destination.First.Is4())
	}
}

func TestWitness(t *testing.T) {
	t.Parallel()
	for protocols, want := range map[packet.Span[uint8]]string{
		{First: 0, Last: 255}:  "tcp 0.0.0.0 -> 0.0.0.0:53",
		{First: 0, Last: 6}:    "tcp 0.0.0.0 -> 0.0.0.0:53",
		{First: 17, Last: 255}: "udp 0.0.0.0 -> 0.0.0.0:53",
		{First: 0, Last: 5}:    "protocol 5 0.0.0.0 -> 0.0.0.0",
	} {
		p, ok := packet.On(protocols, packet.Span[uint16]{First: 53, Last: 80}).Witness()
		require.True(t, ok)
		require.Equal(t, want, p.String())
	}
}
