package cloud

import (
	"net/netip"
	"slices"

	"github.com/postern/postern/plan"
)

const https = 443

// Ports returns the ports of the policy's destinations, and the HTTPS port, sorted.
func Ports(p *plan.Plan) []uint16 {
	ports := []uint16{https}
	for _, agent := range p.Agents {
		for _, r := range agent.Rules {
			if !r.Deny {
				ports = append(ports, r.Port)
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
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
