package decoders

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// A Decoder is a model of what one server makes of a request's target.
type Decoder struct {
	Name string
	// Path returns the path that an application is told, or that a file is looked
	// for at; false if the server refuses the request.
	Path func(path string) (string, bool)
	// Query returns parameters by the names that an application finds them by; false
	// if the server refuses the request.
	Query func(query string) (map[string][]string, bool)
}

// Asked are the models of servers whose answers testdata has.
var Asked = []Decoder{
	{"urllib", func(p string) (string, bool) { return lax(oneSlash(p)), true }, form(replaced)},
	{"django", func(p string) (string, bool) { return requote(lax(oneSlash(p))), true }, limited(form(replaced), 1000)},
	{"werkzeug", func(p string) (string, bool) { return toUTF8(lax(oneSlash(p))), true }, form(func(s string) string { return requote(lax(s)) })},
	{"starlette", func(p string) (string, bool) { return toUTF8(lax(p)), true }, form(replaced)},
	{"php", func(p string) (string, bool) { return resolve(lax(p)), true }, php},
	{"nginx", nginxPath, nginxQuery},
	{"node", nodePath, form(replaced)},
	{"express", expressPath, qs},
	{"rack", rackPath, rack},
	{"tomcat", tomcatPath, tomcatQuery},
	{"jetty", jettyPath, jettyQuery},
}

// Documented are models of what cannot be asked here, by documentation and published
// attacks: see testdata/documented.jsonl for each one's source.
var Documented = []Decoder{
	{"aspnet", aspnetPath, caseless},
	{"windows", func(p string) (string, bool) { return strings.ToLower(resolve(windows(lax(p)))), true }, form(lax)},
	{"overlong", func(p string) (string, bool) { return resolve(overlong(lax(p))), true }, form(func(s string) string { return overlong(lax(s)) })},
	{"twice", func(p string) (string, bool) { return cut(resolve(lax(lax(p)))), true }, form(func(s string) string { return lax(lax(s)) })},
	{"normalizing", func(p string) (string, bool) { return resolve(compatible(lax(p))), true }, form(lax)},
	{"dropping", func(p string) (string, bool) { return resolve(dropped(lax(p))), true }, form(lax)},
	{"cutting", func(p string) (string, bool) { return cut(resolve(lax(p))), true }, form(lax)},
}

// Go is this program's own server, which needs no model.
var Go = Decoder{"go", func(p string) (string, bool) {
	u, err := url.ParseRequestURI(p)
	if err != nil {
		return "", false
	}
	return u.Path, true
}, func(q string) (map[string][]string, bool) {
	v, _ := url.ParseQuery(q) // as Request.URL.Query does
	return v, true
}}

// lax decodes what is percent-encoded, and leaves what only looks like it.
func lax(s string) string {
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) && hex(s[i+1]) >= 0 && hex(s[i+2]) >= 0 {
			out = append(out, byte(hex(s[i+1])<<4|hex(s[i+2])))
			i += 2
		} else {
			out = append(out, s[i])
		}
	}
	return string(out)
}

func hex(c byte) int {
	if 'A' <= c && c <= 'F' {
		c += 'a' - 'A'
	}
	return strings.IndexByte("0123456789abcdef", c)
}

// malformed reports whether there is a percent sign that begins no escape.
func malformed(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] == '%' {
			if i+2 >= len(s) || hex(s[i+1]) < 0 || hex(s[i+2]) < 0 {
				return true
			}
			i += 2
		}
	}
	return false
}

// oneSlash is what Python's http.server does to slashes at the start.
func oneSlash(p string) string {
	if strings.HasPrefix(p, "//") {
		return "/" + strings.TrimLeft(p, "/")
	}
	return p
}

// replaced decodes, and puts U+FFFD in the place of what is not UTF-8.
func replaced(s string) string { return toUTF8(lax(s)) }

func toUTF8(s string) string { return string([]rune(s)) }

// requote encodes again what is not UTF-8.
func requote(s string) string {
	var b strings.Builder
	for i, c := range s {
		if _, n := utf8.DecodeRuneInString(s[i:]); c == utf8.RuneError && n == 1 {
			b.WriteString("%" + strings.ToUpper(hexOf(s[i])))
		} else {
			b.WriteRune(c)
		}
	}
	return b.String()
}

func hexOf(c byte) string { return string([]byte{"0123456789abcdef"[c>>4], "0123456789abcdef"[c&15]}) }

// resolve merges slashes and resolves dot segments, after decoding.
func resolve(p string) string {
	var out []string
	segments := strings.Split(p, "/")
	for i, s := range segments[1:] {
		last := i == len(segments)-2
		switch s {
		case "", ".":
			if last {
				out = append(out, "")
			}
		case "..":
			out = out[:max(0, len(out)-1)]
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, s)
		}
	}
	return "/" + strings.Join(out, "/")
}

// cut ends a path where a decoded one has a query, a fragment or a zero byte.
func cut(p string) string {
	if i := strings.IndexAny(p, "?#\x00"); i >= 0 {
		return p[:i]
	}
	return p
}

func nginxPath(p string) (string, bool) {
	if malformed(p) || strings.Contains(p, "%00") {
		return "", false
	}
	return resolve(lax(p)), true
}

func nginxQuery(q string) (map[string][]string, bool) {
	out := map[string][]string{}
	for piece := range strings.SplitSeq(q, "&") {
		name, value, there := strings.Cut(piece, "=")
		name = strings.ToLower(name)
		if _, twice := out[name]; there && !twice && value != "" {
			out[name] = []string{value}
		}
	}
	return out, true
}

// nodePath is WHATWG's URL, and then decodeURIComponent.
func nodePath(p string) (string, bool) {
	p = strings.ReplaceAll(p, `\`, "/")
	if strings.HasPrefix(p, "//") {
		_, p, _ = strings.Cut(p[2:], "/")
		p = "/" + p
	}
	var out []string
	segments := strings.Split(p, "/")
	for i, s := range segments[1:] {
		last := i == len(segments)-2
		switch strings.ReplaceAll(strings.ToLower(s), "%2e", ".") {
		case ".":
			if last {
				out = append(out, "")
			}
		case "..":
			out = out[:max(0, len(out)-1)]
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, s)
		}
	}
	return component("/" + strings.Join(out, "/"))
}

// component is decodeURIComponent.
func component(s string) (string, bool) {
	d := lax(s)
	return d, !malformed(s) && utf8.ValidString(d)
}

func expressPath(p string) (string, bool) { return component(p) }

func rackPath(p string) (string, bool) {
	return oneSlash(p), !malformed(p) && !strings.ContainsAny(p, `[]{}|^"\<>`+"`")
}

// parameters takes the parameters off the segments of a servlet's path.
func parameters(p string) string {
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return strings.Join(segments, "/")
}

func tomcatPath(p string) (string, bool) {
	low := strings.ToLower(p)
	if malformed(p) || strings.ContainsAny(p, `[]{}|^"\<>`+"`") || strings.Contains(low, "%2f") || strings.Contains(low, "%5c") || strings.Contains(low, "%00") {
		return "", false
	}
	d := lax(parameters(p))
	r := resolve(d)
	if strings.HasSuffix(d, "/.") || strings.HasSuffix(d, "/..") {
		r = "/" + strings.Trim(r, "/")
	}
	return r, utf8.ValidString(d)
}

func jettyPath(p string) (string, bool) {
	low := strings.ToLower(p)
	for _, s := range strings.Split(low, "/")[1:] {
		name, _, has := strings.Cut(s, ";")
		if plain := strings.ReplaceAll(name, "%2e", "."); plain != name && (plain == "." || plain == "..") || has && (name == "." || name == "..") {
			return "", false
		}
	}
	for i := range 0x20 {
		if strings.Contains(low, "%"+hexOf(byte(i))) {
			return "", false
		}
	}
	for _, s := range []string{"//", "/;", "%2f", "%5c", "%25", "%7f"} {
		if strings.Contains(low, s) && !(s == "/;" && strings.HasSuffix(parameters(p), "/") && strings.Count(p, "/;") == 1 && !strings.Contains(p[strings.Index(p, "/;")+1:], "/")) {
			return "", false
		}
	}
	d := lax(parameters(p))
	if malformed(p) || !utf8.ValidString(d) || strings.ContainsAny(p, `[]{}|^"\<>`+"`") {
		return "", false
	}
	return resolve(d), true
}

// form is a query as most servers read it: split at ampersands, plus signs are spaces.
func form(decode func(string) string) func(string) (map[string][]string, bool) {
	return func(q string) (map[string][]string, bool) {
		out := map[string][]string{}
		for piece := range strings.SplitSeq(q, "&") {
			if piece != "" {
				name, value, _ := strings.Cut(piece, "=")
				n := decode(spaces(name))
				out[n] = append(out[n], decode(spaces(value)))
			}
		}
		return out, true
	}
}

func spaces(s string) string { return strings.ReplaceAll(s, "+", " ") }

// limited refuses more parameters than some.
func limited(read func(string) (map[string][]string, bool), most int) func(string) (map[string][]string, bool) {
	return func(q string) (map[string][]string, bool) {
		out, ok := read(q)
		return out, ok && strings.Count(q, "&") < most
	}
}

// caseless is a query whose names are in lower case, as those of ASP.NET may be.
func caseless(q string) (map[string][]string, bool) {
	out := map[string][]string{}
	all, ok := form(replaced)(q)
	for name, values := range all {
		n := strings.ToLower(name)
		out[n] = append(out[n], values...)
	}
	return out, ok
}

func php(q string) (map[string][]string, bool) {
	out, lists := map[string][]string{}, map[string]bool{}
	q = strings.TrimLeft(q, "?")
	n := 0
	for piece := range strings.SplitSeq(q, "&") {
		if piece == "" {
			continue
		}
		if n++; n > 1000 {
			break
		}
		name, value, _ := strings.Cut(piece, "=")
		name = strings.TrimLeft(lax(spaces(name)), " ")
		name, _, _ = strings.Cut(name, "\x00")
		list := false
		if i := strings.IndexByte(name, '['); i >= 0 {
			if list = strings.Contains(name[i:], "]"); list {
				name = name[:i]
			} else {
				name = name[:i] + "_" + name[i+1:]
			}
		}
		if name == "" || strings.HasPrefix(name, "_") && strings.HasPrefix(strings.TrimLeft(lax(spaces(piece)), " "), "[") {
			continue
		}
		name = strings.NewReplacer(".", "_", " ", "_").Replace(name)
		if v := lax(spaces(value)); list && lists[name] {
			out[name] = append(out[name], v)
		} else {
			out[name], lists[name] = []string{v}, list
		}
	}
	return out, true
}

func rack(q string) (map[string][]string, bool) {
	out, lists := map[string][]string{}, map[string]bool{}
	for _, piece := range strings.FieldsFunc(q, func(c rune) bool { return c == '&' || c == ';' }) {
		piece = strings.TrimLeft(piece, " ")
		name, value, _ := strings.Cut(piece, "=")
		if malformed(piece) {
			return nil, false
		}
		name = strings.TrimLeft(lax(spaces(name)), "[]")
		rest := ""
		if i := strings.IndexAny(name, "[]"); i >= 0 {
			name, rest = name[:i], strings.TrimLeft(name[i:], "]")
		}
		if name == "" {
			continue
		}
		if rest == "[" {
			name += rest
		}
		v, list := lax(spaces(value)), strings.HasPrefix(rest, "[") && len(rest) > 1
		switch {
		case list && out[name] != nil && !lists[name]:
			return nil, false
		case list:
			out[name], lists[name] = append(out[name], v), true
		default:
			out[name], lists[name] = []string{v}, false
		}
	}
	return out, len(q) < 2048
}

// qs is what Express reads nested parameters with.
func qs(q string) (map[string][]string, bool) {
	out := map[string][]string{}
	n := 0
	for piece := range strings.SplitSeq(q, "&") {
		if n++; n > 1000 {
			break
		}
		name, value, _ := strings.Cut(piece, "=")
		decode := func(s string) string {
			if d, ok := component(spaces(s)); ok {
				return d
			}
			return spaces(s)
		}
		n := decode(name)
		if strings.Contains(n, "__proto__") {
			continue
		}
		if i := strings.IndexByte(n, '['); i == 0 {
			if name, _, closed := strings.Cut(n[1:], "]"); closed {
				n = name
			}
		} else if i > 0 {
			n = n[:i]
		}
		if n != "" {
			out[n] = append(out[n], decode(value))
		}
	}
	return out, true
}

func tomcatQuery(q string) (map[string][]string, bool) {
	if strings.ContainsAny(q, `[]{}|^"\<>`+"`") {
		return nil, false
	}
	kept := slices.DeleteFunc(strings.Split(q, "&"), func(piece string) bool { return malformed(piece) || strings.HasPrefix(piece, "=") })
	return form(replaced)(strings.Join(kept, "&"))
}

func jettyQuery(q string) (map[string][]string, bool) {
	out, _ := form(lax)(q)
	return out, !malformed(q) && utf8.ValidString(lax(q))
}

// sessions are what ASP.NET keeps in a path in the place of cookies.
var sessions = regexp.MustCompile(`/\((?:[A-Za-z]\([^/()]*\))+\)`)

// aspnetPath leaves out sessions, and what Windows does not count.
func aspnetPath(p string) (string, bool) {
	d := strings.ReplaceAll(lax(p), `\`, "/")
	for {
		found := sessions.FindStringIndex(d)
		if found == nil {
			break
		}
		rest := d[found[1]:]
		if found[0] == 0 && !strings.HasPrefix(rest, "/") {
			rest = "/" + rest
		}
		d = d[:found[0]] + rest
	}
	return strings.ToLower(resolve(windows(d))), true
}

// windows takes off what Windows does not count in a name: a stream of NTFS, and dots
// and blanks at the end.
func windows(p string) string {
	segments := strings.Split(strings.ReplaceAll(p, `\`, "/"), "/")
	for i, s := range segments {
		if j := strings.IndexByte(s, ':'); j >= 0 && strings.Contains(s[j:], "$") {
			s = s[:j]
		}
		if s != "." && s != ".." {
			t := strings.TrimRight(s, ". \t")
			if strings.HasPrefix(s, "..") && t == "" {
				t = ".."
			}
			s = t
		}
		segments[i] = s
	}
	return strings.Join(segments, "/")
}

// overlong decodes UTF-8 of up to six bytes, overlong or not.
func overlong(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c, n := rune(s[i]), 0
		switch {
		case c >= 0xfc && c < 0xfe:
			c, n = c&1, 5
		case c >= 0xf8 && c < 0xfc:
			c, n = c&3, 4
		case c >= 0xf0 && c < 0xf8:
			c, n = c&7, 3
		case c >= 0xe0 && c < 0xf0:
			c, n = c&15, 2
		case c >= 0xc0 && c < 0xe0:
			c, n = c&31, 1
		}
		whole := i+n < len(s)
		for j := 1; whole && j <= n; j++ {
			whole = s[i+j]&0xc0 == 0x80
			c = c<<6 | rune(s[i+j]&0x3f)
		}
		if n == 0 || !whole {
			b.WriteByte(s[i])
			continue
		}
		b.WriteRune(c)
		i += n
	}
	return b.String()
}

// compatible puts ASCII in the place of what looks like it.
func compatible(s string) string {
	s = strings.NewReplacer("\u2024", ".", "\u2025", "..", "\u2026", "...", "\ufe30", "..", "\ufe52", ".", "\u2044", "/", "\u2215", "/", "\u2216", `\`, "\uff3c", `\`, "\ufe68", `\`, "\u2100", "a/c", "\u037e", ";").Replace(s)
	return strings.ReplaceAll(strings.Map(func(c rune) rune {
		if c >= 0xff01 && c <= 0xff5e {
			return c - 0xfee0
		}
		return c
	}, s), `\`, "/")
}

// dropped leaves out what is not UTF-8, and what is not seen.
func dropped(s string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == utf8.RuneError, c >= 0x80 && c <= 0xa0, c == 0xad, c >= 0x200b && c <= 0x200f, c == 0xfeff, c >= 0x2060 && c <= 0x2064, c < ' ', c == 0x7f:
			return -1
		}
		return c
	}, s)
}
