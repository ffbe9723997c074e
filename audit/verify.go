package audit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/postern/postern/audit/link"
)

// Problems that Verify finds.
const (
	// Changed: the segment has its length and other bytes.
	Changed = "changed"
	// Missing: the segment is not there.
	Missing = "missing"
	// Truncated and Extended: the segment is shorter, or longer, than it was.
	Truncated = "truncated"
	Extended  = "extended"
	// Reordered: the segment has the content of another one, whose name has another content.
	Reordered = "reordered"
	// Doubled: the segment has the content of another one, which is there, too.
	Doubled = "doubled"
	// Foreign: the chain does not know the segment.
	Foreign = "foreign"
	// Broken: the chain itself was changed.
	Broken = "broken"
	// OtherKey: something is signed by a key that is not the expected one.
	OtherKey = "other-key"
	// Unread: it cannot be read, or is more than a writer leaves.
	Unread = "unread"
	// Forgotten: the log no longer has what it had when it was verified before.
	Forgotten = "forgotten"
)

// Finding is one thing that is wrong with a log.
type Finding struct {
	Node string `json:"node"`
	// File is a segment, or the chain with the number of a line; empty for the whole log.
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Problem string `json:"problem"`
	Detail  string `json:"detail"`
}

// Head is the end of a node's chain when it was verified: all segments before it are known by it.
// It is small, and worth keeping where the node's user cannot write.
type Head struct {
	// Link is the digest of link N, the last one that is not a checkpoint; N is 0 if there is none.
	N    uint64 `json:"n"`
	Link string `json:"link,omitempty"`
	// First, Bytes and SHA256 are about the segment that was written to, if it had a checkpoint.
	First  uint64 `json:"first,omitempty"`
	Bytes  int64  `json:"bytes,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
	// Key is the fingerprint of the key that has signed.
	Key  string    `json:"key"`
	Time time.Time `json:"time"`
}

// Proof is what Verify found out about the log of one node.
type Proof struct {
	Node string `json:"node"`
	// Segments is the number of files that are as the chain says, and Bytes their size. First and
	// Last are the numbers of their events.
	Segments int    `json:"segments"`
	Bytes    int64  `json:"bytes"`
	First    uint64 `json:"first"`
	Last     uint64 `json:"last"`
	// Unsigned is the number of bytes at the end that no checkpoint covers yet.
	Unsigned int64 `json:"unsigned"`
	// Keys are the fingerprints of the keys that have signed, in their order: one, if all is well.
	Keys []string `json:"keys"`
	// Head is the end of the chain.
	Head Head `json:"head"`
	// Findings are sorted: first the chain's, then the segments' in the order of the log.
	Findings []Finding `json:"findings"`
	// Unknown says what cannot be known, though nothing is wrong.
	Unknown []string `json:"unknown,omitempty"`
}

// Verify recomputes the chain of every node's log in dir, and compares it with the segments. known
// are the heads that were seen before, by node. A node with a head and no log is a finding.
//
// The error is that ctx is done, or that dir cannot be read. A folder belongs to its writer, who
// may have been taken over: see [Each]. The writer may write meanwhile.
func Verify(ctx context.Context, dir string, known map[string]Head) ([]Proof, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	names, more, err := (&reader{dir: dir}).folders()
	if err != nil {
		return nil, err
	}
	names = append(names, slices.Collect(maps.Keys(known))...)
	slices.Sort(names)
	var proofs []Proof
	for _, name := range slices.Compact(names) {
		p, err := verifyNode(ctx, dir, name, known[name])
		if err != nil {
			return nil, err
		}
		proofs = append(proofs, *p)
	}
	if more {
		many := fmt.Sprintf("%s has more than %d folders: the other ones were not read", dir, maxFolders)
		proofs = append(proofs, Proof{Findings: []Finding{{Problem: Unread, Detail: many}}})
	}
	return proofs, nil
}

// tries is how often a log is verified again because it was written to meanwhile.
const tries = 5

func verifyNode(ctx context.Context, dir, node string, known Head) (*Proof, error) {
	var last []Finding
	for try := 1; ; try++ {
		v := &verifier{
			dir: filepath.Join(dir, node), known: known,
			proof: Proof{Node: node, Keys: []string{}, Findings: []Finding{}},
			links: map[uint64][]*link.Link{}, at: map[uint64]string{}, sums: map[uint64]string{},
		}
		before := v.state()
		if err := v.verify(ctx); err != nil {
			return nil, err
		}
		if len(v.proof.Findings) == 0 || v.state() == before {
			return &v.proof, nil
		}
		if try == tries {
			// What the writer did meanwhile is about another segment each time. What is wrong stays.
			v.proof.Findings = slices.DeleteFunc(v.proof.Findings, func(f Finding) bool {
				again := func(l Finding) bool { return l.File == f.File && l.Problem == f.Problem }
				return !slices.ContainsFunc(last, again)
			})
			return &v.proof, nil
		}
		last = v.proof.Findings
	}
}

// verifier verifies the log of one node once.
type verifier struct {
	dir   string
	known Head
	proof Proof
	// links are the links about each segment, by its first event, in their order. at are the
	// digests of all links by their number.
	links map[uint64][]*link.Link
	at    map[uint64]string
	// first, last and open are the first and the last link, and the checkpoint after it.
	first, last, open *link.Link
	// oldest is the first event of the oldest segment that is kept, and removed the last link that
	// says so. closed is that of the last segment that was closed, and covered that of the last one
	// of which a link was known.
	oldest, closed, covered uint64
	removed                 *link.Link
	// files are the segments that are there, and sums their digests.
	files []segment
	sums  map[uint64]string
}

// state identifies the content of the chain.
func (v *verifier) state() string {
	info, err := os.Lstat(filepath.Join(v.dir, chainName))
	if err != nil {
		return "none"
	}
	return fmt.Sprint(info.Size(), info.ModTime().UnixNano())
}

func (v *verifier) find(file string, line int, problem, detail string, args ...any) {
	v.proof.Findings = append(v.proof.Findings, Finding{
		Node: v.proof.Node, File: file, Line: line, Problem: problem, Detail: fmt.Sprintf(detail, args...),
	})
}

func (v *verifier) verify(ctx context.Context) error {
	folder, err := (&nodeReader{dir: v.dir}).folder()
	if errors.Is(err, fs.ErrNotExist) {
		v.find("", 0, Missing, "the folder of this node is not there; its log was verified at %s",
			v.known.Time.Format(time.RFC3339))
		return nil
	}
	if err != nil {
		v.find("", 0, Unread, "%v", err)
		return nil
	}
	defer folder.Close()
	if !v.list(folder) {
		return nil
	}
	v.readChain()
	if v.first == nil {
		if len(v.files) > 0 || v.known.Key != "" {
			v.find(chainName, 0, Missing, "there is no chain: nothing shows that the segments are what was written")
		}
		return nil
	}
	v.order()
	v.recall()
	for _, first := range slices.Sorted(maps.Keys(v.links)) {
		if first >= v.oldest {
			if err := v.segment(ctx, folder, first); err != nil {
				return err
			}
		}
	}
	for _, s := range v.files {
		if err := v.other(ctx, folder, s); err != nil {
			return err
		}
	}
	v.tail()
	v.name()
	return nil
}

// tail looks at the bytes at the end that no checkpoint covers: a writer that is closed leaves none.
// The mark is looked at last, because a writer makes it before it writes, and signs everything
// before it removes it.
func (v *verifier) tail() {
	if v.proof.Unsigned == 0 {
		return
	}
	if _, err := os.Lstat(filepath.Join(v.dir, markName)); errors.Is(err, fs.ErrNotExist) {
		v.find(filepath.Base(v.files[len(v.files)-1].path), 0, Extended, "its last %d bytes are not signed, and what "+
			"wrote the log was closed, and had signed everything", v.proof.Unsigned)
	}
}

// list finds the segments that are there. It reports false if there are more than a writer leaves.
func (v *verifier) list(folder *os.File) bool {
	entries, err := folder.ReadDir(2*maxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		v.find("", 0, Unread, "%v", err)
		return false
	}
	if len(entries) > 2*maxEntries {
		v.find("", 0, Unread, "it has more than %d files: nothing was verified", 2*maxEntries)
		return false
	}
	var foreign []string
	v.files, foreign = segmentsOf(v.dir, entries)
	for _, path := range foreign {
		v.find(filepath.Base(path), 0, Unread, "%v", errNotFile)
	}
	return true
}

// readChain reads the links.
func (v *verifier) readChain() {
	c := &chain{dir: v.dir}
	// jumped is set after a line that is not a link: the next one cannot be compared.
	jumped, number, bad := false, 0, 0
	torn, err := c.links(func(l *link.Link, _ []byte, line int, why error) bool {
		number = line
		if l == nil {
			if bad++; bad <= maxFindings {
				v.find(chainName, line, Broken, "%v", why)
			}
			jumped = true
			return bad < maxBad
		}
		v.follow(l, line, jumped)
		jumped = false
		return true
	})
	if err != nil {
		v.find(chainName, 0, Unread, "%v", err)
	}
	if torn {
		v.find(chainName, number+1, Broken, "%v", link.ErrLine)
	}
}

// maxFindings bounds the findings about lines of a chain.
const maxFindings = 100

// follow takes account of the next link. jumped is true if a line before it was not a link.
func (v *verifier) follow(l *link.Link, line int, jumped bool) {
	if !(&Event{Node: l.Node}).of(filepath.Base(v.dir)) {
		v.find(chainName, line, Broken, "this link is of the node %q", clip(l.Node))
		return
	}
	if key := link.Fingerprint(l.Key); !slices.Contains(v.proof.Keys, key) {
		if len(v.proof.Keys) > 0 {
			v.find(chainName, line, OtherKey, "from here on the key is %s, and was %s: the node's key was lost or "+
				"replaced, or somebody else continued the log", key, v.proof.Keys[len(v.proof.Keys)-1])
		}
		v.proof.Keys = append(v.proof.Keys, key)
	}
	n, previous := uint64(0), ""
	if v.last != nil {
		n, previous = v.last.N, v.at[v.last.N]
	}
	switch {
	case v.first == nil || jumped && l.N > n:
	case l.N != n+1:
		v.find(chainName, line, Broken, "this is link %d, and link %d has to be here: links were removed, doubled or "+
			"reordered", l.N, n+1)
	case l.Kind == link.Closed && l.First <= v.closed:
		v.find(chainName, line, Broken, "this link closes a segment again, or one before another that is closed")
	case l.Previous != previous:
		v.find(chainName, line, Broken, "this link does not continue the one before")
	}
	if v.first == nil {
		v.first = l
	}
	if l.Kind == link.Open {
		v.open = l
		return
	}
	v.at[l.N] = l.Digest()
	v.last, v.open = l, nil
	if l.N <= v.known.N {
		v.covered = max(v.covered, l.First)
	}
	switch l.Kind {
	case link.Removed:
		v.oldest, v.removed = max(v.oldest, l.First), l
		return
	case link.Closed:
		v.closed = l.First
	}
	v.links[l.First] = append(v.links[l.First], l)
}

// order looks at the beginning and the end of the chain.
func (v *verifier) order() {
	if v.open != nil {
		v.links[v.open.First] = append(v.links[v.open.First], v.open)
	}
	// What is removed is named by a link, and what is kept begins there: with a segment's own link,
	// and not with that of its digest.
	switch kept := v.links[v.oldest]; {
	case v.first.N != 1 && (v.removed == nil || len(kept) == 0 || kept[0].Kind == link.Digest):
		v.find(chainName, 1, Broken, "the chain begins with link %d: the links before it are missing", v.first.N)
	case v.removed != nil && len(kept) == 0:
		v.find(chainName, 0, Broken, "everything before event %d was to be removed, and the chain knows no segment "+
			"that begins there", v.oldest)
	}
	head := Head{Key: v.proof.Keys[len(v.proof.Keys)-1], Time: v.first.Time}
	if v.last != nil {
		head.N, head.Link, head.Time = v.last.N, v.at[v.last.N], v.last.Time
	}
	if v.open != nil {
		head.First, head.Bytes, head.SHA256, head.Time = v.open.First, v.open.Bytes, v.open.SHA256, v.open.Time
	}
	v.proof.Head = head
}

// recall compares the chain with what it was when it was verified before.
func (v *verifier) recall() {
	k := v.known
	if k.Key == "" {
		return
	}
	at := "what was verified at " + k.Time.Format(time.RFC3339)
	if !slices.Contains(v.proof.Keys, k.Key) {
		v.find(chainName, 0, OtherKey, "it is signed by the key %s, and %s by %s", v.proof.Keys[0], at, k.Key)
	}
	switch {
	case k.N > 0 && (v.last == nil || v.last.N < k.N):
		v.find("", 0, Forgotten, "%s reached to link %d, and the chain ends before it: its end was removed", at, k.N)
		return
	case v.at[k.N] != "" && v.at[k.N] != k.Link, v.first.N == k.N+1 && v.first.Previous != k.Link:
		v.find("", 0, Forgotten, "link %d is another one than in %s: the log was written again", k.N, at)
		return
	case v.first.N > k.N+1:
		v.proof.Unknown = append(v.proof.Unknown, at+" was removed since, because the log has its greatest size: "+
			"nothing shows that this log continues it")
	case v.removed != nil && v.removed.N > k.N:
		v.proof.Unknown = append(v.proof.Unknown, fmt.Sprintf("the events before %d were removed since %s, because "+
			"the log has its greatest size, or by somebody who has the key", v.oldest, k.Time.Format(time.RFC3339)))
	}
	v.replaced()
	if k.SHA256 == "" || k.First < v.oldest {
		return
	}
	if len(v.links[k.First]) == 0 {
		v.find(segmentName(k.First), 0, Forgotten, "%s has this segment, and the chain has not", at)
		return
	}
	head := &link.Link{Kind: link.Open, First: k.First, Bytes: k.Bytes, SHA256: k.SHA256, Time: k.Time}
	v.links[k.First] = append([]*link.Link{head}, v.links[k.First]...)
}

// replaced names the segments that were known, and that a digest replaced since: the key is enough
// to make one of any content.
func (v *verifier) replaced() {
	for _, first := range slices.Sorted(maps.Keys(v.links)) {
		for _, l := range v.links[first] {
			if l.N <= v.known.N || first < v.oldest || first > max(v.covered, v.known.First) {
				continue
			}
			switch {
			case l.Kind == link.Digest:
				v.proof.Unknown = append(v.proof.Unknown, segmentName(first)+" was verified at "+
					v.known.Time.Format(time.RFC3339)+", and a digest replaced it since")
			case l.Kind == link.Closed && first < v.known.First:
				v.find(segmentName(first), 0, Forgotten, "it was closed when the log was verified at %s, and is "+
					"closed again", v.known.Time.Format(time.RFC3339))
			}
		}
	}
}

func segmentName(first uint64) string { return filepath.Base(segmentPath("", first)) }

// segment compares a segment with the links about it.
func (v *verifier) segment(ctx context.Context, folder *os.File, first uint64) error {
	links := v.links[first]
	want, name := links[len(links)-1], segmentName(first)
	f, err := openFile(folder, name)
	if errors.Is(err, fs.ErrNotExist) {
		v.find(name, 0, Missing, "it had %d bytes, and the events %d to %d", want.Bytes, first,
			max(first, links[0].Last))
		return nil
	}
	if err != nil {
		v.find(name, 0, Unread, "%v", err)
		return nil
	}
	defer f.Close()
	points := map[int64]string{}
	for _, l := range links {
		points[l.Bytes] = ""
	}
	size, whole, err := sumAt(ctx, f, points)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		v.find(name, 0, Unread, "%v", err)
		return nil
	}
	v.sums[first] = whole
	same := func(l *link.Link) bool { return points[l.Bytes] == l.SHA256 }
	// A digest is announced before it takes the place of its segment.
	before := false
	if want.Kind == link.Digest && len(links) > 1 {
		whole := links[len(links)-2]
		before = same(whole) && size == whole.Bytes
	}
	switch {
	case before:
	case size < want.Bytes:
		v.find(name, 0, Truncated, "it has %d bytes, and had %d", size, want.Bytes)
		return nil
	case !same(want):
		v.find(name, 0, Changed, "its first %d bytes are not what was written", want.Bytes)
		return nil
	case size > want.Bytes && want.Kind != link.Open:
		v.find(name, 0, Extended, "it has %d bytes, and had %d", size, want.Bytes)
		return nil
	case want.Kind != link.Digest:
		for _, l := range links[:len(links)-1] {
			if !same(l) {
				v.find(name, 0, Forgotten, "its first %d bytes are not what was verified at %s", l.Bytes,
					l.Time.Format(time.RFC3339))
				return nil
			}
		}
	}
	if want.Kind == link.Open {
		v.proof.Unsigned += size - want.Bytes
	}
	if v.proof.First == 0 {
		v.proof.First = first
	}
	for _, l := range links {
		v.proof.Last = max(v.proof.Last, l.Last)
	}
	v.proof.Segments++
	v.proof.Bytes += size
	return nil
}

// sumAt reads a file to the end that it has now. It returns its size and its digest, and sets the
// digests of its beginnings, by their lengths, as far as they are there.
func sumAt(ctx context.Context, f *os.File, points map[int64]string) (size int64, whole string, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, "", err
	}
	if info.Size() > maxSegment {
		return info.Size(), "", fmt.Errorf("it has %d bytes: no segment is so large", info.Size())
	}
	h, buffer := sha256.New(), make([]byte, 1<<18)
	for _, to := range append(slices.Sorted(maps.Keys(points)), info.Size()) {
		if to > info.Size() {
			continue
		}
		for size < to {
			if ctx.Err() != nil {
				return size, "", ctx.Err()
			}
			n, err := f.Read(buffer[:min(int64(len(buffer)), to-size)])
			if n == 0 {
				return size, "", errors.Join(err, errors.New("it became shorter while it was read"))
			}
			h.Write(buffer[:n])
			size += int64(n)
		}
		if _, asked := points[to]; asked {
			points[to] = hexSum(h)
		}
	}
	return size, hexSum(h), nil
}

// other looks at a segment of which the chain knows nothing.
func (v *verifier) other(ctx context.Context, folder *os.File, s segment) error {
	if len(v.links[s.first]) > 0 {
		return nil
	}
	name := segmentName(s.first)
	if s.first < v.oldest {
		v.proof.Unknown = append(v.proof.Unknown, name+" was to be removed, so the chain no longer knows it")
		return nil
	}
	f, err := openFile(folder, name)
	if err != nil {
		v.find(name, 0, Unread, "%v", err)
		return nil
	}
	defer f.Close()
	size, whole, err := sumAt(ctx, f, map[int64]string{})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		v.find(name, 0, Unread, "%v", err)
		return nil
	}
	v.sums[s.first] = whole
	// The last one may be younger than any checkpoint.
	newest := slices.Max(append(slices.Collect(maps.Keys(v.links)), 0))
	if s == v.files[len(v.files)-1] && v.open == nil && s.first > newest {
		v.proof.Unsigned += size
		return nil
	}
	v.find(name, 0, Foreign, "the chain does not know it: nothing shows that the node has written it")
	return nil
}

// name gives findings about segments that have another's content their names.
func (v *verifier) name() {
	// of are the segments that should have a content.
	of := map[string]uint64{}
	for first, links := range v.links {
		for _, l := range links {
			if l.Kind != link.Open && l.Bytes > 0 {
				of[l.SHA256] = first
			}
		}
	}
	for i := range v.proof.Findings {
		f := &v.proof.Findings[i]
		first, ok := strings.CutSuffix(f.File, extension)
		if !ok {
			continue
		}
		var number uint64
		if _, err := fmt.Sscanf(first, "%d", &number); err != nil {
			continue
		}
		sum := v.sums[number]
		original, ok := of[sum]
		if !ok || original == number {
			continue
		}
		if v.sums[original] == sum {
			f.Problem, f.Detail = Doubled, "it has the content of "+segmentName(original)+", which is there, too"
		} else {
			f.Problem, f.Detail = Reordered, "it has the content of "+segmentName(original)
		}
	}
}
