package yaml

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// reading is a reader of a file with the key v, what it reads there, and the problems.
type reading struct {
	value string
	read  func(r *Reader, n *Node) any
	want  any
	// problems begin with the column.
	problems []string
}

func check(t *testing.T, dir string, readings []reading) {
	t.Helper()
	for _, c := range readings {
		p := &Problems{File: "x.yaml"}
		root := Parse([]byte("v: "+c.value+"\n"), p)
		require.NoError(t, p.Err(), c.value)
		got := c.read(&Reader{Problems: p, Dir: dir}, root.Get("v"))
		require.Equal(t, c.want, got, c.value)
		var problems []string
		for _, problem := range p.List {
			require.Equal(t, []any{"x.yaml", 1}, []any{problem.File, problem.Line})
			text := strings.TrimPrefix(problem.Error(), "x.yaml:1:")
			problems = append(problems, strings.ReplaceAll(text, dir+"/", "DIR/"))
		}
		require.Equal(t, c.problems, problems, c.value)
	}
}

// TestScalars: what each reader of a scalar takes, and what it says of all else.
func TestScalars(t *testing.T) {
	t.Parallel()
	text := func(r *Reader, n *Node) any { s, ok := r.Text(n, "it"); return fmt.Sprint(s, ok) }
	integer := func(r *Reader, n *Node) any { return r.Integer(n, "it", 1, 16) }
	boolean := func(r *Reader, n *Node) any { return r.Boolean(n, "it") }
	oneOf := func(r *Reader, n *Node) any { return r.OneOf(n, "it", "local", "aws") }
	size := func(r *Reader, n *Node) any { return r.Size(n, "it", "") }
	rate := func(r *Reader, n *Node) any { return r.Size(n, "it", "/s") }
	const (
		notNumber = "4: it is not a valid number; write a number from 1 to 16"
		notBytes  = "4: it is not a valid number of bytes; write a number of B, KiB, MiB or GiB, such as 10MiB"
		notRate   = "4: it is not a valid number of bytes/s; write a number of B, KiB, MiB or GiB, such as 10MiB/s"
	)
	check(t, "/x", []reading{
		{"a b", text, "a btrue", nil},
		{`"12"`, text, "12true", nil},
		{"12", text, "false", []string{"4: it is an integer, not text; write it in quotes"}},
		{"true", text, "false", []string{"4: it is of another type, not text; write it in quotes"}},
		{"1.5", text, "false", []string{"4: it is of another type, not text; write it in quotes"}},
		{"[a]", text, "false", []string{"4: it is a list, not text; write text"}},
		{"{a: b}", text, "false", []string{"4: it is a mapping, not text; write text"}},
		{"null", text, "false", []string{"4: it is nothing, not text; write text"}},
		{`""`, text, "false", []string{"4: it is empty; write it, or remove the key"}},

		{"1", integer, 1, nil},
		{"16", integer, 16, nil},
		{"0", integer, 0, []string{notNumber}},
		{"17", integer, 0, []string{notNumber}},
		{"010", integer, 0, []string{notNumber}},
		{"0x8", integer, 0, []string{notNumber}},
		{`"8"`, integer, 0, []string{notNumber}},
		{"99999999999999999999", integer, 0, []string{notNumber}},

		{"true", boolean, true, nil},
		{"false", boolean, false, nil},
		{`"yes"`, boolean, false, []string{"4: it is text; write true or false"}},
		{"1.5", boolean, false, []string{`4: it is "1.5"; write true or false`}},
		{`"true"`, boolean, true, []string{"4: it is text; write true or false"}},

		{"aws", oneOf, "aws", nil},
		{"azure", oneOf, "local", []string{`4: it "azure" is not known; write one of local or aws`}},
		{"awz", oneOf, "local", []string{`4: it "awz" is not known; did you mean aws?`}},
		{"1", oneOf, "local", []string{"4: it is an integer, not text; write it in quotes"}},

		{"1B", size, uint64(1), nil},
		{"10KiB", size, uint64(10 << 10), nil},
		{"3MiB", size, uint64(3 << 20), nil},
		{"999999999GiB", size, uint64(999999999) << 30, nil},
		{"8589934591GiB", size, uint64(8589934591) << 30, nil},
		{"8589934592GiB", size, uint64(0), []string{"4: it is more than can be counted; write less"}},
		{"1234567890123B", size, uint64(0), []string{notBytes}},
		{"0B", size, uint64(0), []string{notBytes}},
		{"10kB", size, uint64(0), []string{notBytes}},
		{"x10B", size, uint64(0), []string{notBytes}},
		{"10", size, uint64(0), []string{notBytes}},
		{"10MiB/s", size, uint64(0), []string{notBytes}},
		{"10MiB", rate, uint64(0), []string{notRate}},
		{"1KiB/s", rate, uint64(1 << 10), nil},
		{"1023B/s", rate, uint64(1023), []string{"4: it is less than the proxies can count; write at least 1KiB/s"}},
	})
	for n, want := range map[uint64]string{
		1: "1B", 1000: "1000B", 1 << 10: "1KiB", 1536: "1536B", 3 << 20: "3MiB", 1025 << 10: "1025KiB", 2 << 30: "2GiB",
	} {
		require.Equal(t, want, SizeText(n))
	}
}

// TestCollections: which keys and items are taken.
func TestCollections(t *testing.T) {
	t.Parallel()
	mapping := func(r *Reader, n *Node) any { return r.Mapping(n, "it", "alpha", "beta") }
	whole := func(r *Reader, n *Node) any { return r.Mapping(n, "it") }
	useless := func(r *Reader, n *Node) any { r.Useless(n, "it", "alpha", "beta"); return nil }
	texts := func(r *Reader, n *Node) any {
		var got []string
		r.Texts(n, "it", "write one", func(item *Node, text string) {
			got = append(got, fmt.Sprint(text, item.Col))
		})
		return strings.Join(got, " ")
	}
	required := func(r *Reader, n *Node) any {
		even := func(s string) bool { return len(s)%2 == 0 }
		return r.Required(n, "it", "account", "write two letters", even)
	}
	region := func(r *Reader, n *Node) any { return r.Required(n, "it", "region", "write it", nil) }
	check(t, "/x", []reading{
		{"{alpha: 1, beta: 2}", mapping, true, nil},
		{"{}", mapping, true, nil},
		{"{alpha: 1, bet: 2, x: 3}", mapping, true, []string{
			`15: unknown key "bet" in it; did you mean beta?`, `23: unknown key "x" in it; write one of alpha or beta`,
		}},
		{"{any: 1}", whole, true, nil},
		{"[a]", mapping, false, []string{"4: it is a list, not a mapping; write key: value pairs, or {} for none"}},
		{"1.5", mapping, false, []string{`4: it is "1.5", not a mapping; write key: value pairs, or {} for none`}},
		{"{gamma: 1}", useless, nil, nil},
		{"{gamma: 1, beta: 2}", useless, nil, []string{"15: it has no beta; remove it"}},

		{"[a, b]", texts, "a5 b8", nil},
		{"[a, b, a, 7, c]", texts, "a5 b8 c17", []string{
			`11: "a" is in it already; remove one of them`,
			"14: an item of it is an integer, not text; write it in quotes",
		}},
		{"[]", texts, "", []string{"4: it is an empty list; write one"}},
		{"a", texts, "", []string{"4: it is text, not a list; write a list, such as [a, b]"}},

		{"{account: ab}", required, "ab", nil},
		{"{account: abc}", required, "", []string{"14: account is not valid; write two letters"}},
		{"{account: 12}", required, "", []string{
			"14: account is an integer, not text; write it in quotes: it may begin with 0",
		}},
		{"{account: true}", required, "", []string{"14: account is of another type, not text; write it in quotes"}},
		{"{a: b}", required, "", []string{"4: it has no account; write two letters"}},
		{"{region: 12}", region, "", []string{
			"13: region is an integer, not text; write it in quotes",
		}},
	})
}

// authority is a certificate of nobody.
const authority = `-----BEGIN CERTIFICATE-----
MIIBdjCCARugAwIBAgIUGxC/ZHczkLU4iUsE4uh1BegrW78wCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjMwNzA4NDZaGA8yMTI2MTAzMDA3MDg0
NlowDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABK+p
2fvjPmiMIbHfglbG55IoFo84VPNafxMOiVSxPlQrCTBnGejth6evJOkGCJwEZ1M7
1fOhUT891cCH9ulz7fOjUzBRMB0GA1UdDgQWBBQbUHJFPR1fNVFUt2cWqRwfJtJO
7jAfBgNVHSMEGDAWgBQbUHJFPR1fNVFUt2cWqRwfJtJO7jAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0kAMEYCIQDYcRpRKnVGmu0KZkEVE2lpXMQPmAdYbJE7
3jW6nBi9kQIhAJaaPt8tQzmOjQENvx+bmG1XshenUxnoyQlcpJNk87YM
-----END CERTIFICATE-----
`

// TestCertificates: only certificates come out of a file that a stack file names.
func TestCertificates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"one.pem": "# ours\n" + authority + "# end\n", "two.pem": authority + authority, "empty.pem": "nothing\n",
		"key.pem":   authority + "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n",
		"bad.pem":   "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
		"huge.pem":  strings.Repeat("#", 256<<10+1),
		"whole.pem": authority + strings.Repeat("#", 256<<10-len(authority)),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "folder"), 0o700))
	read := func(r *Reader, n *Node) any { return r.Certificates(n, r.Resolve(n.Text)) }
	const only = "name a PEM file with only the authorities of this destination"
	check(t, dir, []reading{
		{"one.pem", read, authority, nil},
		{"./x/../two.pem", read, authority + authority, nil},
		{dir + "/x/../one.pem", read, authority, nil},
		{"whole.pem", read, authority, nil},
		{"empty.pem", read, "", []string{"4: DIR/empty.pem has no certificate; name a PEM file"}},
		{"key.pem", read, "", []string{
			"4: DIR/key.pem has a block of type PRIVATE KEY; name a file that has only certificates",
		}},
		{"bad.pem", read, "", []string{"4: DIR/bad.pem has a certificate that cannot be parsed"}},
		{"huge.pem", read, "", []string{"4: DIR/huge.pem is larger than 256 KiB; " + only}},
		{"folder", read, "", []string{"4: DIR/folder is a folder, not a regular file; " + only}},
		{"one.pem/x", read, "", []string{"4: DIR/one.pem/x cannot be read: not a directory; " + only}},
		{"none.pem", read, "", []string{
			"4: DIR/none.pem does not exist; create it, or for the demo run `bin/postern demo --prepare`",
		}},
	})
}

// TestNearest: a word that is near enough is named, and else all that there are.
func TestNearest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		word       string
		candidates []string
		want       string
	}{
		{"hots", []string{"port", "host"}, "did you mean host?"},
		{"hosts", []string{"host", "hostes"}, "did you mean host?"},
		{"metod", []string{"paths", "method", "methods"}, "did you mean method?"},
		{"hst", []string{"path", "host"}, "did you mean host?"},
		{"xyz", []string{"host"}, "write host"},
		{"ab", []string{"x", "cd"}, "write one of x or cd"},
		{"ax", []string{"x", "cd"}, "write one of x or cd"},
		{"zzzz", []string{"a", "b", "c"}, "write one of a, b or c"},
		{"zzzz", nil, "none is declared"},
	} {
		require.Equal(t, c.want, Nearest(c.word, c.candidates), "%s of %v", c.word, c.candidates)
	}
}

// TestRefused: what of YAML a stack file does without, and where it is.
func TestRefused(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 32)
	for text, want := range map[string]string{
		"\xef\xbb\xbfa: b\n": "1:1: the file is UTF-8 with a byte order mark; save it as UTF-8 without",
		"\xff\xfea":          "1:1: the file is UTF-16; save it as UTF-8 without a byte order mark",
		"\xfe\xffa":          "1:1: the file is UTF-16; save it as UTF-8 without a byte order mark",
		"a: b\nc: \x00\n":    "2:4: a character that a stack file may not contain; write plain UTF-8 text",
		"a: \u0085":          "1:4: a character that a stack file may not contain; write plain UTF-8 text",
		"a: \u2028":          "1:4: a character that a stack file may not contain; write plain UTF-8 text",
		"a: \u2029":          "1:4: a character that a stack file may not contain; write plain UTF-8 text",
		"a: \ufeff":          "1:4: a character that a stack file may not contain; write plain UTF-8 text",
		"a: \xff":            "1:4: a character that a stack file may not contain; write plain UTF-8 text",
		"a: \x7f":            "1:4: a character that a stack file may not contain; write plain UTF-8 text",
		"a: \u009f":          "1:4: a character that a stack file may not contain; write plain UTF-8 text",
		"a: b\r\nc: d\re\n":  "2:1: a carriage return within a line; end lines with a newline",
		"a: [" + deep + "\n": "1:1: brackets are nested 33 deep; write at most as many levels as stacks/local.yaml",
		"a: b\n---\nc: d\n":  "3:1: a second YAML document; write one document, without ---",
		"# nothing\n":        "1:1: the file is empty; write version: 1 and target: local",
		"a: &x b\n":          "1:4: anchors (&) are not supported; write the value where it is used",
		"a: *x\n":            "1:4: aliases (*) are not supported; a text that begins with * needs quotes",
		"a: !t b\n":          "1:4: tags (!) are not supported; write the value without it",
		"a: b\n<<: c\n":      "2:1: merge keys (<<) are not supported; write the keys out",
		"a: b\n\"a\": c\n":   `2:1: key "a" is there already, in line 1; remove one of them`,
		"a: {b: c, b: d}\n":  `1:11: key "b" is there already, in line 1; remove one of them`,
		"a: [b\n":            "1:4: not YAML: ",
		"? [a]\n: b\n":       "x.yaml:2:1: not YAML: found an invalid key for this map",
	} {
		p := &Problems{File: "x.yaml"}
		require.Nil(t, Parse([]byte(text), p), "%q", text)
		require.ErrorContains(t, p.Err(), want, "%q", text)
		require.Len(t, p.List, 1, "%q", text)
	}
	for _, text := range []string{
		"a: \"\t\"\n", "a: \u00a0\n", "a: b\r\n", "a: " + deep[:31] + strings.Repeat("]", 31) + "\n",
	} {
		p := &Problems{File: "x.yaml"}
		require.NotNil(t, Parse([]byte(text), p), "%q", text)
		require.NoError(t, p.Err(), "%q", text)
	}
}

// TestTree: kinds, positions and texts of all that the library reads.
func TestTree(t *testing.T) {
	t.Parallel()
	p := &Problems{File: "x.yaml"}
	root := libraryYAML([]byte("a: é\nb: 'q'\nc: |\n  x\nd: 7\ne: ~\nf: .nan\ng:\n- x\n-\n"+
		"  k: v\nh: [1, {z: true}]\n8:\n\"i\": {}\n"), p)
	require.NoError(t, p.Err())
	var lines []string
	var walk func(n *Node)
	walk = func(n *Node) {
		lines = append(lines, fmt.Sprintf("%d:%d %s %q %v %v %d:%d",
			n.Line, n.Col, n.Kind, n.Text, n.quoted, n.Flow, n.EndLine, n.EndCol))
		for _, f := range n.Fields {
			walk(f.Key)
			walk(f.Value)
		}
		for _, i := range n.Items {
			walk(i)
		}
	}
	walk(root)
	require.Equal(t, strings.Split(strings.TrimSpace(tree), "\n"), lines)
	require.Nil(t, root.Get("z"))
	require.Equal(t, "7", root.Get("d").Text)
}

// tree has, of each node: where it begins, its kind and text, if it is quoted, if it is in brackets
// or braces, and where these end.
const tree = `
1:1 a mapping "" false false 0:0
1:1 text "a" false false 0:0
1:4 text "é" false false 0:0
2:1 text "b" false false 0:0
2:4 text "q" true false 0:0
3:1 text "c" false false 0:0
3:4 text "x\n" true false 0:0
5:1 text "d" false false 0:0
5:4 an integer "7" false false 0:0
6:1 text "e" false false 0:0
6:4 nothing "" false false 0:0
7:1 text "f" false false 0:0
7:4 of another type ".nan" false false 0:0
8:1 text "g" false false 0:0
9:1 a list "" false false 0:0
9:3 text "x" false false 0:0
11:3 a mapping "" false false 0:0
11:3 text "k" false false 0:0
11:6 text "v" false false 0:0
12:1 text "h" false false 0:0
12:4 a list "" false true 12:17
12:5 an integer "1" false false 0:0
12:8 a mapping "" false true 12:16
12:9 text "z" false false 0:0
12:12 of another type "true" false false 0:0
13:1 text "8" false false 0:0
13:3 nothing "" false false 0:0
14:1 text "i" true false 0:0
14:6 a mapping "" false true 14:7
`
