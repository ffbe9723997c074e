package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit/link"
)

// TestKeyIsNotEnough: what was before a head that is kept cannot be forged without a word, even
// with the key.
func TestKeyIsNotEnough(t *testing.T) {
	t.Parallel()
	l := newLogged(t, bounds{segment: 1000, age: time.Hour, total: 1 << 30})
	l.write(request(0))
	l.stop()
	young := readTree(t, filepath.Join(l.dir, "n1"))
	l.start()
	for i := range 16 {
		l.write(request(i))
	}
	l.stop()
	log := readTree(t, filepath.Join(l.dir, "n1"))
	names := log.segments()
	number := func(name string) (first uint64) {
		_, err := fmt.Sscanf(name, "%d", &first)
		require.NoError(t, err)
		return first
	}
	forged := []byte(`{"seq":9,"verdict":"allow"}` + "\n")
	sum := sha256.Sum256(forged)
	about := func(kind string, first uint64) link.Link {
		return link.Link{
			Kind: kind, First: first, Last: first, Bytes: int64(len(forged)), SHA256: hex.EncodeToString(sum[:]),
		}
	}
	const later = 1 << 20
	second, last := names[1], names[len(names)-1]
	lastSum := sha256.Sum256(log[last])
	open := link.Link{
		Kind: link.Open, First: number(last), Bytes: int64(len(log[last])), SHA256: hex.EncodeToString(lastSum[:]),
	}
	none := tree{}
	for _, name := range names {
		none[name] = nil
	}
	for _, c := range []struct {
		name string
		log  tree
		// begin replaces the chain instead of continuing it. cut drops what is before the links.
		begin, cut bool
		links      []link.Link
		changes    tree
		found      []string
		unknown    string
	}{
		{
			"a chain that begins after the head", log, true, false,
			[]link.Link{about(link.Closed, later), {Kind: link.Removed, First: later}},
			none.with(tree{segmentName(later): forged}),
			[]string{Forgotten},
			"",
		},
		{
			"a chain that begins after a head without links", young, true, false,
			[]link.Link{about(link.Closed, later), {Kind: link.Removed, First: later}},
			tree{names[0]: nil, segmentName(later): forged},
			nil, "the events before 1048576 were removed",
		},
		{
			"a chain that begins without a removal", log, true, false,
			[]link.Link{about(link.Closed, 0)},
			none.with(tree{segmentName(0): forged}),
			[]string{chainName + " " + Broken, Forgotten},
			"",
		},
		{
			"everything is removed", log, false, false,
			[]link.Link{{Kind: link.Removed, First: 1 << 62}},
			none,
			[]string{chainName + " " + Broken},
			"the events before 4611686018427387904 were removed",
		},
		{
			"everything is removed but what follows", log, false, false,
			[]link.Link{about(link.Closed, later), {Kind: link.Removed, First: later}},
			none.with(tree{segmentName(later): forged}), nil, "the events before 1048576 were removed",
		},
		{
			"a digest of other content", log, false, false,
			[]link.Link{about(link.Digest, number(second)), open},
			tree{second: forged},
			nil, second + " was verified at ",
		},
		{
			"a digest of what was written to", log, false, false,
			[]link.Link{about(link.Closed, number(last)), about(link.Digest, number(last))},
			tree{last: forged},
			nil, last + " was verified at ",
		},
		{
			"a segment that is closed again", log, false, false,
			[]link.Link{about(link.Closed, number(second)), open},
			tree{second: forged},
			[]string{chainName + " " + Broken, second + " " + Forgotten, second + " " + Forgotten},
			"",
		},
		// Without the key: the links about the first segments are cut off, and its digest stays.
		{
			"a digest without its segment", log, false, true,
			[]link.Link{{Kind: link.Removed, First: number(second)}, about(link.Digest, number(second)), open},
			none.with(tree{second: forged, last: log[last]}),
			[]string{chainName + " " + Broken},
			"the events before",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			good := c.log.verified(t, nil)
			require.Empty(t, good.Findings)
			dir := t.TempDir()
			for name, content := range c.log {
				if name != chainName || !c.begin {
					require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
				}
			}
			chain, err := openChain(dir, "n1")
			require.NoError(t, err)
			if c.begin {
				chain.n, chain.previous = good.Head.N, ""
			}
			for _, l := range c.links {
				require.NoError(t, chain.add(l))
			}
			b, err := os.ReadFile(filepath.Join(dir, chainName))
			require.NoError(t, err)
			if c.cut {
				b = bytes.TrimPrefix(b, c.log[chainName])
			}
			p := c.log.with(c.changes).with(tree{chainName: b}).verified(t, map[string]Head{"n1": good.Head})
			require.Equal(t, c.found, p.say(), "%v", p.Findings)
			require.Contains(t, strings.Join(p.Unknown, "\n"), c.unknown)
			require.Equal(t, c.unknown != "", len(p.Unknown) > 0, "%v", p.Unknown)
		})
	}
}

// TestForgedTailIsNotSigned: what was added to a log while nothing wrote it is a gap, and is not
// signed by the node that starts.
func TestForgedTailIsNotSigned(t *testing.T) {
	t.Parallel()
	const first, later = "00000000000000000001.jsonl", "00000000000000001000.jsonl"
	forged := []byte(strings.Repeat(`{"time":"2026-11-30T00:00:00Z","seq":9,"node":"n1","verdict":"deny"}`+"\n", 2))
	for _, c := range []struct {
		name, file string
		// cut removes the checkpoints, too.
		cut bool
	}{
		{"lines", first, false},
		{"lines, and no checkpoint", first, true},
		{"a segment", later, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLogged(t, standard)
			l.write(request(0), request(1))
			l.stop()
			dir := filepath.Join(l.dir, "n1")
			if c.cut {
				require.NoError(t, os.Remove(filepath.Join(dir, chainName)))
			}
			before, err := os.ReadFile(filepath.Join(dir, first))
			require.NoError(t, err)
			if c.file == later {
				before = nil
			}
			require.NoError(t, os.WriteFile(filepath.Join(dir, c.file), append(before, forged...), 0o600))
			for i := range 3 {
				l.start()
				l.write(request(2))
				if i == 1 { // a later start after a kill signs none of it either
					require.NoError(t, l.w.file.Close())
					continue
				}
				l.stop()
				require.Equal(t, []string{c.file + " " + Extended}, readTree(t, dir).verified(t, nil).say())
			}
			said := strings.Join(l.said(), "\n")
			require.Equal(t, 1, strings.Count(said, c.file+" was changed, shortened or removed"))
		})
	}
}

// TestTailWithoutCheckpoint: docs/audit.md says what nobody finds without a head, and that it is
// found with one.
func TestTailWithoutCheckpoint(t *testing.T) {
	t.Parallel()
	l := newLogged(t, bounds{segment: 1000, age: time.Hour, total: 1 << 30})
	for i := range 7 {
		l.write(request(i))
	}
	l.stop()
	dir := filepath.Join(l.dir, "n1")
	log := readTree(t, dir)
	known := map[string]Head{"n1": log.verified(t, nil).Head}
	last := filepath.Base(l.last())
	links := bytes.SplitAfter(log[chainName], []byte("\n"))
	changes := tree{
		chainName: bytes.Join(links[:len(links)-2], nil),
		last:      bytes.ReplaceAll(log[last], []byte("/v1/"), []byte("/v2/")),
	}
	require.NotEqual(t, log[last], changes[last])
	require.Equal(t, []string{last + " " + Extended}, log.with(changes).verified(t, nil).say())
	changes[markName] = []byte{}
	require.Empty(t, log.with(changes).verified(t, nil).Findings)
	require.NotEmpty(t, log.with(changes).verified(t, known).Findings)
	for name, content := range changes {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	l.start()
	l.stop()
	require.Contains(t, strings.Join(l.said(), "\n"), killedText)
	require.Empty(t, readTree(t, dir).verified(t, nil).Findings)
	require.NotEmpty(t, readTree(t, dir).verified(t, known).Findings)
}

// TestCheckpointsGo: a chain has the checkpoints of the segment that is written to, and no others.
func TestCheckpointsGo(t *testing.T) {
	t.Parallel()
	l := newLogged(t, bounds{segment: 2000, age: time.Hour, total: 1 << 30})
	for range 60 {
		require.NoError(t, l.w.Record(Event{Kind: "published"}))
	}
	chain := readTree(t, filepath.Join(l.dir, "n1"))[chainName]
	require.Greater(t, bytes.Count(chain, []byte(`"kind":"closed"`)), 2)
	closed := bytes.LastIndex(chain, []byte(`"kind":"closed"`))
	require.NotContains(t, string(chain[:closed]), `"kind":"open"`)
	l.stop()
	require.Empty(t, readTree(t, filepath.Join(l.dir, "n1")).verified(t, nil).Findings)
}
