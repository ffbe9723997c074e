package cloud

import (
	"net/netip"
	"slices"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/plan/network"
)

const https = 443

// Ports returns the ports of the policy's destinations, and the HTTPS port, sorted.
func Ports(p *plan.Plan) []uint16 {
	ports := []uint16{https}
	for i := range p.Agents {
		for j := range p.Agents[i].Rules {
			r := &p.Agents[i].Rules[j]
			if r.Deny {
				continue
			}
			port := r.Port
			if r.Upstream != nil { // it is elsewhere
				if ap, err := netip.ParseAddrPort(r.Upstream.Address); err == nil {
					port = ap.Port()
				}
			}
			ports = append(ports, port)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// ControlGoesOut reports whether the control plane must reach the internet for the policy: to mint
// tokens, or to read a secret that is not in AWS.
func ControlGoesOut(p *plan.Plan) bool {
	return slices.ContainsFunc(p.Credentials, func(c plan.Credential) bool {
		ref, err := plan.ParseReference(c.Secret)
		return err != nil || ref.Source != plan.SourceAWSSecretsManager || c.Kind.Mints()
	})
}

// Beyond returns the ranges that are everywhere but in the private network that has a part of the
// same: everywhere but 10.0.0.0/8 for 10.80.0.0/20.
func Beyond(p netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for bits := 1; bits <= p.Bits(); bits++ {
		// The half of what is left that does not have p.
		half := netip.PrefixFrom(p.Addr(), bits).Masked()
		out = append(out, netip.PrefixFrom(flip(half.Addr(), bits), bits))
		if network.Private(half) {
			break
		}
	}
	return out
}

// flip returns the address with another bit at the end of a prefix of that length.
func flip(a netip.Addr, bits int) netip.Addr {
	b := a.As4()
	b[(bits-1)/8] ^= 0x80 >> ((bits - 1) % 8)
	return netip.AddrFrom4(b)
}

// Resolvers are the DNS servers that the proxies are told to ask. [AWS.Validate] has refused others
// than these.
func Resolvers(p *plan.Plan) []netip.AddrPort {
	var out []netip.AddrPort
	for _, r := range p.Resolvers {
		if ap, err := netip.ParseAddrPort(r); err == nil && ap.Addr().Is4() {
			out = append(out, ap)
		}
	}
	return out
}
