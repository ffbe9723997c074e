package stacks

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/net/idna"

	"github.com/postern/postern/plan"
)

// destination is a compiled destination: a rule without an agent.
type destination struct {
	name string
	line int
	rule plan.Rule
}

// methods are those of HTTP, of WebDAV, and QUERY.
var methods = []string{
	"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "COPY", "LOCK", "MKCOL", "MOVE",
	"PROPFIND", "PROPPATCH", "REPORT", "SEARCH", "UNLOCK",
}

// sandboxPort is where the sandbox's own proxy listens, which no gateway may take.
const sandboxPort = 3128

// destination reads one destination. It is known by its name even if something
// in it is wrong, so that the agents that use it are not blamed as well.
func (l *loader) destination(f field, gateways map[uint16]string) {
	d := &destination{name: f.key.text, line: f.key.line}
	if d.name != "" {
		l.destinations[d.name] = d
	}
	switch {
	case d.name == "default":
		l.at(f.key, "write another name", "a destination cannot be called default: that is the rule that denies the rest")
	case !destinationName.MatchString(d.name):
		l.at(f.key, "write lower-case letters, digits, hyphens and dots, such as docs or docs.example.com", "%q cannot name a destination", d.name)
	}
	what := "destination " + d.name
	if !l.mapping(f.value, what, "host", "port", "methods", "paths", "credential", "gateway", "upstream") {
		return
	}
	r := &d.rule
	r.Port, r.Methods, r.Paths = 443, []string{plan.AnyMethod}, []string{plan.AnyPath}
	if n := f.value.get("host"); n == nil {
		l.at(f.key, "write host: and the name of a host", "%s has no host", what)
	} else {
		r.Host = l.host(n)
	}
	if n := f.value.get("port"); n != nil {
		r.Port = uint16(l.integer(n, "port", 1, 65535))
	}
	if n := f.value.get("methods"); n != nil {
		r.Methods = l.methods(n)
	}
	if n := f.value.get("paths"); n != nil {
		r.Paths = l.paths(n)
	}
	if n := f.value.get("credential"); n != nil {
		if t, ok := l.text(n, "credential"); ok {
			if _, ok := l.credentials[t]; !ok {
				l.at(n, nearest(t, sortedKeys(l.credentials)), "there is no credential %q", t)
			}
			r.Credential = t
		}
	}
	if n := f.value.get("gateway"); n != nil {
		r.Gateway = l.gateway(n, d.name, gateways)
	}
	if n := f.value.get("upstream"); n != nil {
		r.Upstream = l.upstream(n)
	}
}

// host returns the canonical host that n names.
func (l *loader) host(n *node) string {
	t, ok := l.text(n, "host")
	if !ok {
		return ""
	}
	if strings.Contains(t, "*") {
		l.at(n, "write every host out, each as a destination of its own", "host %q has a wildcard, which is not supported yet", t)
		return ""
	}
	if scheme, rest, ok := strings.Cut(t, "://"); ok {
		host, _, _ := strings.Cut(rest, "/")
		l.at(n, fmt.Sprintf("write host: %s, and what follows it as port and paths", host), "host is a URL (%s)", scheme)
		return ""
	}
	if host, port, ok := strings.Cut(t, ":"); ok && strings.Trim(port, "0123456789") == "" {
		l.at(n, fmt.Sprintf("write host: %s and port: %s", host, port), "host %q has a port", t)
		return ""
	}
	host, err := canonicalHost(t)
	if err != nil {
		l.at(n, "write a DNS name, such as api.example.com", "%s", err)
		return ""
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		l.at(n, "give the destination a name, and write where it is as upstream: {address: \"127.0.0.1:8443\"}", "host %q would be the proxy's own machine", t)
		return ""
	}
	return host
}

// canonicalHost is [plan.CanonicalHost] for names in Unicode, too.
func canonicalHost(host string) (string, error) {
	international := strings.Contains(strings.ToLower(host), "xn--")
	for _, r := range host {
		international = international || r >= 0x80
	}
	if !international {
		return plan.CanonicalHost(host)
	}
	ascii, err := idna.Lookup.ToASCII(strings.TrimSuffix(host, "."))
	if err != nil {
		return "", fmt.Errorf("host %q is not a valid international name", host)
	}
	return plan.CanonicalHost(ascii)
}

func (l *loader) methods(n *node) []string {
	var out []string
	l.texts(n, "methods", "an empty list would allow nothing: remove the key to allow every method", func(item *node, t string) {
		upper := strings.ToUpper(t)
		switch {
		case t == plan.AnyMethod || upper == "ALL" || upper == "ANY":
			l.at(item, "remove the key to allow every method", "%q is no method", t)
		case upper == "CONNECT" || upper == "TRACE" || upper == "TRACK":
			l.at(item, "remove it", "method %s is never allowed", upper)
		case slices.Contains(methods, t):
			out = append(out, t)
		case slices.Contains(methods, upper):
			l.at(item, "write "+upper, "method %q is not in upper case", t)
		default:
			l.at(item, nearest(upper, methods), "method %q is unknown", t)
		}
	})
	slices.Sort(out)
	return out
}

func (l *loader) paths(n *node) []string {
	var out []string
	l.texts(n, "paths", "an empty list would allow nothing: remove the key to allow every path", func(item *node, t string) {
		if _, err := plan.ParsePath(t); err != nil {
			message, hint, _ := strings.Cut(err.Error(), "; ")
			l.at(item, hint, "%s", message)
			return
		}
		out = append(out, t)
	})
	slices.Sort(out)
	return out
}

func (l *loader) gateway(n *node, owner string, gateways map[uint16]string) uint16 {
	port := uint16(l.integer(n, "gateway", 1024, 65535))
	if port == 0 {
		return 0
	}
	if port == sandboxPort {
		l.at(n, "write another port, such as 8080", "gateway %d is the port of the sandbox's own proxy", port)
	}
	if other, ok := gateways[port]; ok {
		l.at(n, "write another port", "gateway %d is that of destination %s already", port, other)
	}
	gateways[port] = owner
	return port
}

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
			}
			u.Address = "unix:" + l.resolve(path)
		} else if ap, ok := l.addrPort(address, t, form); ok {
			if slices.ContainsFunc(metadata, func(p netip.Prefix) bool { return p.Contains(ap.Addr()) }) {
				l.at(address, "write the address of the service itself", "address %s is that of a cloud's metadata service", t)
			}
			u.Address = ap.String()
		}
	}
	if ca := n.get("ca"); ca != nil {
		if t, ok := l.text(ca, "ca"); ok {
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
		l.at(n, form, "%q is no address", t)
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
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		l.at(n, "create it, or for the demo run `bin/postern demo --prepare`", "%s does not exist", path)
		return ""
	}
	if err != nil {
		l.at(n, "", "%s cannot be read: %s", path, err)
		return ""
	}
	if len(data) > maxCA {
		l.at(n, "name a file with only the authorities of this destination", "%s is larger than %d KiB", path, maxCA>>10)
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

// resolve returns the absolute form of a path that is relative to the stack file.
func (l *loader) resolve(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(l.dir, path)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
