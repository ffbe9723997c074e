// Package packet computes with sets of IP packets: exact union, intersection and difference of
// source, destination, protocol and port. Nothing is compared as text, so that 0.0.0.0/1 and
// 128.0.0.0/1 together are the whole internet. It imports the standard library only.
package packet

import (
	"cmp"
	"fmt"
	"net/netip"
)

// Protocols that have ports.
const (
	TCP = 6
	UDP = 17
)

// Packet is one packet. Port is the destination's; a protocol without ports has any.
type Packet struct {
	Source, Destination netip.Addr
	Protocol            uint8
	Port                uint16
}

// String returns the packet as people read it: tcp 10.64.2.0 -> 1.1.1.1:443.
func (p Packet) String() string {
	switch p.Protocol {
	case TCP:
		return fmt.Sprintf("tcp %s -> %s", p.Source, netip.AddrPortFrom(p.Destination, p.Port))
	case UDP:
		return fmt.Sprintf("udp %s -> %s", p.Source, netip.AddrPortFrom(p.Destination, p.Port))
	}
	return fmt.Sprintf("protocol %d %s -> %s", p.Protocol, p.Source, p.Destination)
}

// Span holds the values from First to Last, with both ends.
type Span[T any] struct{ First, Last T }

// Box holds the packets whose four properties are each in a span. The addresses of a span are of
// one version of IP.
type Box struct {
	Source, Destination Span[netip.Addr]
	Protocol            Span[uint8]
	Port                Span[uint16]
}

// Set is a set of packets: boxes that do not overlap. The zero value is empty. Sets are never
// changed: every operation returns another one.
type Set []Box

var (
	ip4 = spanOf(netip.MustParsePrefix("0.0.0.0/0"))
	ip6 = spanOf(netip.MustParsePrefix("::/0"))

	// AnyProtocol and AnyPort are all of them.
	AnyProtocol = Span[uint8]{0, 255}
	AnyPort     = Span[uint16]{0, 65535}
)

// All returns every packet of both versions of IP.
func All() Set {
	return Set{{ip4, ip4, AnyProtocol, AnyPort}, {ip6, ip6, AnyProtocol, AnyPort}}
}

// From returns the packets with a source in one of the prefixes.
func From(prefixes ...netip.Prefix) Set {
	var out Set
	for _, p := range prefixes {
		to := ip6
		if p.Addr().Unmap().Is4() {
			to = ip4
		}
		out = out.Union(Set{{spanOf(p), to, AnyProtocol, AnyPort}})
	}
	return out
}

// To returns the packets with a destination in one of the prefixes.
func To(prefixes ...netip.Prefix) Set {
	out := From(prefixes...)
	for i, b := range out {
		out[i].Source, out[i].Destination = b.Destination, b.Source
	}
	return out
}

// On returns the packets of the protocols to the ports.
func On(protocol Span[uint8], ports Span[uint16]) Set {
	return Set{{ip4, ip4, protocol, ports}, {ip6, ip6, protocol, ports}}
}

// Union returns the packets of either set.
func (s Set) Union(t Set) Set {
	switch {
	case len(s) == 0:
		return t
	case len(t) == 0:
		return s
	}
	return append(s[:len(s):len(s)], t.Minus(s)...)
}

// Intersect returns the packets of both sets.
func (s Set) Intersect(t Set) Set {
	var out Set
	for _, a := range s {
		for _, b := range t {
			if box, ok := a.intersect(b); ok {
				out = append(out, box)
			}
		}
	}
	return out
}

// Minus returns the packets of s that t does not have.
func (s Set) Minus(t Set) Set {
	out := s
	for _, b := range t {
		var rest Set
		for _, a := range out {
			rest = append(rest, a.minus(b)...)
		}
		out = rest
	}
	return out
}

// Empty reports whether the set has no packet.
func (s Set) Empty() bool { return len(s) == 0 }

// Within reports whether t has every packet of s.
func (s Set) Within(t Set) bool { return s.Minus(t).Empty() }

// Witness returns a packet of the set, of TCP if there is one, because people know that. It reports
// false if the set is empty.
func (s Set) Witness() (Packet, bool) {
	if len(s) == 0 {
		return Packet{}, false
	}
	b := s[0]
	protocol := min(max(b.Protocol.First, TCP), b.Protocol.Last)
	return Packet{b.Source.First, b.Destination.First, protocol, b.Port.First}, true
}

// Has reports whether the set has the packet.
func (s Set) Has(p Packet) bool {
	one := Box{
		Source: Span[netip.Addr]{p.Source, p.Source}, Destination: Span[netip.Addr]{p.Destination, p.Destination},
		Protocol: Span[uint8]{p.Protocol, p.Protocol}, Port: Span[uint16]{p.Port, p.Port},
	}
	return !s.Intersect(Set{one}).Empty()
}

// Replies returns the answers to the packets of the set: to a port that the client chose.
func (s Set) Replies(chosen Span[uint16]) Set {
	var out Set
	for _, b := range s {
		out = out.Union(Set{{b.Destination, b.Source, b.Protocol, chosen}})
	}
	return out
}

// Sent returns the packets of s as if they came from a source in one of the prefixes.
func (s Set) Sent(prefixes ...netip.Prefix) Set {
	var out Set
	for _, b := range s {
		for _, p := range prefixes {
			if p.Addr().Unmap().Is4() == b.Destination.First.Is4() {
				out = out.Union(Set{{spanOf(p), b.Destination, b.Protocol, b.Port}})
			}
		}
	}
	return out
}

// spanOf returns the addresses of a prefix.
func spanOf(p netip.Prefix) Span[netip.Addr] {
	first, bits := p.Masked().Addr(), p.Bits()
	if first.Is4In6() {
		first, bits = first.Unmap(), max(0, bits-96)
	}
	b := first.AsSlice()
	for i := bits; i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return Span[netip.Addr]{first, last}
}

// axis orders the values of one property of a packet.
type axis[T any] struct {
	compare    func(a, b T) int
	prev, next func(T) T
}

var (
	addresses = axis[netip.Addr]{netip.Addr.Compare, netip.Addr.Prev, netip.Addr.Next}
	protocols = axis[uint8]{cmp.Compare[uint8], less[uint8], more[uint8]}
	portAxis  = axis[uint16]{cmp.Compare[uint16], less[uint16], more[uint16]}
)

func less[T uint8 | uint16](v T) T { return v - 1 }
func more[T uint8 | uint16](v T) T { return v + 1 }

// overlap returns what two spans have in common. It reports false if that is nothing.
func (x axis[T]) overlap(a, b Span[T]) (Span[T], bool) {
	if x.compare(a.First, b.First) < 0 {
		a.First = b.First
	}
	if x.compare(b.Last, a.Last) < 0 {
		a.Last = b.Last
	}
	return a, x.compare(a.First, a.Last) <= 0
}

// outside calls visit with the parts of a below and above b, which overlaps it.
func (x axis[T]) outside(a, b Span[T], visit func(Span[T])) {
	if x.compare(a.First, b.First) < 0 {
		visit(Span[T]{a.First, x.prev(b.First)})
	}
	if x.compare(b.Last, a.Last) < 0 {
		visit(Span[T]{x.next(b.Last), a.Last})
	}
}

// intersect returns what two boxes have in common. It reports false if that is nothing. Sources
// come last: nearly all boxes without a common packet differ before.
func (b Box) intersect(c Box) (Box, bool) {
	var ok bool
	if b.Port, ok = portAxis.overlap(b.Port, c.Port); !ok {
		return b, false
	}
	if b.Protocol, ok = protocols.overlap(b.Protocol, c.Protocol); !ok {
		return b, false
	}
	if b.Destination, ok = addresses.overlap(b.Destination, c.Destination); !ok {
		return b, false
	}
	b.Source, ok = addresses.overlap(b.Source, c.Source)
	return b, ok
}

// minus cuts c out of b, one property after the other.
func (b Box) minus(c Box) Set {
	common, ok := b.intersect(c)
	if !ok {
		return Set{b}
	}
	var out Set
	piece := b
	addresses.outside(b.Source, common.Source, func(s Span[netip.Addr]) { piece.Source = s; out = append(out, piece) })
	piece.Source = common.Source
	addresses.outside(b.Destination, common.Destination, func(s Span[netip.Addr]) {
		piece.Destination = s
		out = append(out, piece)
	})
	piece.Destination = common.Destination
	protocols.outside(b.Protocol, common.Protocol, func(s Span[uint8]) { piece.Protocol = s; out = append(out, piece) })
	piece.Protocol = common.Protocol
	portAxis.outside(b.Port, common.Port, func(s Span[uint16]) { piece.Port = s; out = append(out, piece) })
	return out
}
