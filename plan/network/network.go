// Package network says which addresses are not the internet's: where no name may lead, where clouds
// answer with credentials, and what networks of one's own may use.
package network

import (
	"net/netip"
	"slices"
)

func prefixes(written ...string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(written))
	for _, p := range written {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// neverResolved has the private, loopback, link-local (metadata), shared, benchmark, multicast and
// reserved addresses, and the IPv6 forms that embed an IPv4 address.
// RFC 6890, RFC 4291, RFC 6052, RFC 3056, RFC 4380.
//
// 168.63.129.16, 100.100.100.200 (in 100.64/10) and 192.0.0.192 are metadata services outside the
// link-local range.
var neverResolved = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "172.16.0.0/12",
	"192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
	"::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "fc00::/7", "fe80::/10",
	"fec0::/10", "ff00::/8",
)

// NeverResolved returns the ranges of addresses to which no name may lead. An operator can still
// name such an address as a destination's upstream, unless it is that of [Metadata].
func NeverResolved() []netip.Prefix { return slices.Clone(neverResolved) }

// metadataServices are all within neverResolved.
var metadataServices = prefixes(
	"169.254.0.0/16", "fd00:ec2::/32", "fd20:ce::254/128", "100.100.100.200/32", "168.63.129.16/32",
)

// Metadata reports whether a cloud's metadata service, which answers with credentials, can be at
// the address. No destination may be there, whoever writes it.
func Metadata(a netip.Addr) bool {
	return slices.ContainsFunc(metadataServices, func(p netip.Prefix) bool { return p.Contains(a) })
}

// privateNetworks are those of RFC 1918, and RFC 6598's.
var privateNetworks = prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")

// Near reports whether the address is this machine's own, or one that nobody on the internet has.
func Near(a netip.Addr) bool {
	return a.IsLoopback() || a.IsPrivate() || Private(netip.PrefixFrom(a, a.BitLen()))
}

// Private reports whether all of the range is addresses that nobody on the internet has, so
// that a network of a stack's own may use them.
func Private(p netip.Prefix) bool {
	return slices.ContainsFunc(privateNetworks, func(r netip.Prefix) bool {
		return r.Bits() <= p.Bits() && r.Contains(p.Addr())
	})
}
