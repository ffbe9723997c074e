// Package plan holds the compiled policy of a stack, and defines its meaning.
//
// A [Plan] is pure data: canonical (equal policies encode to equal bytes), content-hashed and
// position-free. [Plan.Decide] is the executable specification of the policy language. Package
// envoy builds the Envoy resources that implement the specification. Package plan imports only the
// standard library, package target and package tool.
package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/postern/postern/plan/tool"
)

// Plan is everything that the control plane and the fleet need to know about a stack. The zero
// value allows nothing.
type Plan struct {
	// Stack is the name of the environment, such as "local".
	Stack string `json:"stack"`
	// Resolvers are the DNS servers (ip:port) that the nodes ask. If empty, a node asks the servers
	// of its own host.
	Resolvers []string `json:"resolvers,omitempty"`
	// Credentials are sorted by name.
	Credentials []Credential `json:"credentials,omitempty"`
	// Agents are sorted by name.
	Agents []Agent `json:"agents,omitempty"`
}

// Credential says how to authenticate to a destination. It never contains the secret, only its
// place.
type Credential struct {
	Name string `json:"name"`
	// Kind determines which other fields count; the loader refuses the other ones.
	Kind Kind `json:"kind"`
	// Header is the request header that KindHeader sets, in lower case.
	Header string `json:"header,omitempty"`
	// Prefix is what KindHeader puts before the secret, such as "Bearer ".
	Prefix string `json:"prefix,omitempty"`
	// Secret is the URL of the secret: see [Reference].
	Secret string `json:"secret"`
	// Username is the user of KindBasic, or the client ID of the OAuth kinds.
	Username string `json:"username,omitempty"`
	// Parameter is the query parameter of KindQuery.
	Parameter string `json:"parameter,omitempty"`
	// TokenURL is the endpoint that mints tokens: of the OAuth kinds, or the API's base URL of
	// KindGitHubApp. It is https, or on loopback.
	TokenURL string `json:"token_url,omitempty"`
	// Scopes are requested from the token endpoint. They are sorted.
	Scopes []string `json:"scopes,omitempty"`
	// Audience is the audience of KindGCPIDToken.
	Audience string `json:"audience,omitempty"`
	// App and Installation identify the installation of a GitHub App.
	App          string `json:"app,omitempty"`
	Installation string `json:"installation,omitempty"`
	// Service and Region are the only ones for which KindAWSSigV4 signs.
	Service string `json:"service,omitempty"`
	Region  string `json:"region,omitempty"`
	// Placeholders are environment variables without which client programs refuse to work. The
	// sandbox sets each to "postern". The names are sorted.
	Placeholders []string `json:"placeholders,omitempty"`
}

// Agent is a named pool of workloads with one policy.
type Agent struct {
	Name string `json:"name"`
	// Port is the TCP port of the agent's listener on every node, or 0 for a Unix socket. No two
	// agents have the same port. Every client that can connect to the port is this agent: the
	// environment's firewall decides which clients can.
	Port uint16 `json:"port,omitempty"`
	// Rules are in the order of the agent's allow list. If a rule that denies matches a request, it
	// decides. Otherwise the first matching rule decides. If no rule matches, [DefaultRule] denies.
	Rules []Rule `json:"rules,omitempty"`
	// Workspace is what a command of the agent has of its working directory on this machine. nil is
	// [WorkspaceWrite].
	Workspace *Workspace `json:"workspace,omitempty"`
	// Home is the home that the agent's commands keep on this machine. If it is nil, each command has
	// an empty one.
	Home *Home `json:"home,omitempty"`
	// Runtime isolates the agent's commands on this machine, at least. "" is [RuntimeBubblewrap].
	Runtime Runtime `json:"runtime,omitempty"`
	// Image is the image whose files they see: [IsImage]. If it is "", a command with a runtime that
	// has images names one.
	Image string `json:"image,omitempty"`
	// Git are the repositories of the agent's git outside its sandbox: see package repository.
	Git []string `json:"git,omitempty"`
	// Tools are programs of this machine that run for it outside its sandbox, sorted by name.
	Tools []tool.Tool `json:"tools,omitempty"`
}

// Rule allows some requests of one agent to one destination. If Deny is set, it denies these
// requests, whatever other rules allow.
type Rule struct {
	// ID is "agent/destination", or "agent/destination/name" if the destination has several rules.
	// It stays the same when other parts of the stack file change.
	ID string `json:"id"`
	// Deny makes the rule one that denies. Then only Host, Port, Methods, Paths, Query, Headers,
	// Expires, Reason and Owner count.
	Deny bool `json:"deny,omitempty"`
	// Host is canonical: lower case, punycode, no trailing dot, no IP literal. "*.example.test"
	// stands for every name below example.test, at any depth, but not for example.test itself.
	Host string `json:"host"`
	Port uint16 `json:"port"`
	// Mode is [ModeIntercept] or [ModeTunnel]. All rules of one agent with the same Host and Port
	// have the same mode.
	Mode string `json:"mode,omitempty"`
	// Methods are upper-case and sorted, or exactly [AnyMethod]. A rule that denies matches them in
	// any letter case.
	Methods []string `json:"methods"`
	// Paths are patterns that [ParsePath] accepts, sorted. [DeniedPath] says what they mean in a
	// rule that denies.
	Paths []string `json:"paths"`
	// Query and Headers are conditions that must all hold, sorted by name.
	Query   []Condition `json:"query,omitempty"`
	Headers []Condition `json:"headers,omitempty"`
	// Credential is the name of the injected credential, or "".
	Credential string `json:"credential,omitempty"`
	// OwnCredentials lets the agent's own authentication pass. It is never set together with
	// Credential.
	OwnCredentials bool `json:"own_credentials,omitempty"`
	// Gateway is the loopback port inside the sandbox that reaches this
	// destination over plain HTTP, or 0.
	Gateway uint16 `json:"gateway,omitempty"`
	// Upstream pins the place of the destination. nil means that DNS finds it.
	Upstream *Upstream `json:"upstream,omitempty"`
	// Limits are the destination's limits for this agent. All rules of one agent with the same Host
	// and Port have the same limits.
	Limits *Limits `json:"limits,omitempty"`
	// Expires is the end of the rule, in RFC 3339 and UTC, or "". [Plan.At] leaves out expired
	// rules.
	Expires string `json:"expires,omitempty"`
	// Reason and Owner are for people: why the rule exists, and who answers for it.
	Reason string `json:"reason,omitempty"`
	Owner  string `json:"owner,omitempty"`
}

// Equal reports whether the rules are equal in every field.
func (r *Rule) Equal(o *Rule) bool {
	return r.ID == o.ID && r.Deny == o.Deny && r.Host == o.Host && r.Port == o.Port && r.Mode == o.Mode &&
		slices.Equal(r.Methods, o.Methods) && slices.Equal(r.Paths, o.Paths) && slices.Equal(r.Query, o.Query) && slices.Equal(r.Headers, o.Headers) &&
		r.Credential == o.Credential && r.OwnCredentials == o.OwnCredentials && r.Gateway == o.Gateway &&
		same(r.Upstream, o.Upstream) && same(r.Limits, o.Limits) &&
		r.Expires == o.Expires && r.Reason == o.Reason && r.Owner == o.Owner
}

// EqualRules reports whether both lists have equal rules in the same order.
func EqualRules(a, b []Rule) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !a[i].Equal(&b[i]) {
			return false
		}
	}
	return true
}

// same reports whether both are nil or point to equal values.
func same[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }

// The modes of a destination.
const (
	// ModeIntercept terminates TLS, inspects, injects and re-encrypts.
	ModeIntercept = ""
	// ModeTunnel passes TLS on and checks only its server name. Methods, paths, conditions and
	// credentials do not apply.
	ModeTunnel = "tunnel"
)

// Condition is a condition on a query parameter or header. If a parameter comes more than once, a
// rule that allows does not match. If a header does, a rule that allows matches only if all values
// are the wanted one. A rule that denies matches if some server could find the denied value in one
// of the values: see [DeniedQuery] and [DeniedHeader].
type Condition struct {
	// Name is case-sensitive in a query, unless the rule denies; lower-case for a header.
	Name string `json:"name"`
	// Value is the exact value, percent-decoded for a query. If Present is set, any value matches.
	Value   string `json:"value,omitempty"`
	Present bool   `json:"present,omitempty"`
}

// Limits bound what an agent can do at a destination. Zero means no limit. Each node counts for
// itself, so n nodes together allow up to n times as much.
type Limits struct {
	// Requests is the number of requests in Per seconds.
	Requests uint32 `json:"requests,omitempty"`
	Per      uint32 `json:"per,omitempty"`
	// Concurrent is the number of requests (streams, tunnels) in progress.
	Concurrent uint32 `json:"concurrent,omitempty"`
	// Body is the largest request body, in bytes.
	Body uint64 `json:"body,omitempty"`
	// Upload and Download are bytes per second.
	Upload   uint64 `json:"upload,omitempty"`
	Download uint64 `json:"download,omitempty"`
}

// Upstream is the fixed place of a destination that DNS does not find, such as an internal API, or
// who vouches for it. Only an operator can name one.
type Upstream struct {
	// Address is "ip:port" or "unix:/absolute/path", or "" if DNS finds the place: then CA is set.
	Address string `json:"address,omitempty"`
	// CA is the PEM bundle to which the destination's certificate must chain. If empty, the node's
	// system roots apply.
	CA string `json:"ca,omitempty"`
	// Plain means that requests go to Address over HTTP: nobody verifies who answers. Address is on
	// loopback, in a private network, or a socket.
	Plain bool `json:"plain,omitempty"`
}

// AnyMethod in Rule.Methods allows every method except CONNECT, TRACE and TRACK.
const AnyMethod = "*"

// AnyPath in Rule.Paths allows every path.
const AnyPath = "/**"

// DefaultName is the name of each [DefaultRule]: see [NameOf].
const DefaultName = "default"

// DefaultRule returns the ID of the rule that denies whatever no rule of the agent allows.
func DefaultRule(agent string) string { return agent + "/" + DefaultName }

// AgentOf returns the name of the agent of the rule with that ID.
func AgentOf(rule string) string {
	agent, _, _ := strings.Cut(rule, "/")
	return agent
}

// NameOf returns the ID of a rule without the agent: agents that share rules have it in common.
func NameOf(rule string) string {
	_, name, _ := strings.Cut(rule, "/")
	return name
}

// Version returns the content hash of p: the first 16 hexadecimal digits of the SHA-256 of its
// canonical form.
func (p *Plan) Version() (string, error) {
	b, err := p.Encode()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8]), nil
}
