package stacks

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/plan/network"
	"github.com/postern/postern/stacks/yaml"
)

// upstream reads where a destination is, and who vouches for it.
func (l *loader) upstream(n *yaml.Node) *plan.Upstream {
	u := &plan.Upstream{}
	if !l.Mapping(n, "upstream", "address", "ca", "plain_http") {
		return u
	}
	const form = `write "ip:port" or "unix:path"`
	address, ca := n.Get("address"), n.Get("ca")
	near := true
	if address == nil && ca == nil {
		l.At(n, "write address: and "+form[len("write "):]+", or ca: and a PEM file",
			"upstream has neither an address nor a ca")
	} else if address == nil {
		near = false
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
			if network.Metadata(ap.Addr()) {
				l.At(address, "write the address of the service itself", "address %s is that of a cloud's metadata service", t)
			}
			u.Address, near = ap.String(), network.Near(ap.Addr())
		}
	}
	if plain := n.Get("plain_http"); plain != nil && l.Boolean(plain, "plain_http") {
		u.Plain = true
		switch {
		case !near:
			l.At(plain, "remove it, or write the address of this machine or of a private network",
				"plain_http is only for an address of loopback or of a private network: "+
					"on the way elsewhere others read and change what is sent")
		case ca != nil:
			l.At(ca, "remove one of them", "over plain_http no authority vouches for anybody")
		}
	}
	if ca != nil {
		u.CA = l.authorities(ca)
	}
	return u
}

// authorities reads the certificates of a PEM file, or of a list of them.
func (l *loader) authorities(n *yaml.Node) string {
	var all strings.Builder
	read := func(item *yaml.Node, path string) {
		l.trusted(item, l.Resolve(path), "")
		all.WriteString(l.Certificates(item, l.Resolve(path)))
	}
	if n.Kind == yaml.KindList {
		l.Texts(n, "ca", "remove the key to trust the system's authorities", read)
	} else if t, ok := l.Text(n, "ca"); ok {
		read(n, t)
	}
	return all.String()
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
		l.At(n, form, "%q is not the address of one machine", t)
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(addr, ap.Port()), true
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
