// Package guard checks and changes the headers of requests and responses, so that no key passes
// that must not: the agent's own keys on their way to an upstream, and the policy's key on its way
// back. It runs inside Envoy (cmd/libguard), in filters that package envoy puts before and after
// the filter that injects credentials.
//
// Its only state is how secrets can be spelled. Several goroutines may use it at once.
package guard

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern/postern/target"
)

// The names of the module and its filters.
const (
	// Module is the name of the module.
	Module = "guard"
	// Filter checks requests before a credential is injected, and all responses.
	Filter = "guard"
	// FilterPut comes after the injector, on routes whose credential is more than a header.
	FilterPut = "put"
)

// A node decides nothing that it cannot record. While its supervisor takes the access log, the
// supervisor renews the log's lease: LeaseSize bytes of memory that Envoy's module shares, the file
// LeasePath in the node's working folder. It has two words of 64 bits, in the machine's byte order.
// The first is the time until which requests may be decided, in nanoseconds of CLOCK_MONOTONIC. The
// second counts the requests that were refused with [Unrecorded] since the supervisor last set it
// to 0.
const (
	LeasePath = "lease"
	LeaseSize = 16
)

// Envoy's response code details of a request that the guard has refused.
const (
	// Unrecorded: the node cannot record its decisions.
	Unrecorded = "guard_unrecorded"
	// Full: what the agent has open could take more of Envoy's memory than the agent may hold.
	Full = "guard_full"
	// MadeUp: the agent has made up as many names below wildcards as it may: see [Names].
	MadeUp = "guard_made_up"
	// Ambiguous: see [ErrAmbiguous].
	Ambiguous = "guard_ambiguous"
	// Ended: the rule has ended, and nobody has taken it away: see [Rule.Until].
	Ended = "guard_ended"
	// SignedBody: see [ErrSignedBody].
	SignedBody = "guard_signed_body"
	// Failed: the guard cannot read the request.
	Failed = "guard_failed"
)

// Namespace and Key are the place of the [Rule] in a route's metadata.
const (
	Namespace = "postern"
	Key       = "guard"
)

// SecretHeader carries a credential from the injector to the query. It is one of the headers that
// are removed from requests and responses.
const SecretHeader = "x-postern-secret"

// A Rule is what the guard needs to know about the rule that allowed a request. The zero value has
// no credential, and checks most.
type Rule struct {
	target.Check
	// Own means that the agent uses its own keys.
	Own bool
	// Header is the header of the credential. The first Prefix bytes of its value are the policy's.
	Header string
	Prefix int
	// Parameter is the query parameter of the credential, if it goes into the query.
	Parameter string
	// Signs means that Header gets a signature. Of the keys, only their ID and the session token
	// leave the node.
	Signs bool
	// Below means that the request is a CONNECT below a wildcard, which takes a certificate for the
	// host.
	Below bool
	// Until is when the guard refuses what the rule allows, in seconds of Unix time, or 0. By then the
	// control plane has taken the rule away, unless the control plane is down.
	Until int64
}

// Ended reports whether the rule has ended. Setting the wall clock back makes no rule longer.
func (r *Rule) Ended() bool {
	if r.Until == 0 {
		return false
	}
	now := time.Now()
	return r.endedAt(now, now.Sub(begun)) // nobody sets the clock of the difference: see package time
}

// begun is when this process began.
var begun = time.Now()

// endedAt is Ended by a wall clock, when the process has lived for a time.
func (r *Rule) endedAt(wall time.Time, lived time.Duration) bool {
	return max(wall.Unix(), begun.Add(lived).Unix()) >= r.Until
}

// Below is the rule, as the metadata of a route has it, of a CONNECT below a wildcard: see
// [Rule.Below].
const Below = "below"

// Words of a rule in the metadata of a route: first what is checked, then the credential.
const (
	wordCheck   = "check"
	wordAnyPath = "any-path"
	wordQuery   = "query="
	wordHeaders = "headers="
	wordUntil   = "until="
)

// String returns the rule in the form that a route's metadata has.
func (r Rule) String() string {
	var words []string
	if !r.Open {
		words = append(words, wordCheck)
	}
	if r.AnyPath {
		words = append(words, wordAnyPath)
	}
	if len(r.Query) > 0 {
		words = append(words, wordQuery+list(r.Query))
	}
	if len(r.Headers) > 0 {
		words = append(words, wordHeaders+list(r.Headers))
	}
	if r.Until != 0 {
		words = append(words, wordUntil+strconv.FormatInt(r.Until, 10))
	}
	switch {
	case r.Below:
		words = append(words, Below)
	case r.Own:
		words = append(words, "own")
	case r.Parameter != "":
		words = append(words, "parameter "+r.Parameter)
	case r.Signs:
		words = append(words, "signs "+r.Header)
	case r.Header != "":
		words = append(words, "header "+strconv.Itoa(r.Prefix)+" "+r.Header)
	}
	return strings.Join(words, " ")
}

// list joins names, which may have any characters.
func list(names []string) string {
	escaped := make([]string, len(names))
	for i, n := range names {
		escaped[i] = target.Escape(n)
	}
	return strings.Join(escaped, ",")
}

// unlist takes apart what list has joined.
func unlist(s string) []string {
	names := strings.Split(s, ",")
	for i, n := range names {
		names[i] = target.Unescape(n)
	}
	return names
}

var errRule = errors.New("not a rule that the guard knows")

// ParseRule parses what [Rule.String] has written. An empty text means that there is nothing to
// check: the route denies, or leads to a route that sees more of the request.
func ParseRule(s string) (Rule, error) {
	r := Rule{Check: target.Check{Open: true}}
	for s != "" {
		word, rest, _ := strings.Cut(s, " ")
		switch {
		case word == wordCheck:
			r.Open = false
		case word == wordAnyPath:
			r.AnyPath = true
		case strings.HasPrefix(word, wordQuery):
			r.Query = unlist(word[len(wordQuery):])
		case strings.HasPrefix(word, wordHeaders):
			r.Headers = unlist(word[len(wordHeaders):])
		case strings.HasPrefix(word, wordUntil):
			until, err := strconv.ParseInt(word[len(wordUntil):], 10, 64)
			if err != nil || until <= 0 {
				return r, errRule
			}
			r.Until = until
		default:
			return r, r.parseCredential(word, rest)
		}
		s = rest
	}
	return r, nil
}

// parseCredential reads the last words of a rule.
func (r *Rule) parseCredential(kind, rest string) error {
	switch {
	case kind == "own" && rest == "":
		r.Own = true
	case kind == Below && rest == "":
		r.Below = true
	case rest == "":
		return errRule
	case kind == "parameter":
		r.Parameter = rest
	case kind == "signs":
		r.Signs, r.Header = true, rest
	case kind == "header":
		prefix, header, _ := strings.Cut(rest, " ")
		n, err := strconv.Atoi(prefix)
		if err != nil || n < 0 || header == "" {
			return errRule
		}
		r.Header, r.Prefix = header, n
	default:
		return errRule
	}
	return nil
}

// A Header is one header of a request or response, with its name in lower case. It has the memory
// layout of Envoy's own structure (cmd/libguard).
type Header struct{ Name, Value string }

// A Change sets a header to one value. If the value is "", it removes all headers of that name. A
// Change shares no memory with the headers from which it was made.
//
// Functions that return changes append them to the given ones, so that ordinary requests need no
// memory from the heap.
type Change Header

// Nearly every request has these: what Envoy adds, and what package envoy does.
const (
	forwardedProto = "x-forwarded-proto"
	scope          = "x-postern-scope"
	via            = "x-postern-via"
	now            = "x-postern-now"
)

func remove(cs []Change, name string) []Change {
	for i := range cs {
		if cs[i].Name == name {
			return cs
		}
	}
	switch name {
	case forwardedProto:
		name = forwardedProto
	case scope:
		name = scope
	case via:
		name = via
	case now:
		name = now
	default:
		name = strings.Clone(name)
	}
	return append(cs, Change{Name: name})
}

func set(cs []Change, name, value string) []Change {
	cs = remove(cs, name)
	for i := range cs {
		if cs[i].Name == name {
			cs[i].Value = strings.Clone(value)
		}
	}
	return cs
}

// ErrAmbiguous refuses a request that says in two ways what it is, if the rule has matched only one
// of them: see [target.Check].
var ErrAmbiguous = errors.New("some server reads the request as another one")

// Request returns the changes of a request's headers before a credential is injected: it removes
// the agent's own keys, and headers that only a proxy may send.
func Request(cs []Change, hs []Header, r Rule) ([]Change, error) {
	offers := false
	for i := range hs {
		name, value := hs[i].Name, hs[i].Value
		if name == ":path" {
			path, query, _ := strings.Cut(value, "?")
			if r.Target(path, query) {
				return nil, ErrAmbiguous
			}
		}
		if r.Check.Header(name) {
			return nil, ErrAmbiguous
		}
		switch {
		// In any case the credential replaces what the agent has sent in its place.
		case isProxys(name), !r.Own && (name == r.Header || isSlot(name) || soundsLikeSlot(name) && !slices.Contains(r.Headers, name)):
			cs = remove(cs, name)
		case r.Own:
		case name == ":path":
			if path := stripQuery(value, r.Parameter); path != value {
				cs = set(cs, name, path)
			}
		case name == protocolHeader:
			offers = true
		}
	}
	if offers {
		all := protocols(hs)
		if list := stripProtocols(all); list != all {
			cs = set(cs, protocolHeader, list)
		}
	}
	return cs, nil
}

// Body returns [ErrAmbiguous] for a request with a body if its method has none (RFC 9110, sections
// 9.3.1 and 9.3.2): a server that does not read the body takes it for the next request on the
// connection, which no rule has allowed, and which may begin another one that has a credential.
// What follows an accepted upgrade is not a body.
func Body(hs []Header) error {
	upgrade, none, body := false, false, false
	for i := range hs {
		switch hs[i].Name {
		case ":method":
			none = hs[i].Value == "GET" || hs[i].Value == "HEAD"
		case "upgrade":
			upgrade = true
		case "content-length", "transfer-encoding":
			body = true
		}
	}
	if none && (body || !upgrade) {
		return ErrAmbiguous
	}
	return nil
}

const protocolHeader = "sec-websocket-protocol"

// protocols returns the list of all subprotocols that a WebSocket offers.
func protocols(hs []Header) string {
	var all []string
	for i := range hs {
		if hs[i].Name == protocolHeader {
			all = append(all, hs[i].Value)
		}
	}
	return strings.Join(all, ", ")
}

// Errors of [Put].
var (
	// ErrNoCredential refuses a request into which the injector has put nothing.
	ErrNoCredential = errors.New("there is no credential to put into the query")
	// ErrSignedBody refuses a body that is a sequence of parts which the agent has signed itself.
	// No server would accept them with the policy's signature.
	ErrSignedBody = errors.New("the agent has signed parts of the body")
)

// Put returns the changes of a request after its credential was injected. It moves a secret that
// belongs in the query there.
func Put(cs []Change, hs []Header, r Rule) ([]Change, error) {
	var path, secret string
	for i := range hs {
		switch name, value := hs[i].Name, hs[i].Value; {
		case name == ":path":
			path = value
		case name == SecretHeader:
			secret = value
			cs = remove(cs, name)
		case name == "x-amz-content-sha256" && r.Signs && len(value) >= len(streaming) && strings.EqualFold(value[:len(streaming)], streaming):
			return nil, ErrSignedBody
		}
	}
	if r.Parameter != "" {
		if secret == "" || path == "" {
			return nil, ErrNoCredential
		}
		cs = set(cs, ":path", putQuery(path, r.Parameter, secret))
	}
	return cs, nil
}

const streaming = "STREAMING-"

// sessionToken is the header in which a signed request has the token of temporary keys.
const sessionToken = "x-amz-security-token"

// Injected returns the headers of a request that hold the credential after [Put] and, if the request
// is signed, after that. Unused names are "".
func (r Rule) Injected() [2]string {
	switch {
	case r.Parameter != "":
		return [2]string{":path"}
	case r.Signs:
		return [2]string{r.Header, sessionToken}
	}
	return [2]string{r.Header}
}

// Response returns the changes of a response's headers. It removes headers that only this proxy may
// send, and the credential from every header in which an upstream echoes it. injected holds the
// values of the request's headers [Rule.Injected].
func Response(cs []Change, hs []Header, r Rule, injected []string) []Change {
	var few [1]*forms
	look := r.echoes(few[:0], injected)
	for i := range hs {
		name, value := hs[i].Name, hs[i].Value
		switch {
		case strings.HasPrefix(name, ":"):
		case strings.HasPrefix(name, "x-postern-"):
			cs = remove(cs, name)
		case r.Header == "" && r.Parameter == "":
		case name == r.Header || isSlot(name):
			// Removed in any case, whatever the upstream has put into it.
			cs = remove(cs, name)
		default:
			left := value
			for _, f := range look {
				if !f.in(left) {
					continue
				}
				if name != "location" {
					left = ""
					break
				}
				// The rest of the location stays; the credential is added to it again.
				left = f.cut(left)
			}
			if left != value {
				cs = set(cs, name, left)
			}
		}
	}
	return cs
}

// echoes appends what to look for.
func (r Rule) echoes(all []*forms, injected []string) []*forms {
	for _, value := range injected {
		if r.Signs {
			id, signature := signed(value)
			if signature != "" {
				// It is another one in each request, so its forms are not worth keeping.
				all = append(all, &forms{all: []string{signature}, shortest: len(signature)})
			}
			if id != "" {
				all = append(all, echo{value: id}.forms())
			}
			continue
		}
		e := echo{value: value, prefix: r.Prefix}
		if r.Parameter != "" {
			e.value = queryValue(value, r.Parameter)
		}
		if e.value != "" {
			all = append(all, e.forms())
		}
	}
	return all
}

// signed returns what of a value of a signed request must not come back: the ID of the keys and the
// signature of an Authorization, or the whole session token.
func signed(value string) (id, signature string) {
	if !strings.HasPrefix(value, "AWS4-") {
		return value, ""
	}
	_, id, _ = strings.Cut(value, "Credential=")
	id, _, _ = strings.Cut(id, "/")
	_, signature, _ = strings.Cut(value, "Signature=")
	return id, signature
}

// Trailers returns the changes of trailers. It removes agents' keys, the credential, and whatever a
// request may not send in a header. injected is nil for the trailers of a request.
func Trailers(cs []Change, hs []Header, r Rule, injected []string) []Change {
	cs = Response(cs, hs, r, injected)
	for i := range hs {
		if name := hs[i].Name; isProxys(name) || injected == nil && r.Check.Header(name) || !r.Own && (isSlot(name) || injected == nil && soundsLikeSlot(name)) {
			cs = remove(cs, name)
		}
	}
	return cs
}
