package stacks

import (
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/postern/postern/plan"
)

var (
	token7230 = regexp.MustCompile("^[a-z0-9!#$%&'*+.^_`|~-]+$")
	variable  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// maxPrefix bounds what precedes a secret.
const maxPrefix = 64

// transport are the headers that say how a message travels, not who sends it.
var transport = []string{
	"connection", "content-length", "date", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding",
	"upgrade", "via", "x-request-id",
}

// credential reads one credential. Messages never quote what could be a secret
// that was written into the wrong place.
func (l *loader) credential(f field) {
	l.name(f.key, "a credential")
	c := plan.Credential{Name: f.key.text, Kind: "header"}
	l.credentials[c.Name] = c
	what := "credential " + c.Name
	if !l.mapping(f.value, what, "kind", "header", "prefix", "secret") {
		return
	}
	if n := f.value.get("kind"); n == nil {
		l.at(f.key, "write kind: header", "%s has no kind", what)
	} else if t, ok := l.text(n, "kind"); ok && t != "header" {
		l.at(n, "write kind: header", "this kind of credential is not supported")
	}
	if n := f.value.get("header"); n == nil {
		l.at(f.key, "write header: and the name of the header, such as authorization", "%s has no header", what)
	} else if t, ok := l.text(n, "header"); ok {
		c.Header = l.header(n, t)
	}
	if n := f.value.get("prefix"); n != nil {
		if t, ok := l.text(n, "prefix"); ok {
			if len(t) > maxPrefix || strings.ContainsFunc(t, func(r rune) bool { return r < ' ' || r > '~' }) {
				l.at(n, `write what precedes the secret, such as "Bearer "`, "prefix is longer than %d characters or not printable ASCII", maxPrefix)
			}
			c.Prefix = t
		}
	}
	if n := f.value.get("secret"); n == nil {
		l.at(f.key, secretForm, "%s has no secret", what)
	} else if t, ok := l.text(n, "secret"); ok {
		c.Secret = l.secret(n, t)
	}
	l.credentials[c.Name] = c
}

func (l *loader) header(n *node, t string) string {
	h := strings.ToLower(t)
	switch {
	case !token7230.MatchString(h):
		l.at(n, "write a name such as x-api-key", "header is not a valid name of a header")
	case slices.Contains(transport, h) || hasPrefix(h, "proxy-", "x-postern-", "x-envoy-", "x-forwarded-", "sec-"):
		l.at(n, "write the header in which the destination expects the credential", "header %s belongs to the connection or to the proxy", h)
	}
	return h
}

const secretForm = `write where it is: "env://NAME", "file:///absolute/path" or "file:path/beside/this/file"; never the secret itself`

// secret returns the reference in its absolute form.
func (l *loader) secret(n *node, t string) string {
	if v, ok := strings.CutPrefix(t, "env://"); ok {
		if !variable.MatchString(v) {
			l.at(n, `write "env://NAME"`, "secret does not name an environment variable")
		}
		return t
	}
	path, ok := strings.CutPrefix(t, "file:")
	if !ok {
		l.at(n, secretForm, "secret is not a reference")
		return ""
	}
	if rest, ok := strings.CutPrefix(path, "//"); ok {
		p, err := url.PathUnescape(rest)
		if err != nil || !filepath.IsAbs(p) || strings.ContainsAny(rest, "?#") {
			l.at(n, secretForm, "secret does not name an absolute file")
			return ""
		}
		path = p
	}
	if path == "" || strings.HasSuffix(path, "/") || strings.Contains(path, "\x00") {
		l.at(n, secretForm, "secret does not name a file")
		return ""
	}
	return (&url.URL{Scheme: "file", Path: l.resolve(path)}).String()
}

func hasPrefix(s string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}
