package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit/link"
)

// tree is the content of the files of a log, by name.
type tree map[string][]byte

// built is a log with a digest, segments that were removed, a segment that is written to, and a
// checkpoint in the middle of that one.
func built(t *testing.T) tree {
	t.Helper()
	l := newLogged(t, bounds{segment: 3000, age: time.Hour, total: 15_000, digest: 500})
	for i := range 80 {
		require.NoError(t, l.w.Gap(fmt.Sprint("of no agent ", i)))
	}
	for i := range 60 {
		l.write(request(i)) // filled at once, and replaced by digests
	}
	for i := range 30 {
		require.NoError(t, l.w.Gap(fmt.Sprint("of no agent ", i)))
	}
	l.write(request(1), request(2))
	require.NoError(t, l.w.Record(Event{Kind: "published"}))
	l.write(request(3))
	l.stop()
	l.start()
	require.NoError(t, l.w.Tell())
	l.write(request(4))
	l.stop()
	return readTree(t, filepath.Join(l.dir, "n1"))
}

func request(i int) string { return strings.Replace(allowed, "/v1", fmt.Sprintf("/v1/%d", i), 1) }

func readTree(t *testing.T, dir string) tree {
	t.Helper()
	all := tree{}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		all[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
	}
	return all
}

// segments are the names of the segments, in the order of the log.
func (l tree) segments() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(l)), func(name string) bool {
		return !strings.HasSuffix(name, extension)
	})
}

// verified writes the log to a folder, and verifies it.
func (l tree) verified(t *testing.T, known map[string]Head) *Proof {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "n1"), 0o700))
	for name, content := range l {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "n1", name), content, 0o600))
	}
	proofs, err := Verify(t.Context(), dir, known)
	require.NoError(t, err)
	require.Len(t, proofs, 1)
	require.NoError(t, os.RemoveAll(dir))
	return &proofs[0]
}

func (l tree) with(changes tree) tree {
	l = maps.Clone(l)
	for name, content := range changes {
		if l[name] = content; content == nil {
			delete(l, name)
		}
	}
	return l
}

// say is what was found, without the details.
func (p *Proof) say() (all []string) {
	for _, f := range p.Findings {
		all = append(all, strings.TrimSpace(f.File+" "+f.Problem))
	}
	return all
}

func TestVerifyGood(t *testing.T) {
	t.Parallel()
	log := built(t)
	p := log.verified(t, nil)
	require.Empty(t, p.Findings)
	require.Empty(t, p.Unknown)
	require.Len(t, log.segments(), p.Segments)
	require.Zero(t, p.Unsigned)
	require.Len(t, p.Keys, 1)
	require.NotContains(t, string(log[chainName]), `"n":1,`, "its beginning is removed")
	for _, kind := range []string{link.Closed, link.Digest, link.Removed, link.Open} {
		require.Contains(t, string(log[chainName]), `"kind":"`+kind+`"`)
	}
	digests := 0
	for _, name := range log.segments() {
		if bytes.Contains(log[name], []byte(`"count":`)) && bytes.Contains(log[name], []byte(`"path":`)) {
			digests++
		}
	}
	require.NotZero(t, digests, "a digest is still there")
	require.Empty(t, log.verified(t, map[string]Head{"n1": p.Head}).Findings)
}

// TestEveryByteCounts flips bytes of every file that holds the log: each is found, and its file is
// named, alone if it is a segment.
func TestEveryByteCounts(t *testing.T) {
	t.Parallel()
	log := built(t)
	for _, name := range append(log.segments(), chainName) {
		content := log[name]
		step := max(1, len(content)/12)
		for i := 0; i < len(content); i += step {
			for _, bit := range []byte{1, 0x20} { // 0x20: another spelling of JSON
				b := bytes.Clone(content)
				b[i] ^= bit
				p := log.with(tree{name: b}).verified(t, nil)
				require.NotEmpty(t, p.Findings, "%s, byte %d", name, i)
				require.Equal(t, name, p.Findings[0].File, "byte %d: %v", i, p.Findings)
				if name != chainName {
					require.Equal(t, []string{name + " " + Changed}, p.say())
				} else {
					line := 1 + bytes.Count(content[:i], []byte("\n"))
					require.Equal(t, line, p.Findings[0].Line, "byte %d", i)
				}
			}
		}
		last := bytes.Clone(content)
		last[len(last)-1] ^= 1
		require.Equal(t, name, log.with(tree{name: last}).verified(t, nil).Findings[0].File)
	}
}

// TestSegmentsAreNamed: what was done to a segment is found, and the segment is named.
func TestSegmentsAreNamed(t *testing.T) {
	t.Parallel()
	log := built(t)
	names := log.segments()
	last := names[len(names)-1]
	for i, name := range names {
		content := log[name]
		require.Equal(t, []string{name + " " + Missing}, log.with(tree{name: nil}).verified(t, nil).say())
		for _, n := range []int{0, 1, len(content) / 2, len(content) - 1} {
			require.Equal(t, []string{name + " " + Truncated}, log.with(tree{name: content[:n]}).verified(t, nil).say())
		}
		longer := slices.Concat(content, []byte(`{"seq":9,"verdict":"allow"}`+"\n"))
		require.Equal(t, []string{name + " " + Extended}, log.with(tree{name: longer}).verified(t, nil).say())
		if name == last {
			p := log.with(tree{name: longer, markName: []byte{}}).verified(t, nil)
			require.Empty(t, p.Findings)
			require.EqualValues(t, len(longer)-len(content), p.Unsigned, "a writer works, and has not signed this yet")
		}
		for _, other := range names[i+1:] {
			swapped := log.with(tree{name: log[other], other: content})
			if other == last { // it has no whole content that a link knows
				require.Equal(t, other+" "+Reordered, swapped.verified(t, nil).say()[1])
				continue
			}
			require.Equal(t, []string{name + " " + Reordered, other + " " + Reordered}, swapped.verified(t, nil).say())
			require.Equal(t, []string{other + " " + Doubled}, log.with(tree{other: content}).verified(t, nil).say())
		}
	}
	// One that never was.
	require.Equal(t, []string{segmentName(1<<40) + " " + Doubled},
		log.with(tree{segmentName(1 << 40): log[names[0]]}).verified(t, nil).say())
	require.Equal(t, []string{segmentName(1<<40) + " " + Foreign},
		log.with(tree{segmentName(1 << 40): []byte("x\n")}).verified(t, nil).say())
	var foreign uint64
	_, err := fmt.Sscanf(names[1], "%d", &foreign)
	require.NoError(t, err)
	require.Equal(t, []string{segmentName(foreign+1) + " " + Foreign},
		log.with(tree{segmentName(foreign + 1): []byte("x\n")}).verified(t, nil).say())
}

// TestChainIsWhole: without the key nobody can take links away, or add some.
func TestChainIsWhole(t *testing.T) {
	t.Parallel()
	log := built(t)
	links := bytes.SplitAfter(bytes.TrimSuffix(log[chainName], []byte("\n")), []byte("\n"))
	links[len(links)-1] = append(links[len(links)-1], '\n')
	with := func(links ...[]byte) *Proof {
		return log.with(tree{chainName: bytes.Join(links, nil)}).verified(t, nil)
	}
	require.Empty(t, with(links...).Findings)
	require.Greater(t, len(links), 6)
	names := log.segments()
	for i := range links {
		without := slices.Concat(links[:i], links[i+1:])
		double := slices.Concat(links[:i+1], links[i:])
		p := with(without...)
		if i == len(links)-1 {
			require.Equal(t, []string{names[len(names)-1] + " " + Extended}, p.say())
			continue
		}
		if bytes.Contains(links[i], []byte(`"kind":"open"`)) {
			// Nothing follows a checkpoint, but there may be a later or an earlier one: what it
			// covers is not signed then.
			continue
		}
		require.NotEmpty(t, p.Findings, "without %d", i)
		require.NotEmpty(t, with(double...).Findings, "twice %d", i)
		if i > 0 {
			swapped := slices.Clone(links)
			swapped[i-1], swapped[i] = swapped[i], swapped[i-1]
			require.NotEmpty(t, with(swapped...).Findings, "swapped %d", i)
		}
		require.NotEmpty(t, with(links[i+1:]...).Findings, "without the first %d", i+1)
	}
	// The beginning of the log, with its segments.
	for i := range len(names) - 1 {
		begin := bytes.Index(log[chainName], []byte(`"first":`+strings.TrimLeft(names[i+1][:20], "0")+`,`))
		begin = bytes.LastIndexByte(log[chainName][:begin], '\n') + 1
		changes := tree{chainName: log[chainName][begin:]}
		for _, name := range names[:i+1] {
			changes[name] = nil
		}
		require.Equal(t, chainName+" "+Broken, log.with(changes).verified(t, nil).say()[0])
	}
	require.Equal(t, []string{chainName + " " + Missing}, with().say())
	require.Equal(t, []string{chainName + " " + Missing}, log.with(tree{chainName: nil}).verified(t, nil).say())

	// Somebody without the key writes all of it again.
	other := built(t)
	p := other.verified(t, map[string]Head{"n1": log.verified(t, nil).Head})
	require.Equal(t, chainName+" "+OtherKey, p.say()[0])
	p = log.with(tree{chainName: slices.Concat(log[chainName], other[chainName])}).verified(t, nil)
	require.Contains(t, p.say(), chainName+" "+OtherKey)
}

// TestTailIsRemembered: an earlier state of a log is as good as a later one, unless somebody has
// kept the head of the later one.
func TestTailIsRemembered(t *testing.T) {
	t.Parallel()
	l := newLogged(t, bounds{segment: 2000, age: time.Hour, total: 1 << 30})
	var states []tree
	var heads []Head
	for i := range 16 {
		l.write(request(i))
		l.stop()
		states = append(states, readTree(t, filepath.Join(l.dir, "n1")))
		p := states[i].verified(t, nil)
		require.Empty(t, p.Findings)
		heads = append(heads, p.Head)
		l.start()
	}
	for i, state := range states {
		for j := 0; j < len(heads); j += 3 {
			p := state.verified(t, map[string]Head{"n1": heads[j]})
			require.Equal(t, j <= i, len(p.Findings) == 0, "state %d, head %d: %v", i, j, p.Findings)
		}
	}
	// The whole log of a node.
	proofs, err := Verify(t.Context(), t.TempDir(), map[string]Head{"n1": heads[0]})
	require.NoError(t, err)
	require.Equal(t, []string{Missing}, proofs[0].say())
}

// TestForkedLog: a node that continues an older state of its log, such as one from a backup, signs
// another history. The two cannot be mixed, and whoever has seen the one sees the difference.
func TestForkedLog(t *testing.T) {
	t.Parallel()
	l := newLogged(t, bounds{segment: 1000, age: time.Hour, total: 1 << 30})
	dir := filepath.Join(l.dir, "n1")
	branch := func(name string) tree {
		for range 12 {
			l.write(strings.Replace(allowed, "/v1", name, 1))
		}
		l.stop()
		return readTree(t, dir)
	}
	backup := branch("/common")
	l.start()
	one := branch("/one")
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.Mkdir(dir, 0o700))
	for name, content := range backup {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	l.start()
	two := branch("/two")
	l.start()
	require.Empty(t, one.verified(t, nil).Findings)
	p := two.verified(t, nil)
	require.Empty(t, p.Findings)
	require.Equal(t, []string{Forgotten}, two.verified(t, map[string]Head{"n1": one.verified(t, nil).Head}).say())

	// Each prefix of the one with the rest of the other.
	first, second := bytes.SplitAfter(one[chainName], []byte("\n")), bytes.SplitAfter(two[chainName], []byte("\n"))
	require.Len(t, second, len(first))
	mixed := 0
	for i := range first {
		chain := bytes.Join(slices.Concat(first[:i], second[i:]), nil)
		if bytes.Equal(chain, one[chainName]) || bytes.Equal(chain, two[chainName]) {
			continue
		}
		both := tree{chainName: chain}
		for _, name := range one.segments() {
			if sum := sha256.Sum256(one[name]); bytes.Contains(chain, []byte(hex.EncodeToString(sum[:]))) {
				both[name] = one[name]
			} else {
				both[name] = two[name]
			}
		}
		mixed++
		require.Equal(t, chainName+" "+Broken, both.verified(t, nil).say()[0])
	}
	require.Greater(t, mixed, 1)
}

// TestWriterLaundersNothing: what was changed while nothing wrote the log stays a finding, although
// the writer continues.
func TestWriterLaundersNothing(t *testing.T) {
	t.Parallel()
	const first = "00000000000000000001.jsonl"
	for problem, change := range map[string]func(path string) error{
		Missing:   os.Remove,
		Truncated: func(path string) error { return os.Truncate(path, 300) },
		Changed: func(path string) error {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, bytes.Replace(b, []byte("/v1/0"), []byte("/v1/9"), 1), 0o600)
		},
	} {
		t.Run(problem, func(t *testing.T) {
			t.Parallel()
			for _, killed := range []bool{false, true} {
				l := newLogged(t, standard)
				l.write(request(0), request(1))
				if killed {
					require.NoError(t, l.w.Tell())
					require.NoError(t, l.w.file.Close())
				} else {
					l.stop()
				}
				require.NoError(t, change(filepath.Join(l.dir, "n1", first)))
				for range 2 {
					l.start()
					l.write(request(2))
					l.stop()
					p := readTree(t, filepath.Join(l.dir, "n1")).verified(t, nil)
					require.Equal(t, []string{first + " " + problem}, p.say())
				}
				require.Contains(t, strings.Join(l.said(), "\n"), first+" was changed, shortened or removed")
			}
		})
	}
}

// TestKilledWriterIsVerified: a log whose writer was killed at any time is whole, and what no
// checkpoint covers is said.
func TestKilledWriterIsVerified(t *testing.T) {
	t.Parallel()
	l := newLogged(t, bounds{segment: 2000, age: time.Hour, total: 10_000})
	for i := range 30 {
		l.write(request(i), request(i))
		if i%3 == 0 {
			require.NoError(t, l.w.Tell())
		}
		if p := readTree(t, filepath.Join(l.dir, "n1")).verified(t, nil); i > 0 {
			require.Empty(t, p.Findings, "%d", i)
		}
		require.NoError(t, l.w.file.Close())
		l.start()
	}
}

// TestVerifyWhileWritten: a log that is written to, whose segments are closed, replaced and
// removed meanwhile, has no findings.
func TestVerifyWhileWritten(t *testing.T) {
	t.Parallel()
	l := newLogged(t, bounds{segment: 3000, age: time.Hour, total: 15_000, digest: 500})
	l.write(request(0))
	require.NoError(t, l.w.Tell())
	w, stop, done := l.w, make(chan struct{}), make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := w.Copy(strings.NewReader(request(i))); err != nil {
				done <- err
				return
			}
		}
	}()
	for range 100 {
		proofs, err := Verify(t.Context(), l.dir, nil)
		require.NoError(t, err)
		require.Empty(t, proofs[0].Findings)
	}
	close(stop)
	require.NoError(t, <-done)
}

// BenchmarkVerify measures the bytes of a log that are verified in a second.
func BenchmarkVerify(b *testing.B) {
	dir := million(b)
	b.ReportAllocs()
	for b.Loop() {
		proofs, err := Verify(b.Context(), dir, nil)
		require.NoError(b, err)
		require.Empty(b, proofs[0].Findings)
		b.SetBytes(proofs[0].Bytes)
	}
}
