package tool

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // git's names
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
)

// indexMagic begins an index of git.
const indexMagic = "DIRC"

var errNoIndex = errors.New("no index of git")

// Of an entry of git's index: see gitformat-index(5).
const (
	assumeValid  = 0x8000
	extended     = 0x4000
	stage        = 0x3000
	nameLength   = 0x0fff
	skipWorktree = 0x4000 // of the second flags
	intentToAdd  = 0x2000
	folder, link = 0o4, 0o12 // of its mode
)

// Bounds of what is read of an index: an agent may have written it.
const (
	longestName = 4096
	// maxNamed is how many bytes the names of an index may have, which can share their starts.
	maxNamed = 128 << 20
	// maxParts is how many parts may follow the entries.
	maxParts = 100
	// maxTrees is how many folders those may be in.
	maxTrees = 1 << 20
)

// indexEntry is one file of an index. The next one overwrites its name.
type indexEntry struct {
	mode        uint32
	id, name    []byte
	flags, more uint16
	// whole is set if the name takes nothing from the one before.
	whole bool
}

// found is the sum of what was found, if anything was: an agent can have any amount of it.
type found struct {
	hash.Hash
	any bool
}

// add adds what was found.
func (f *found) add(format string, args ...any) {
	f.any = true
	fmt.Fprintf(f.Hash, format, args...)
}

// index is what is found in an index of git's. Each object's name has size bytes.
type index struct {
	content []byte
	size    int
	// outside are the entries that lead out of the working directory or into git's folder, and
	// hidden is because of what git does not show a change, or commits another one.
	outside, hidden found
	// starts are where the entries begin, and whole those at which git can begin to read.
	starts []int
	whole  []bool
	// trees are the folders that the index says to be the same as trees of that name, and named is
	// how long their paths are.
	trees map[string]cachedTree
	named int
}

// cachedTree is what an index says of a folder: its tree, and how many entries are in it.
type cachedTree struct {
	entries int
	id      string
}

// readIndex reads an index. After an error it has what was found until then.
func readIndex(content []byte, size int) (x *index, err error) {
	x = &index{content: content, size: size, trees: map[string]cachedTree{}}
	x.outside.Hash, x.hidden.Hash = sha256.New(), sha256.New()
	var last []byte
	var lastStage uint16
	end, err := x.entries(func(at int, e *indexEntry) error {
		x.starts, x.whole = append(x.starts, at), append(x.whole, e.whole)
		name := e.name
		if e.mode>>12 == folder {
			x.hidden.add("%q\n", name) // a folder of which git looks at no file
			name = bytes.TrimSuffix(name, []byte("/"))
		}
		if leadsOut(name, e.mode) && len(name) > 0 { // without a name it is of a split index
			x.outside.add("%o %x %q\n", e.mode, e.id, name)
		}
		if e.flags&assumeValid != 0 || e.more&skipWorktree != 0 {
			x.hidden.add("%q\n", name)
		}
		switch c := bytes.Compare(last, e.name); {
		case len(x.starts) == 1:
		case c > 0, c == 0 && (lastStage == 0 || lastStage > e.flags&stage):
			return errNoIndex
		}
		last, lastStage = append(last[:0], e.name...), e.flags&stage
		return nil
	})
	if err != nil {
		return x, err
	}
	if err := x.parts(end); err != nil || len(x.trees) == 0 {
		return x, err
	}
	return x, x.compare()
}

// entries calls visit with each entry and where it begins, and returns where they end.
func (x *index) entries(visit func(at int, e *indexEntry) error) (end int, err error) {
	const header, stat = 12, 40
	if len(x.content) < header+x.size || !bytes.HasPrefix(x.content, []byte(indexMagic)) {
		return 0, errNoIndex
	}
	version, entries := binary.BigEndian.Uint32(x.content[4:]), binary.BigEndian.Uint32(x.content[8:])
	if version < 2 || version > 4 {
		return 0, errNoIndex
	}
	rest := x.content[header : len(x.content)-x.size]
	var e indexEntry
	named := 0
	for range entries {
		if len(rest) < stat+x.size+4 {
			return 0, errNoIndex
		}
		begin := len(rest)
		e.mode, e.id, e.more = binary.BigEndian.Uint32(rest[24:]), rest[stat:stat+x.size], 0
		if kind := e.mode >> 12; kind != folder && kind != 8 && kind != link && kind != 14 {
			return 0, errNoIndex
		}
		e.flags = binary.BigEndian.Uint16(rest[stat+x.size:])
		rest = rest[stat+x.size+2:]
		if e.flags&extended != 0 {
			e.more = binary.BigEndian.Uint16(rest)
			rest = rest[2:]
		}
		strip := len(e.name)
		if version == 4 {
			if strip, rest, err = varint(rest); err != nil || strip > len(e.name) {
				return 0, errNoIndex
			}
		}
		end := bytes.IndexByte(rest, 0)
		if end < 0 || len(e.name)-strip+end > longestName {
			return 0, errNoIndex
		}
		e.whole = strip == len(e.name)
		e.name = append(e.name[:len(e.name)-strip], rest[:end]...)
		rest = rest[end+1:]
		if length := int(e.flags & nameLength); length != min(len(e.name), nameLength) {
			return 0, errNoIndex
		}
		if version < 4 {
			padding := (8 - (begin-len(rest))%8) % 8
			if len(rest) < padding {
				return 0, errNoIndex
			}
			rest = rest[padding:]
		}
		if named += len(e.name); named > maxNamed {
			return 0, errNoIndex
		}
		if err := visit(len(x.content)-x.size-begin, &e); err != nil {
			return 0, err
		}
	}
	return len(x.content) - x.size - len(rest), nil
}

// parts reads what follows the entries.
func (x *index) parts(end int) error {
	const head = 8 // of a part: its name and its size
	rest := x.content[end : len(x.content)-x.size]
	// Git finds the part EOIE by its place, at the end, whatever is before it.
	place := max(0, len(rest)-head-4-x.size)
	ends, count := bytes.HasPrefix(rest[place:], []byte("EOIE")), 0
	for len(rest) > 0 {
		if count++; count > maxParts || len(rest) < head ||
			uint64(binary.BigEndian.Uint32(rest[4:])) > uint64(len(rest)-head) {
			return errNoIndex
		}
		size := int(binary.BigEndian.Uint32(rest[4:]))
		part := rest[head : head+size]
		switch name := string(rest[:4]); name {
		case "TREE":
			if left, err := x.tree(part, ""); err != nil || len(left) > 0 {
				return errNoIndex
			}
		case "REUC":
			if err := x.resolved(part); err != nil {
				return err
			}
		case "EOIE":
			if len(part) != 4+x.size || int(binary.BigEndian.Uint32(part)) != end {
				return errNoIndex // git would read other parts
			}
			ends = ends && len(rest) > head+size
		case "IEOT":
			if !x.blocks(part) {
				return errNoIndex // git would read other entries
			}
		default: // git does not look at each file because of it, or we do not know
			x.hidden.add("%q %x\n", name, sha256.Sum256(part))
		}
		rest = rest[head+size:]
	}
	if ends { // but not as a part of its own
		return errNoIndex
	}
	return nil
}

// blocks reports whether the entries begin where the part says, at which git reads them at once.
func (x *index) blocks(part []byte) bool {
	const head, each = 4, 8
	if len(part) < head || binary.BigEndian.Uint32(part) != 1 || (len(part)-head)%each != 0 {
		return false
	}
	i := 0
	for part = part[head:]; len(part) > 0; part = part[each:] {
		n := binary.BigEndian.Uint32(part[4:])
		if i >= len(x.starts) || x.starts[i] != int(binary.BigEndian.Uint32(part)) || !x.whole[i] ||
			n == 0 || uint64(n) > uint64(len(x.starts)-i) {
			return false
		}
		i += int(n)
	}
	return i == len(x.starts)
}

// resolved reads the entries of solved conflicts, which git can bring back.
func (x *index) resolved(part []byte) error {
	for len(part) > 0 {
		name, rest, _ := bytes.Cut(part, []byte{0})
		if len(name) == 0 || leadsOut(name, 0) {
			x.outside.add("%q\n", name)
		}
		ids := 0
		for range 3 {
			mode, after, ok := bytes.Cut(rest, []byte{0})
			if !ok {
				return errNoIndex
			}
			rest = after
			if string(mode) != "0" {
				ids += x.size
			}
		}
		if len(rest) < ids {
			return errNoIndex
		}
		part = rest[ids:]
	}
	return nil
}

// tree reads what an index says of a folder, and of those in it.
func (x *index) tree(part []byte, in string) (rest []byte, err error) {
	name, rest, _ := bytes.Cut(part, []byte{0})
	line, rest, ok := bytes.Cut(rest, []byte("\n"))
	first, second, _ := strings.Cut(string(line), " ")
	entries, err := strconv.Atoi(first)
	below, wrong := strconv.Atoi(second)
	at := in + string(name) + "/"
	x.named += len(at)
	switch {
	case !ok, err != nil, wrong != nil, entries < -1, below < 0, len(at) > longestName,
		(len(name) == 0) != (in == ""), bytes.IndexByte(name, '/') >= 0, len(x.trees) > maxTrees,
		x.named > maxNamed:
		return nil, errNoIndex
	case entries >= 0:
		if _, again := x.trees[at]; again || len(rest) < x.size {
			return nil, errNoIndex
		}
		x.trees[at] = cachedTree{entries, string(rest[:x.size])}
		rest = rest[x.size:]
	}
	for range below {
		if rest, err = x.tree(rest, at); err != nil {
			return nil, err
		}
	}
	return rest, nil
}

// builtTree is a folder of the entries, with the content of its tree.
type builtTree struct {
	at      string
	content []byte
	entries int
	// other is set if git writes no tree of it.
	other bool
}

// compare makes the trees of the entries, and compares those that the index names: git commits
// what an index names, and shows what its entries are.
func (x *index) compare() error {
	open, closed := []builtTree{{at: "/"}}, 0
	end := func() {
		t := open[len(open)-1]
		sum := hash.Hash(sha1.New()) //nolint:gosec // git's names
		if x.size == sha256.Size {
			sum = sha256.New()
		}
		fmt.Fprintf(sum, "tree %d\x00", len(t.content))
		sum.Write(t.content)
		is := cachedTree{t.entries, string(sum.Sum(nil))}
		if said, ok := x.trees[t.at]; ok && (t.other || said != is) {
			x.hidden.add("%q %d %x\n", t.at, said.entries, said.id)
		}
		delete(x.trees, t.at)
		if open = open[:len(open)-1]; len(open) == 0 {
			return
		}
		in := &open[len(open)-1]
		in.content = fmt.Appendf(in.content, "40000 %s\x00%s", t.at[len(in.at):len(t.at)-1], is.id)
		in.entries, in.other = in.entries+t.entries, in.other || t.other
	}
	_, err := x.entries(func(_ int, e *indexEntry) error {
		name := "/" + string(e.name)
		for !strings.HasPrefix(name, open[len(open)-1].at) {
			end()
		}
		in := &open[len(open)-1]
		for {
			i := strings.IndexByte(name[len(in.at):], '/')
			if i < 0 {
				break
			}
			if closed++; closed > maxTrees {
				return errNoIndex
			}
			open = append(open, builtTree{at: name[:len(in.at)+i+1]})
			in = &open[len(open)-1]
		}
		in.content = fmt.Appendf(in.content, "%o %s\x00%s", e.mode, name[len(in.at):], e.id)
		in.entries++
		in.other = in.other || e.flags&stage != 0 || e.more&intentToAdd != 0
		return nil
	})
	if err != nil {
		return err
	}
	for len(open) > 0 {
		end()
	}
	for at := range x.trees {
		return fmt.Errorf("%w: nothing is in %q", errNoIndex, at)
	}
	return nil
}

// leadsOut reports whether git refuses to add the path to an index: it leads out of the working
// directory, or into git's folder on some file system. Git does not look when it reads an index.
func leadsOut(name []byte, mode uint32) bool {
	if bytes.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return true
	}
	for more := true; more; {
		var step []byte
		step, name, more = bytes.Cut(name, []byte("/"))
		if len(step) > 0 && strings.IndexByte(".gG\\", step[0]) < 0 && step[0] < 0x80 {
			continue
		}
		plain := strings.ToLower(strings.Map(ignorable, string(step)))
		end := strings.IndexAny(plain, `:\`)
		if end < 0 {
			end = len(plain)
		}
		cut := strings.TrimRight(plain[:end], " .")
		if plain == "" || plain == "." || plain == ".." || cut == ".git" || cut == "git~1" ||
			mode>>12 == link && plain == ".gitmodules" {
			return true
		}
	}
	return false
}

// ignorable drops the characters that some file systems ignore in names.
func ignorable(r rune) rune {
	switch {
	case r >= 0x200c && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x206a && r <= 0x206f, r == 0xfeff:
		return -1
	}
	return r
}

// varint reads a number of git's, at most four bytes long.
func varint(b []byte) (int, []byte, error) {
	n := 0
	for i := 0; i < min(len(b), 4); i++ {
		n = n<<7 | int(b[i]&0x7f)
		if b[i]&0x80 == 0 {
			return n, b[i+1:], nil
		}
		n++
	}
	return 0, nil, errNoIndex
}
