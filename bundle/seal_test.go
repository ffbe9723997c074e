package bundle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// folder is a store in a folder, with an operator whose key is new.
func folder(t *testing.T, stack string) *Operator {
	t.Helper()
	dir := t.TempDir()
	o := &Operator{
		Store: &Store{
			URL: "file://" + filepath.Join(dir, "bundle"), Stack: stack, Trusted: filepath.Join(dir, "trusted.pem"),
		},
		Key: filepath.Join(dir, "ed25519"),
	}
	require.NoError(t, MakeKey(o.Key, o.Trusted))
	return o
}

func policy(hosts ...string) *plan.Plan {
	a := plan.Agent{Name: "a"}
	for _, h := range hosts {
		a.Rules = append(a.Rules, plan.Rule{
			ID: "a/" + h, Host: h, Port: 443, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath},
		})
	}
	return &plan.Plan{Stack: "test", Agents: []plan.Agent{a}}
}

// store puts a publication there without anybody to roll it out.
func (o *Operator) store(t *testing.T, p *plan.Plan) *Bundle {
	t.Helper()
	before, seq, err := o.base(t.Context(), nil)
	if seq > 1 {
		require.NoError(t, err)
	}
	b := &Bundle{Seq: seq, Plan: p}
	require.NoError(t, o.create(t.Context(), before, b))
	return b
}

func (o *Operator) file(seq uint64, suffix string) string {
	return filepath.Join(o.folder(), object(seq, suffix))
}

// TestReadingMakesNothing: only who publishes makes the folder.
func TestReadingMakesNothing(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	_, err := o.Current(t.Context())
	require.ErrorIs(t, err, ErrNone)
	_, err = o.Read(t.Context())
	require.ErrorIs(t, err, ErrNone)
	history, err := o.History(t.Context())
	require.NoError(t, err)
	require.Empty(t, history)
	_, err = o.Newest(t.Context())
	require.ErrorIs(t, err, ErrNone)
	require.NoFileExists(t, o.folder())
	require.NoDirExists(t, o.folder())
	require.NoFileExists(t, o.folder()+".lock")
	o.store(t, policy("one.test"))
	require.DirExists(t, o.folder())
}

// TestForged: what an object is refused for, and that an older one is never
// taken in its place.
func TestForged(t *testing.T) {
	t.Parallel()
	other := folder(t, "other")
	foreign, err := os.ReadFile(other.Key)
	require.NoError(t, err)
	for name, test := range map[string]struct {
		forge func(t *testing.T, o *Operator)
		why   string
	}{
		"changed": {func(t *testing.T, o *Operator) {
			edit(t, o.file(2, ".json"), func(s string) string { return strings.Replace(s, "two.test", "evil.test", 1) })
		}, "its signature is wrong: it was changed, or is torn"},
		"torn": {func(t *testing.T, o *Operator) {
			edit(t, o.file(2, ".json"), func(s string) string { return s[:len(s)-20] })
		}, "its signature is wrong: it was changed, or is torn"},
		"torn in its header": {func(t *testing.T, o *Operator) {
			edit(t, o.file(2, ".json"), func(s string) string { return s[:30] })
		}, "it is torn, or no publication at all"},
		"empty": {func(t *testing.T, o *Operator) {
			edit(t, o.file(2, ".json"), func(string) string { return "" })
		}, "it is torn, or no publication at all"},
		"something else": {func(t *testing.T, o *Operator) {
			edit(t, o.file(2, ".json"), func(string) string { return "<html>\n" })
		}, "it is torn, or no publication at all"},
		"replayed under another number": {func(t *testing.T, o *Operator) {
			require.NoError(t, os.Rename(o.file(1, ".json"), o.file(3, ".json")))
		}, `it says that it is "bundle/1" number 1 of stack "test", but it is in the place of bundle/1 number 3 of stack "test"`},
		"renumbered": {func(t *testing.T, o *Operator) {
			edit(t, o.file(1, ".json"), func(s string) string { return strings.Replace(s, `"seq":1`, `"seq":3`, 1) })
			require.NoError(t, os.Rename(o.file(1, ".json"), o.file(3, ".json")))
		}, "its signature is wrong"},
		"of another stack": {func(t *testing.T, o *Operator) {
			prod := &Operator{Store: &Store{URL: o.URL, Stack: "prod", Trusted: o.Trusted}, Key: o.Key}
			b := &Bundle{Seq: 3, Plan: policy("prod.test")}
			require.NoError(t, prod.create(t.Context(), nil, b))
		}, `number 3 of stack "prod"`},
		"by somebody else": {func(t *testing.T, o *Operator) {
			require.NoError(t, os.WriteFile(o.Key, foreign, 0o600))
			require.NoError(t, o.create(t.Context(), nil, &Bundle{Seq: 3, Plan: policy("evil.test")}))
		}, "which is not one of the operators' keys that are trusted"},
		"a mark": {func(t *testing.T, o *Operator) {
			b, err := o.Get(t.Context(), 2)
			require.NoError(t, err)
			require.NoError(t, o.mark(t.Context(), kindProven, b, ""))
			require.NoError(t, os.Rename(o.file(2, ".ok"), o.file(2, ".json")))
		}, "it says that it is \"proven/1\" number 2"},
		"unsigned": {func(t *testing.T, o *Operator) {
			edit(t, o.file(2, ".json"), func(s string) string { return s[strings.Index(s, "\n")+1:] })
		}, "it is torn, or no publication at all"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := folder(t, "test")
			o.store(t, policy("one.test"))
			o.store(t, policy("two.test"))
			test.forge(t, o)
			_, err := o.Current(t.Context())
			var broken *BrokenError
			require.ErrorAs(t, err, &broken)
			require.ErrorContains(t, err, test.why)
			require.NotContains(t, err.Error(), "PRIVATE")
			_, _, err = o.base(t.Context(), nil)
			require.ErrorAs(t, err, &broken, "and nobody builds on it")
			history, err := o.History(t.Context())
			require.NoError(t, err)
			require.Error(t, history[0].Broken())
		})
	}
}

func edit(t *testing.T, file string, how func(string) string) {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, []byte(how(string(b))), 0o600))
}

// TestRotateKey: what the old key has signed counts while it is trusted.
func TestRotateKey(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	o.store(t, policy("one.test"))
	require.NoError(t, os.Remove(o.Key))
	require.False(t, HasKey(o.Key, o.Trusted))
	require.NoError(t, MakeKey(o.Key, o.Trusted))
	require.True(t, HasKey(o.Key, o.Trusted))
	_, err := o.Current(t.Context())
	require.NoError(t, err)
	o.store(t, policy("two.test"))
	both, err := os.ReadFile(o.Trusted)
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(string(both), "BEGIN PUBLIC KEY"))
	// Without the first.
	second := string(both)[strings.LastIndex(string(both), "-----BEGIN"):]
	require.NoError(t, os.WriteFile(o.Trusted, []byte(second), 0o600))
	_, err = o.Current(t.Context())
	require.NoError(t, err)
	history, err := o.History(t.Context())
	require.NoError(t, err)
	require.NoError(t, history[0].Broken())
	require.ErrorContains(t, history[1].Broken(), "not one of the operators' keys")
}

// TestKeyFiles: a key that others may read, and files that hold no key.
func TestKeyFiles(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	info, err := os.Stat(o.Key)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	require.NoError(t, os.Chmod(o.Key, 0o644))
	_, err = readKey(o.Key)
	require.ErrorContains(t, err, "others may read")
	require.ErrorContains(t, MakeKey(o.Key, o.Trusted), "others may read", "it is not replaced without a word")
	for content, why := range map[string]string{
		"": "has none", "nothing": "has none",
		"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n": "not an Ed25519 public key",
	} {
		require.NoError(t, os.WriteFile(o.Trusted, []byte(content), 0o600))
		_, err = ReadTrusted(o.Trusted)
		require.ErrorContains(t, err, why)
	}
	require.NoError(t, os.WriteFile(o.Key, []byte("s3cr3t"), 0o600))
	require.NoError(t, os.Chmod(o.Key, 0o600))
	_, err = readKey(o.Key)
	require.ErrorContains(t, err, "not an Ed25519 key in PEM")
	require.NotContains(t, err.Error(), "s3cr3t")
}

// TestMakeKey: a key that is not trusted yet becomes so, next to those that are. Without the file of trusted keys
// there is no key.
func TestMakeKey(t *testing.T) {
	t.Parallel()
	o, other := folder(t, "test"), folder(t, "test")
	require.False(t, HasKey(o.Key, other.Trusted))
	require.NoError(t, MakeKey(o.Key, other.Trusted))
	require.True(t, HasKey(o.Key, other.Trusted))
	require.True(t, HasKey(other.Key, other.Trusted))

	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	require.ErrorContains(t, MakeKey(key, dir), "read the operators' public keys: "+dir+" is a folder")
	require.NoFileExists(t, key)
}

// TestMark: it is for the publication that was marked, and for no other.
func TestMark(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	o.store(t, policy("one.test"))
	b := o.store(t, policy("two.test"))
	require.NoError(t, o.mark(t.Context(), kindProven, b, ""))
	require.NoError(t, o.mark(t.Context(), kindProven, b, ""), "twice is once")
	require.NoError(t, o.Proven(t.Context(), b))
	marked, err := os.ReadFile(o.file(2, ".ok"))
	require.NoError(t, err)
	require.NoError(t, o.withdraw(t.Context(), 2))
	require.NoFileExists(t, o.file(2, ".ok"))
	b = o.store(t, policy("three.test"))
	require.Equal(t, uint64(2), b.Seq)
	require.NoError(t, os.WriteFile(o.file(2, ".ok"), marked, 0o600))
	require.ErrorContains(t, o.Proven(t.Context(), b), "for another publication of that number")
	v, err := o.Look(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(2), v.Newest)
}
