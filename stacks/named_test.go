package stacks

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestWhatAStackFileNames: whoever writes a stack file names files too, and none of
// them makes the loader wait, or read without end.
func TestWhatAStackFileNames(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		make func(path string) error
		want string
	}{
		"a device": {func(path string) error { return os.Symlink("/dev/zero", path) }, "is a device, not a regular file; name a PEM file with only the authorities of this destination"},
		"a pipe":   {func(path string) error { return unix.Mkfifo(path, 0o600) }, "is a pipe, not a regular file"},
		"a folder": {func(path string) error { return os.Mkdir(path, 0o700) }, "is a folder, not a regular file"},
		"too much": {func(path string) error { return os.WriteFile(path, make([]byte, 256<<10+1), 0o600) }, "is larger than 256 KiB"},
		"a secret": {func(path string) error { return os.WriteFile(path, []byte("s3cret"), 0o600) }, "has no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "local.yaml")
			ca := filepath.Join(filepath.Dir(path), "ca.pem")
			require.NoError(t, tc.make(ca))
			write(t, path, `version: 1
target: local
destinations:
  a: {host: a.example.com, upstream: {address: "192.0.2.1:443", ca: ca.pem}}
agents:
  demo: {allow: [a]}
`)
			_, err := Load(path)
			require.ErrorContains(t, err, path+":4:")
			require.ErrorContains(t, err, ca+" "+tc.want)
			require.NotContains(t, err.Error(), "s3cret")
		})
	}
}

func TestEncodings(t *testing.T) {
	t.Parallel()
	const text = "version: 1\ntarget: local\n"
	wide := func(mark string, order ...int) string {
		out := mark
		for _, c := range []byte(text) {
			pair := []byte{c, 0}
			out += string([]byte{pair[order[0]], pair[order[1]]})
		}
		return out
	}
	for name, tc := range map[string]struct{ data, want string }{
		"UTF-8 with a mark":    {"\xef\xbb\xbf" + text, "the file is UTF-8 with a byte order mark; save it as UTF-8 without a byte order mark"},
		"UTF-16 little-endian": {wide("\xff\xfe", 0, 1), "the file is UTF-16; save it as UTF-8"},
		"UTF-16 big-endian":    {wide("\xfe\xff", 1, 0), "the file is UTF-16; save it as UTF-8"},
		"UTF-16 unmarked":      {wide("", 0, 1), "a character that a stack file may not contain; write plain UTF-8 text"},
	} {
		path := filepath.Join(t.TempDir(), "local.yaml")
		write(t, path, tc.data)
		_, err := Load(path)
		require.ErrorContains(t, err, path+":1:", name)
		require.ErrorContains(t, err, tc.want, name)
	}
}

// TestHostsAreCalledWhatTheyAre: what is wrong with a name is said, and nothing else.
func TestHostsAreCalledWhatTheyAre(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		`\x1b[31mgithub.com`: `host "\x1b[31mgithub.com": label "\x1b[31mgithub" has a character that is not a letter, digit or hyphen`,
		`github.com[0]`:      `label "com[0]" has a character that is not`,
		`a:b:c.example.com`:  `label "a:b:c" has a character that is not`,
		`[::1]`:              `host "[::1]" is an IP address, not a name`,
		`fe80::1%eth0`:       `host "fe80::1%eth0" is an IP address, not a name`,
		`[fe80::1%25eth0]`:   `host "[fe80::1%25eth0]" is an IP address, not a name`,
		`::ffff:192.0.2.1`:   `host "::ffff:192.0.2.1" is an IP address, not a name`,
	} {
		path := filepath.Join(t.TempDir(), "local.yaml")
		write(t, path, "version: 1\ntarget: local\ndestinations:\n  a: {host: \""+host+"\"}\nagents:\n  demo: {allow: [a]}\n")
		_, err := Load(path)
		require.ErrorContains(t, err, want, host)
	}
}

// TestEveryMappingRefusesUnknownKeys writes the mappings out, each with one key too many:
// a list that the loader has cannot see that the loader's list is short.
func TestEveryMappingRefusesUnknownKeys(t *testing.T) {
	t.Parallel()
	const whole = `version: 1
target: local
credentials:
  c: {kind: header, header: x-api-key, secret: "env://KEY"}
destinations:
  a:
    host: a.example.com
    credential: c
    limits: {requests: 600/min}
    upstream: {address: "192.0.2.1:443"}
  g: {host: git.example.com, git: {read: ["acme/*"]}}
  q: {host: q.example.com, methods: [GET], paths: ["/v1/*"], query: {format: json}}
  r: {host: r.example.com, rules: [{name: read, methods: [GET]}]}
  o: {host: o.example.com, own_credentials: {allow: true, reason: login}}
agents:
  demo:
    allow: [a, g, q, r, o]
    presets:
      - {name: docs-read}
    limits: {requests: 600/min}
proxies: {count: 2}
`
	path := filepath.Join(t.TempDir(), "local.yaml")
	write(t, path, whole)
	_, err := Load(path)
	require.NoError(t, err)
	for _, mapping := range []string{
		"version: 1\n", "c: {", "a:\n    ", "limits: {requests: 600/min}\n    upstream", "upstream: {", "git: {", "q: {host", "demo:\n    ", "- {name: docs-read", "{name: read", "own_credentials: {", "limits: {requests: 600/min}\nproxies", "proxies: {",
	} {
		require.Equal(t, 1, strings.Count(whole, mapping), mapping)
		unknown := strings.Replace(mapping, "{", "{zzz: 1, ", 1)
		if unknown == mapping {
			at := strings.LastIndexAny(mapping, "\n")
			unknown = mapping[:at+1] + mapping[at+1:] + "zzz: 1\n" + mapping[at+1:]
		}
		write(t, path, strings.Replace(whole, mapping, unknown, 1))
		_, err := Load(path)
		require.ErrorContains(t, err, `"zzz"`, mapping)
	}
}

// TestTunnelsHaveNoConditions: nothing of a tunnel's requests is seen, so a condition
// on one would be lost without a word.
func TestTunnelsHaveNoConditions(t *testing.T) {
	t.Parallel()
	for _, condition := range []string{
		`query: {format: json}`, `headers: {x-team: a}`, `methods: [GET]`, `paths: ["/v1/*"]`,
		`rules: [{name: r, methods: [GET]}]`, `rules: [{name: r, query: {format: json}}]`, `rules: [{name: r, headers: {x-team: a}}]`,
	} {
		path := filepath.Join(t.TempDir(), "local.yaml")
		write(t, path, "version: 1\ntarget: local\ndestinations:\n  a: {host: a.example.com, mode: tunnel, "+condition+"}\nagents:\n  demo: {allow: [a]}\n")
		_, err := Load(path)
		require.ErrorContains(t, err, path+":4:", condition)
		want := "a tunnel has no " + strings.Split(condition, ":")[0]
		if strings.HasPrefix(condition, "rules") {
			want = "a tunnel cannot be inspected"
		}
		require.ErrorContains(t, err, want, condition)
	}
}
