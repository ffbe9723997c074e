package stacks

import (
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks/yaml"
)

var (
	token7230 = plan.Matching("^[a-z0-9!#$%&'*+.^_`|~-]+$")
	variable  = plan.Matching(VariablePattern)
)

const VariablePattern = `^[A-Za-z_][A-Za-z0-9_]*$`

// MaxPrefix bounds what precedes a secret.
const MaxPrefix = 64

// transport are the headers that say how a message travels, not who sends it.
var transport = []string{
	"connection", "content-length", "date", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding",
	"upgrade", "via", "x-request-id",
}

// KindFields are the keys of each kind of credential, besides secret and placeholders. Keys with an
// exclamation mark are required.
var KindFields = map[plan.Kind][]string{
	plan.KindHeader:                  {"header!", "prefix"},
	plan.KindBearer:                  {},
	plan.KindBasic:                   {"username!"},
	plan.KindQuery:                   {"parameter!"},
	plan.KindOAuth2ClientCredentials: {"token_url!", "client_id!", "scopes"},
	plan.KindOAuth2RefreshToken:      {"token_url!", "client_id!", "scopes"},
	plan.KindGitHubApp:               {"app!", "installation!", "api_url", "username"},
	plan.KindAWSSigV4:                {"service!", "region!"},
	plan.KindGCPAccessToken:          {"scopes!"},
	plan.KindGCPIDToken:              {"audience!"},
}

// fieldHints say what to write for a key that is missing.
var fieldHints = map[string]string{
	"header": "write header: and the name of the header, such as authorization", "username": "write username: and the user's name",
	"parameter": "write parameter: and the name of the query parameter, such as key",
	"token_url": "write token_url: and where tokens are asked for, such as https://login.example.com/token",
	"client_id": "write client_id: and the client's ID", "app": "write app: and the app's ID", "installation": "write installation: and its ID",
	"service": "write service: and its name in AWS, such as s3", "region": "write region: and its name, such as eu-west-1",
	"scopes": "write scopes: and a list of them", "audience": "write audience: and whom the token is for",
}

// credential reads one credential. Messages never quote what could be a secret
// that was written into the wrong place.
func (l *loader) credential(f yaml.Field) {
	l.name(f.Key, "a credential")
	c := plan.Credential{Name: f.Key.Text, Kind: plan.KindHeader}
	l.credentials[c.Name] = c
	what := "credential " + c.Name
	if !l.Mapping(f.Value, what, credentialKeys()...) {
		return
	}
	kind := f.Value.Get("kind")
	known := false
	if kind == nil {
		l.At(f.Key, "write kind: bearer, or another one", "%s has no kind", what)
	} else if t, ok := l.Text(kind, "kind"); ok {
		if _, known = KindFields[plan.Kind(t)]; known {
			c.Kind = plan.Kind(t)
		} else {
			l.At(kind, "write one of "+yaml.Or(plan.Kinds()), "this kind of credential is not supported")
		}
	}
	if known {
		l.kindKeys(f, c.Kind, what)
	}
	l.credentialFields(f.Value, &c)
	if n := f.Value.Get("secret"); n == nil {
		l.At(f.Key, plan.ReferenceHint, "%s has no secret", what)
	} else if t, ok := l.Text(n, "secret"); ok {
		c.Secret = l.secret(n, t)
	}
	if n := f.Value.Get("placeholders"); n != nil {
		c.Placeholders = l.placeholders(n)
	}
	l.credentials[c.Name] = c
}

func credentialKeys() []string {
	keys := []string{"kind", "secret", "placeholders"}
	for _, kind := range plan.Kinds() {
		for _, k := range KindFields[kind] {
			if k = strings.TrimSuffix(k, "!"); !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
	}
	return keys
}

// kindKeys reports keys that a credential of this kind lacks, or may not have.
func (l *loader) kindKeys(f yaml.Field, kind plan.Kind, what string) {
	var foreign []string
	for _, key := range credentialKeys()[3:] {
		if !slices.Contains(KindFields[kind], key) && !slices.Contains(KindFields[kind], key+"!") {
			foreign = append(foreign, key)
		}
	}
	l.Useless(f.Value, "a credential of kind "+string(kind), foreign...)
	for _, key := range KindFields[kind] {
		if key, needed := strings.CutSuffix(key, "!"); needed && f.Value.Get(key) == nil {
			l.At(f.Key, fieldHints[key], "%s has no %s", what, key)
		}
	}
}

// identifier matches the names of apps, installations, services and regions.
var identifier = plan.Matching(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// credentialFields reads the keys of kinds, besides the secret.
func (l *loader) credentialFields(n *yaml.Node, c *plan.Credential) {
	read := func(key, hint string, valid func(string) bool) string {
		v := n.Get(key)
		if v == nil {
			return ""
		}
		if v.Kind == yaml.KindInteger && identifier(v.Text) && (key == "app" || key == "installation") {
			return v.Text
		}
		t, ok := l.Text(v, key)
		if ok && !valid(t) {
			l.At(v, hint, "%s is not valid", key)
			return ""
		}
		return t
	}
	printable := func(t string) bool {
		return len(t) <= 256 && !strings.ContainsFunc(t, func(r rune) bool { return r < ' ' || r > '~' })
	}
	if v := n.Get("header"); v != nil {
		if t, ok := l.Text(v, "header"); ok {
			c.Header = l.header(v, t)
		}
	}
	if v := n.Get("prefix"); v != nil {
		if t, ok := l.Text(v, "prefix"); ok {
			if len(t) > MaxPrefix || !printable(t) {
				l.At(v, `write what precedes the secret, such as "Bearer "`, "prefix is longer than %d characters or not printable ASCII", MaxPrefix)
			}
			c.Prefix = t
		}
	}
	c.Username = read("username", "write printable ASCII without a colon", func(t string) bool { return printable(t) && !strings.Contains(t, ":") })
	if id := read("client_id", "write printable ASCII", printable); id != "" {
		c.Username = id
	}
	c.Parameter = read("parameter", "write the parameter's name, such as key", func(t string) bool {
		return identifier(strings.TrimLeft(t, "_$"))
	})
	c.App = read("app", "write the app's ID or client ID", identifier)
	c.Installation = read("installation", "write the installation's ID", identifier)
	c.Service = read("service", "write the name that AWS signs with, such as s3", identifier)
	c.Region = read("region", "write a name such as eu-west-1", identifier)
	c.Audience = read("audience", "write printable ASCII", printable)
	c.TokenURL = read("token_url", "write an https:// URL without user, query or fragment", endpoint)
	if u := read("api_url", "write an https:// URL without user, query or fragment", endpoint); u != "" {
		c.TokenURL = strings.TrimSuffix(u, "/")
	}
	if v := n.Get("scopes"); v != nil {
		l.Texts(v, "scopes", "remove the key", func(item *yaml.Node, t string) {
			if !printable(t) || strings.ContainsAny(t, ` "\\`) {
				l.At(item, "write one scope for each item", "a scope is not valid")
				return
			}
			c.Scopes = append(c.Scopes, t)
		})
		slices.Sort(c.Scopes)
	}
}

// endpoint reports whether secrets may be sent to the URL: over TLS, or to this machine.
func endpoint(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || len(raw) > 1024 {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && plan.Loopback(u.Hostname())
}

// placeholders reads variables without which a client refuses to work. It refuses variables on
// which the sandbox itself, or the start of a program, depends.
func (l *loader) placeholders(n *yaml.Node) []string {
	var out []string
	l.Texts(n, "placeholders", "remove the key", func(item *yaml.Node, t string) {
		switch upper := strings.ToUpper(t); {
		case !variable(t):
			l.At(item, "write a name such as ANTHROPIC_API_KEY", "a placeholder is not a valid environment variable")
		case hasPrefix(upper, "LD_", "BASH_", "SSL_CERT_") || strings.HasSuffix(upper, "_PROXY") || slices.Contains([]string{"PATH", "HOME", "SHELL", "IFS", "ENV"}, upper):
			l.At(item, "remove it", "%s is the sandbox's own", t)
		default:
			out = append(out, t)
		}
	})
	slices.Sort(out)
	return out
}

func (l *loader) header(n *yaml.Node, t string) string {
	h := strings.ToLower(t)
	switch {
	case !token7230(h):
		l.At(n, "write a name such as x-api-key", "header is not a valid name of a header")
	case slices.Contains(transport, h) || hasPrefix(h, "proxy-", "x-postern-", "x-envoy-", "x-forwarded-", "sec-"):
		l.At(n, "write the header in which the destination expects the credential", "header %s belongs to the connection or to the proxy", h)
	}
	return h
}

// secret returns the reference in its absolute form.
func (l *loader) secret(n *yaml.Node, t string) string {
	if path, ok := strings.CutPrefix(t, "file:"); ok && !hasPrefix(path, "//") {
		path, field, selects := strings.Cut(path, "#")
		if path == "" || strings.HasSuffix(path, "/") || strings.Contains(path, "\x00") {
			l.At(n, plan.ReferenceHint, "secret does not name a file")
			return ""
		}
		t = (&url.URL{Scheme: "file", Path: l.Resolve(path)}).String()
		if selects {
			t += "#" + field
		}
	}
	ref, err := plan.ParseReference(t)
	var wrong *plan.ReferenceError
	if errors.As(err, &wrong) {
		l.At(n, wrong.Hint, "%s", wrong.Text)
		return ""
	}
	if ref.Source == plan.SourceFile || ref.Source == plan.SourceExec {
		l.trusted(n, ref.Name, "")
	}
	if ref.Source == plan.SourceExec && ref.Digest == "" {
		t = pin(t, ref.Name)
	}
	return t
}

func hasPrefix(s string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}
