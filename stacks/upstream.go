package stacks

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
)

// metadata are the places of cloud metadata services, which answer with
// credentials.
var metadata = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fd00:ec2::/32"),
	netip.MustParsePrefix("fd20:ce::254/128"), netip.MustParsePrefix("100.100.100.200/32"), netip.MustParsePrefix("168.63.129.16/32"),
}

func (l *loader) upstream(n *node) *plan.Upstream {
	u := &plan.Upstream{}
	if !l.mapping(n, "upstream", "address", "ca") {
		return u
	}
	const form = `write "ip:port" or "unix:path"`
	address := n.get("address")
	if address == nil {
		l.at(n, "write address: and "+form[len("write "):], "upstream has no address")
	} else if t, ok := l.text(address, "address"); ok {
		if path, ok := strings.CutPrefix(t, "unix:"); ok {
			if path == "" {
				l.at(address, form, "address has no path")
			} else if strings.ContainsFunc(path, unicode.IsControl) {
				l.at(address, form, "address has a control character")
			}
			u.Address = "unix:" + l.resolve(path)
			l.trusted(address, l.resolve(path), "have its service listen in a folder where no agent works, and name that socket here")
		} else if ap, ok := l.addrPort(address, t, form); ok {
			if slices.ContainsFunc(metadata, func(p netip.Prefix) bool { return p.Contains(ap.Addr()) }) {
				l.at(address, "write the address of the service itself", "address %s is that of a cloud's metadata service", t)
			}
			u.Address = ap.String()
		}
	}
	if ca := n.get("ca"); ca != nil {
		if t, ok := l.text(ca, "ca"); ok {
			l.trusted(ca, l.resolve(t), "")
			u.CA = l.certificates(ca, l.resolve(t))
		}
	}
	return u
}

func (l *loader) resolvers(n *node) []string {
	var out []string
	l.texts(n, "resolvers", "remove the key to use the resolvers of the machine", func(item *node, t string) {
		if ap, ok := l.addrPort(item, t, `write "ip:port", such as "192.0.2.53:53"`); ok {
			out = append(out, ap.String())
		}
	})
	return out
}

// addrPort returns the address in the form in which it is compared: IPv4 in
// IPv6 clothes is IPv4.
func (l *loader) addrPort(n *node, t, form string) (netip.AddrPort, bool) {
	ap, err := netip.ParseAddrPort(t)
	if err != nil || ap.Port() == 0 || ap.Addr().Zone() != "" {
		l.at(n, form, "%q is not a valid address", t)
		return netip.AddrPort{}, false
	}
	addr := ap.Addr().Unmap()
	if addr.IsUnspecified() || addr.IsMulticast() {
		l.at(n, form, "%q is the address of nobody in particular", t)
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(addr, ap.Port()), true
}

// maxCA bounds what goes into a plan.
const maxCA = 256 << 10

// certificates returns the PEM file at path, which must have certificates and
// nothing else: a key in it would go into the plan.
func (l *loader) certificates(n *node, path string) string {
	data, err := hostpath.ReadFile(path, maxCA)
	if errors.Is(err, fs.ErrNotExist) {
		l.at(n, "create it, or for the demo run `bin/postern demo --prepare`", "%s does not exist", path)
		return ""
	}
	if err != nil {
		l.unreadable(n, "name a PEM file with only the authorities of this destination", path, err)
		return ""
	}
	var out []byte
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			l.at(n, "name a file that has only certificates", "%s has a block of type %s", path, block.Type)
			return ""
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			l.at(n, "", "%s has a certificate that cannot be parsed", path)
			return ""
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
	}
	if len(out) == 0 {
		l.at(n, "name a PEM file", "%s has no certificate", path)
	}
	return string(out)
}

// unreadable records that the file at path, which n names, was not read.
func (l *loader) unreadable(n *node, hint, path string, err error) {
	if unfit := (*hostpath.UnfitError)(nil); errors.As(err, &unfit) {
		l.at(n, hint, "%s", unfit)
		return
	}
	var e *fs.PathError
	if errors.As(err, &e) {
		err = e.Err
	}
	l.at(n, hint, "%s cannot be read: %s", path, err)
}

// resolve returns the absolute form of a path that is relative to the stack file.
func (l *loader) resolve(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(l.dir, path)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
