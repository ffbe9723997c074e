package stacks

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks/yaml"
)

// metadata are the places of cloud metadata services, which answer with
// credentials.
var metadata = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fd00:ec2::/32"),
	netip.MustParsePrefix("fd20:ce::254/128"), netip.MustParsePrefix("100.100.100.200/32"), netip.MustParsePrefix("168.63.129.16/32"),
}

func (l *loader) upstream(n *yaml.Node) *plan.Upstream {
	u := &plan.Upstream{}
	if !l.Mapping(n, "upstream", "address", "ca") {
		return u
	}
	const form = `write "ip:port" or "unix:path"`
	address := n.Get("address")
	if address == nil {
		l.At(n, "write address: and "+form[len("write "):], "upstream has no address")
	} else if t, ok := l.Text(address, "address"); ok {
		if path, ok := strings.CutPrefix(t, "unix:"); ok {
			if path == "" {
				l.At(address, form, "address has no path")
			} else if strings.ContainsFunc(path, unicode.IsControl) {
				l.At(address, form, "address has a control character")
			}
			u.Address = "unix:" + l.Resolve(path)
			l.trusted(address, l.Resolve(path), "have its service listen in a folder where no agent works, and name that socket here")
		} else if ap, ok := l.addrPort(address, t, form); ok {
			if slices.ContainsFunc(metadata, func(p netip.Prefix) bool { return p.Contains(ap.Addr()) }) {
				l.At(address, "write the address of the service itself", "address %s is that of a cloud's metadata service", t)
			}
			u.Address = ap.String()
		}
	}
	if ca := n.Get("ca"); ca != nil {
		if t, ok := l.Text(ca, "ca"); ok {
			l.trusted(ca, l.Resolve(t), "")
			u.CA = l.Certificates(ca, l.Resolve(t))
		}
	}
	return u
}

func (l *loader) resolvers(n *yaml.Node) []string {
	var out []string
	l.Texts(n, "resolvers", "remove the key to use the resolvers of the machine", func(item *yaml.Node, t string) {
		if ap, ok := l.addrPort(item, t, `write "ip:port", such as "192.0.2.53:53"`); ok {
			out = append(out, ap.String())
		}
	})
	return out
}

// addrPort returns the address in the form in which it is compared: IPv4 in
// IPv6 clothes is IPv4.
func (l *loader) addrPort(n *yaml.Node, t, form string) (netip.AddrPort, bool) {
	ap, err := netip.ParseAddrPort(t)
	if err != nil || ap.Port() == 0 || ap.Addr().Zone() != "" {
		l.At(n, form, "%q is not a valid address", t)
		return netip.AddrPort{}, false
	}
	addr := ap.Addr().Unmap()
	if addr.IsUnspecified() || addr.IsMulticast() {
		l.At(n, form, "%q is the address of nobody in particular", t)
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(addr, ap.Port()), true
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
