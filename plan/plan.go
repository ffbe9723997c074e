// Package plan is the compiled policy of a stack and its meaning.
//
// A [Plan] is pure data: canonical (equal policies encode to equal bytes),
// content-hashed and position-free. [Plan.Decide] is the executable
// specification of the policy language; the Envoy resources that package envoy
// builds are its implementation. Besides package target, it imports the standard library only.
package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
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
	// Kind is one of the Kind constants. It says which of the other fields
	// count; the loader refuses the rest.
	Kind string `json:"kind"`
	// Header is the lower-case name of the request header that is set:
	// the user's for KindHeader, "authorization" for every other kind that
	// sets one.
	Header string `json:"header,omitempty"`
	// Prefix precedes the secret in the header's value, such as "Bearer ".
	Prefix string `json:"prefix,omitempty"`
	// Secret is the URL of the secret: see [Reference].
	Secret string `json:"secret"`
	// Username is the user of KindBasic, or the client ID of the OAuth kinds.
	Username string `json:"username,omitempty"`
	// Parameter is the query parameter of KindQuery.
	Parameter string `json:"parameter,omitempty"`
	// TokenURL is where tokens are minted (OAuth kinds, KindGitHubApp: the
	// API's base URL), always https unless on loopback.
	TokenURL string `json:"token_url,omitempty"`
	// Scopes are requested of the token endpoint, sorted.
	Scopes []string `json:"scopes,omitempty"`
	// Audience is that of KindGCPIDToken.
	Audience string `json:"audience,omitempty"`
	// App and Installation identify a GitHub App's installation.
	App          string `json:"app,omitempty"`
	Installation string `json:"installation,omitempty"`
	// Service and Region pin what KindAWSSigV4 signs for.
	Service string `json:"service,omitempty"`
	Region  string `json:"region,omitempty"`
	// Placeholders are environment variables that client programs insist on;
	// the sandbox gets them with the value "postern". Sorted names.
	Placeholders []string `json:"placeholders,omitempty"`
}

// The kinds of credential. Those that mint are minted by the control plane and
// reach the nodes as a bearer token, renewed before it expires.
const (
	// KindHeader sets Header to Prefix and the secret.
	KindHeader = "header"
	// KindBearer sets authorization to "Bearer " and the secret.
	KindBearer = "bearer"
	// KindBasic sets authorization to Basic of Username and the secret (RFC 7617).
	KindBasic = "basic"
	// KindQuery sets the query parameter Parameter to the secret.
	KindQuery = "query"
	// KindOAuth2ClientCredentials mints by RFC 6749, section 4.4; the secret is the client's.
	KindOAuth2ClientCredentials = "oauth2-client-credentials"
	// KindOAuth2RefreshToken mints by RFC 6749, section 6; the secret is JSON
	// {"refresh_token", "client_secret"}.
	KindOAuth2RefreshToken = "oauth2-refresh-token"
	// KindGitHubApp mints an installation token; the secret is the app's PEM key.
	KindGitHubApp = "github-app"
	// KindAWSSigV4 signs each request anew at the node; the secret is JSON
	// {"access_key_id", "secret_access_key", "session_token"}.
	KindAWSSigV4 = "aws-sigv4"
	// KindGCPAccessToken and KindGCPIDToken mint from a service account's JSON key.
	KindGCPAccessToken = "gcp-access-token"
	KindGCPIDToken     = "gcp-id-token"
)

// Agent is a named pool of workloads with one policy.
type Agent struct {
	Name string `json:"name"`
	// Port is the TCP port of the agent's listener on every node, or 0 for a
	// Unix socket. No two agents have the same. Whoever can connect to it is the
	// agent: the environment's firewall decides who that is.
	Port uint16 `json:"port,omitempty"`
	// Rules are in the order of the agent's allow list. Of the rules that
	// match a request, one that denies decides, otherwise the first; if none
	// does, the request is denied by [DefaultRule].
	Rules []Rule `json:"rules,omitempty"`
}

// Rule says of some requests of one agent to one destination that they are
// allowed, or, if Deny is set, that they are not whatever else is allowed.
type Rule struct {
	// ID is "agent/destination", or "agent/destination/name" if the
	// destination has several. It is stable: it does not change when other
	// parts of the stack file do.
	ID string `json:"id"`
	// Deny makes it a rule that denies. Only Host, Port, Methods, Paths, Query,
	// Headers, Expires, Reason and Owner count then.
	Deny bool `json:"deny,omitempty"`
	// Host is canonical: lower case, punycode, no trailing dot, no IP literal.
	// "*.example.test" stands for every name below example.test, at any
	// depth, and not for example.test itself.
	Host string `json:"host"`
	Port uint16 `json:"port"`
	// Mode is how the destination is reached, [ModeIntercept] or [ModeTunnel].
	// All rules of one agent for the same Host and Port have the same.
	Mode string `json:"mode,omitempty"`
	// Methods are upper-case and sorted, or exactly [AnyMethod]. What denies
	// matches them in any case.
	Methods []string `json:"methods"`
	// Paths are patterns in the form that [ParsePath] accepts, sorted. What
	// they mean in a rule that denies says [DeniedPath].
	Paths []string `json:"paths"`
	// Query and Headers are conditions that must all hold, sorted by name.
	Query   []Condition `json:"query,omitempty"`
	Headers []Condition `json:"headers,omitempty"`
	// Credential is the name of the credential that is injected, or "".
	Credential string `json:"credential,omitempty"`
	// OwnCredentials lets what the agent itself sends as authentication pass.
	// Never set together with Credential.
	OwnCredentials bool `json:"own_credentials,omitempty"`
	// Gateway is the loopback port inside the sandbox that reaches this
	// destination over plain HTTP, or 0.
	Gateway uint16 `json:"gateway,omitempty"`
	// Upstream pins where the destination is; nil means by DNS.
	Upstream *Upstream `json:"upstream,omitempty"`
	// Limits are those of the destination for this agent: all rules of one
	// agent for the same Host and Port have the same.
	Limits *Limits `json:"limits,omitempty"`
	// Expires is when the rule ends, in RFC 3339 and UTC, or "". An expired
	// rule does not exist: [Plan.At] leaves it out.
	Expires string `json:"expires,omitempty"`
	// Reason and Owner are for people: why the rule is there, and who answers for it.
	Reason string `json:"reason,omitempty"`
	Owner  string `json:"owner,omitempty"`
}

// Equal reports whether the rules say the same in every field.
func (r *Rule) Equal(o *Rule) bool {
	return r.ID == o.ID && r.Deny == o.Deny && r.Host == o.Host && r.Port == o.Port && r.Mode == o.Mode &&
		slices.Equal(r.Methods, o.Methods) && slices.Equal(r.Paths, o.Paths) && slices.Equal(r.Query, o.Query) && slices.Equal(r.Headers, o.Headers) &&
		r.Credential == o.Credential && r.OwnCredentials == o.OwnCredentials && r.Gateway == o.Gateway &&
		same(r.Upstream, o.Upstream) && same(r.Limits, o.Limits) &&
		r.Expires == o.Expires && r.Reason == o.Reason && r.Owner == o.Owner
}

// EqualRules reports whether both lists say the same, in the same order.
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
	// ModeTunnel passes TLS through after a look at its server name. There
	// are no methods, paths, conditions or credentials.
	ModeTunnel = "tunnel"
)

// Condition is what a query parameter or header must be. If it comes more than
// once, a rule that allows does not match, unless all values of a header are the
// one that it wants; a rule that denies matches if some server could find the value
// in one of them: see [DeniedQuery] and [DeniedHeader].
type Condition struct {
	// Name is case-sensitive in a query, unless the rule denies; lower-case for a header.
	Name string `json:"name"`
	// Value is the exact value, percent-decoded for a query; if Present is set
	// any value will do.
	Value   string `json:"value,omitempty"`
	Present bool   `json:"present,omitempty"`
}

// Limits bound what an agent can do to a destination. Zero means no limit. Each
// node counts for itself, so that n nodes together allow up to n times as much.
type Limits struct {
	// Requests in Per seconds.
	Requests uint32 `json:"requests,omitempty"`
	Per      uint32 `json:"per,omitempty"`
	// Concurrent requests (streams, tunnels).
	Concurrent uint32 `json:"concurrent,omitempty"`
	// Body is the largest request body, in bytes.
	Body uint64 `json:"body,omitempty"`
	// Upload and Download are bytes per second.
	Upload   uint64 `json:"upload,omitempty"`
	Download uint64 `json:"download,omitempty"`
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

// AgentOf returns the name of the agent that the rule with that ID is for.
func AgentOf(rule string) string {
	agent, _, _ := strings.Cut(rule, "/")
	return agent
}

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
