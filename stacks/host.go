package stacks

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/idna"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks/hosting"
	"github.com/postern/postern/stacks/yaml"
)

// HostPort is a host that an agent is to reach, over TLS.
type HostPort struct {
	Host string
	Port uint16
}

// ParseHostPort reads "host" or "host:port".
func ParseHostPort(s string) (HostPort, error) {
	host, port, ok := strings.Cut(s, ":")
	hp := HostPort{Port: 443}
	if ok {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return HostPort{}, fmt.Errorf("%q is not HOST or HOST:PORT; write, for example, api.example.com:8443", s)
		}
		hp.Port = uint16(n)
	}
	var err error
	if hp.Host, err = canonicalHost(host); err != nil {
		return HostPort{}, err
	}
	if hp.Host == "localhost" || strings.HasSuffix(hp.Host, ".localhost") {
		return HostPort{}, fmt.Errorf("host %q would be the proxy's own machine; write a destination with an upstream into the stack file", host)
	}
	return hp, nil
}

// engineNames are the names that container engines and virtual machines give to the machine that
// they run on. No DNS server knows them.
var engineNames = []string{
	"host.docker.internal", "gateway.docker.internal", "host.containers.internal", "host.minikube.internal",
	"host.lima.internal", "host.orb.internal", "host-gateway",
}

// metadataNames are the names of clouds' metadata services.
var metadataNames = []string{"metadata.google.internal", "metadata.goog", "instance-data.ec2.internal"}

// nowhere returns why no request to the host can ever arrive, and what to write instead, or "". It
// is about hosts without an upstream: DNS says where they are.
func nowhere(host string) (why, hint string) {
	address := "write where the service is: upstream: {address: \"127.0.0.1:PORT\"}"
	switch {
	case slices.Contains(engineNames, host):
		return "is a name that a container engine gives to its own machine: the proxy's DNS does not know it", address
	case slices.Contains(metadataNames, host):
		return "is a cloud's metadata service, whose addresses are never allowed",
			"remove it; credential: names the credential that is sent"
	}
	for _, top := range []string{".onion", ".invalid"} {
		if strings.HasSuffix(host, top) {
			return "ends in " + top + ", where DNS has no host", address
		}
	}
	return "", ""
}

func (hp HostPort) String() string {
	if hp.Port == 443 || hp.Port == 0 {
		return hp.Host
	}
	return hp.Host + ":" + strconv.Itoa(int(hp.Port))
}

// host returns the canonical host or wildcard that n names.
func (l *loader) host(n *yaml.Node) string {
	t, ok := l.Text(n, "host")
	if !ok {
		return ""
	}
	if scheme, rest, ok := strings.Cut(t, "://"); ok {
		host, _, _ := strings.Cut(rest, "/")
		l.At(n, fmt.Sprintf("write host: %s, and write the rest as port and paths", host), "host is a URL (%s)", scheme)
		return ""
	}
	if host, port, ok := strings.Cut(t, ":"); ok && strings.Trim(port, "0123456789") == "" {
		l.At(n, fmt.Sprintf("write host: %s and port: %s", host, port), "host %q has a port", t)
		return ""
	}
	if rest := strings.TrimPrefix(t, "*."); t == "*" || rest == "" {
		l.At(n, "write every host out, or *.example.com for every name below example.com", "host %q is every host", t)
		return ""
	} else if strings.Contains(rest, "*") {
		l.At(n, "write *.example.com for every name below example.com, at any depth", "host %q has a * that is not its whole first label", t)
		return ""
	}
	host, err := canonicalHost(t)
	if err != nil {
		l.At(n, "write a DNS name, such as api.example.com", "%s", err)
		return ""
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		l.At(n, "give the destination a name, and write where it is as upstream: {address: \"127.0.0.1:8443\"}", "host %q would be the proxy's own machine", t)
		return ""
	}
	return host
}

// canonicalHost is [plan.CanonicalPattern] for names in Unicode, too.
func canonicalHost(host string) (string, error) {
	international := strings.Contains(strings.ToLower(host), "xn--")
	for _, r := range host {
		international = international || r >= 0x80
	}
	if !international {
		return plan.CanonicalPattern(host)
	}
	rest, wildcard := strings.CutPrefix(host, "*.")
	ascii, err := idna.Lookup.ToASCII(strings.TrimSuffix(rest, "."))
	if err != nil {
		return "", fmt.Errorf("host %q is not a valid international name", host)
	}
	if wildcard {
		ascii = "*." + ascii
	}
	return plan.CanonicalPattern(ascii)
}

// wildcard checks under which names strangers can have a name: below registries (never allowed),
// and on shared hosting, for which the operator must give a reason, and to which no secret is ever
// sent.
func (l *loader) wildcard(n *yaml.Node, r *plan.Rule, reason string) {
	rest, ok := strings.CutPrefix(r.Host, "*.")
	if !ok {
		return
	}
	suffix, ours := hosting.Below(rest)
	switch {
	case suffix == "":
	case ours:
		l.At(n, "write the names that are yours", "host %q has names of strangers below it: everybody can register one under %s", r.Host, suffix)
	case reason == "":
		l.At(n, "write the names that are yours, or say in reason: why all of them are needed", "host %q is shared hosting: everybody can rent a name under %s", r.Host, suffix)
	case r.Credential != "" && l.credentials[r.Credential].Kind != plan.KindAWSSigV4:
		l.At(n, "write the names that are yours", "host %q is shared hosting: the credential would go to whoever rents a name under %s", r.Host, suffix)
	}
}
