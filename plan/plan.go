// Package plan is the compiled policy of a stack and its meaning.
//
// A [Plan] is pure data: canonical (equal policies encode to equal bytes),
// content-hashed and position-free. [Plan.Decide] is the executable
// specification of the policy language; the Envoy resources that package envoy
// builds are its implementation. The package imports the standard library only.
package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// Plan is everything the control plane and the fleet need to know of a stack.
// The zero value allows nothing.
type Plan struct {
	// Stack is the name of the environment, such as "local".
	Stack string `json:"stack"`
	// Resolvers are the DNS servers (ip:port) the nodes ask; none means the
	// servers of the node's own host.
	Resolvers []string `json:"resolvers,omitempty"`
	// Credentials are sorted by name.
	Credentials []Credential `json:"credentials,omitempty"`
	// Agents are sorted by name.
	Agents []Agent `json:"agents,omitempty"`
}

// Credential says how to authenticate to a destination. It never holds secret
// bytes, only where they are.
type Credential struct {
	Name string `json:"name"`
	// Kind is "header".
	Kind string `json:"kind"`
	// Header is the lower-case name of the request header that is set.
	Header string `json:"header"`
	// Prefix precedes the secret in the header's value, such as "Bearer ".
	Prefix string `json:"prefix,omitempty"`
	// Secret is the URL of the secret: env://NAME or file:///absolute/path.
	Secret string `json:"secret"`
}

// Agent is a named pool of workloads with one policy.
type Agent struct {
	Name string `json:"name"`
	// Rules are in the order of the agent's allow list. The first that
	// matches decides; if none does, the request is denied by [DefaultRule].
	Rules []Rule `json:"rules,omitempty"`
}

// Rule allows one agent some requests to one destination.
type Rule struct {
	// ID is "agent/destination". It is stable: it does not change when other
	// parts of the stack file do.
	ID string `json:"id"`
	// Host is canonical: lower case, punycode, no trailing dot, no IP literal.
	Host string `json:"host"`
	Port uint16 `json:"port"`
	// Methods are upper-case and sorted, or exactly [AnyMethod].
	Methods []string `json:"methods"`
	// Paths are patterns in the form that [ParsePath] accepts, sorted.
	Paths []string `json:"paths"`
	// Credential is the name of the credential that is injected, or "".
	Credential string `json:"credential,omitempty"`
	// Gateway is the loopback port inside the sandbox that reaches this
	// destination over plain HTTP, or 0.
	Gateway uint16 `json:"gateway,omitempty"`
	// Upstream pins where the destination is; nil means by DNS.
	Upstream *Upstream `json:"upstream,omitempty"`
}

// Upstream is the fixed place of a destination that is not found by DNS, such
// as an internal API. Only an operator can name one.
type Upstream struct {
	// Address is "ip:port" or "unix:/absolute/path".
	Address string `json:"address"`
	// CA is the PEM bundle that the destination's certificate must chain to;
	// empty means the node's system roots.
	CA string `json:"ca,omitempty"`
}

// AnyMethod in Rule.Methods allows every method but CONNECT, TRACE and TRACK.
const AnyMethod = "*"

// AnyPath in Rule.Paths allows every path.
const AnyPath = "/**"

// DefaultRule is the ID of the rule that denies what no rule of the agent allows.
func DefaultRule(agent string) string { return agent + "/default" }

// Encode returns the canonical JSON form of p.
func (p *Plan) Encode() ([]byte, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encode plan %q: %w", p.Stack, err)
	}
	return b, nil
}

// Version is the content hash of p: the first 16 hexadecimal digits of the
// SHA-256 of its canonical form.
func (p *Plan) Version() (string, error) {
	b, err := p.Encode()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8]), nil
}
