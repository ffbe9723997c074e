package audit

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/audit/link"
)

// The chain of a log is the file <node>/chain. Each of its lines is a link, and says what a segment
// contains. Each link has the digest of the link before, and is signed. So who has a later link
// knows all segments before it, and nobody without the key can make another one.

const (
	chainName = "chain"
	keyName   = "key"
)

// checkpointEvery is the interval at which new events are signed.
const checkpointEvery = 10 * time.Second

// chain is the writer's end of a chain.
type chain struct {
	dir, node string
	key       ed25519.PrivateKey
	// n counts the links, and previous is the digest of the last one.
	n        uint64
	previous string
	// closed is the first event of the last closed segment, and last the last event of the chain.
	closed, last uint64
	// open is the last checkpoint, if no other link follows it. at is its time by the clock of this
	// process.
	open *link.Link
	at   time.Time
}

// openChain continues the chain in the folder of a node, after its last link. Lines that are not
// links stay there.
func openChain(dir, node string) (*chain, error) {
	key, err := link.Key(filepath.Join(dir, keyName))
	if err != nil {
		return nil, err
	}
	c := &chain{dir: dir, node: node, key: key}
	torn, err := c.links(func(l *link.Link, _ []byte, _ int, _ error) bool {
		if l != nil {
			c.follow(l)
		}
		return true
	})
	if err == nil && torn {
		err = c.endLine()
	}
	return c, err
}

// endLine ends a torn line: the machine lost power, and the next link needs a line of its own.
func (c *chain) endLine() error {
	f, err := os.OpenFile(c.path(), os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = f.WriteString("\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("continue the chain of the audit log: %w", err)
	}
	return nil
}

func (c *chain) path() string { return filepath.Join(c.dir, chainName) }

// links calls visit for each line of the chain, with the link, or with the reason why the line is
// not one, until visit returns false.
func (c *chain) links(visit func(l *link.Link, line []byte, number int, why error) bool) (torn bool, err error) {
	torn, err = segment{path: c.path()}.lines(func(b []byte, number int) bool {
		l, why := link.Link{}, link.ErrLine
		if b != nil {
			l, why = link.Parse(b)
		}
		if why != nil {
			return visit(nil, b, number, why)
		}
		return visit(&l, b, number, nil)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return torn, err
}

// follow takes account of the next link.
func (c *chain) follow(l *link.Link) {
	c.last = max(c.last, l.Last)
	if l.Kind == link.Open {
		c.open = l
		return
	}
	c.n, c.previous, c.open = l.N, l.Digest(), nil
	if l.Kind == link.Closed {
		c.closed = l.First
	}
}

// add signs and writes a link. Only checkpoints are not on the disk when add returns.
func (c *chain) add(l link.Link) error {
	l.N, l.Node, l.Time, l.Previous = c.n+1, c.node, time.Now().UTC(), c.previous
	l.Sign(c.key)
	f, err := os.OpenFile(c.path(), os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("write the chain of the audit log: %w", err)
	}
	defer f.Close()
	err = appendWhole(f, l.Line())
	if err == nil && l.Kind != link.Open {
		err = f.Sync()
	}
	if err != nil {
		return fmt.Errorf("write the chain of the audit log: %w", err)
	}
	c.follow(&l)
	return nil
}

// appendWhole appends all of b, or nothing: of a full disk only a part may be left.
func appendWhole(f *os.File, b []byte) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return errors.Join(err, f.Truncate(info.Size()))
	}
	return nil
}

// prune records that the segments before the one that begins with oldest are removed, and drops
// their links.
func (c *chain) prune(oldest uint64) error {
	if err := c.add(link.Link{Kind: link.Removed, First: oldest}); err != nil {
		return err
	}
	return c.shorten(oldest)
}

// shorten drops the checkpoints, and the links before the first one that oldest needs: none if
// oldest is 0. It is called after another link, because a checkpoint that nothing follows is needed.
func (c *chain) shorten(oldest uint64) error {
	var kept []byte
	keep := oldest == 0
	_, err := c.links(func(l *link.Link, line []byte, _ int, _ error) bool {
		if l != nil {
			keep = keep || l.First >= oldest && (l.Kind == link.Closed || l.Kind == link.Removed)
		}
		if keep && (l == nil || l.Kind != link.Open) {
			kept = append(append(kept, line...), '\n')
		}
		return true
	})
	if err == nil {
		err = atomicfile.Write(c.path(), kept, 0o600)
	}
	if err != nil {
		return fmt.Errorf("shorten the chain of the audit log: %w", err)
	}
	return nil
}

// summed adds the content of a segment to the hash, up to a number of bytes, and returns how many
// there were.
func (s segment) summed(h hash.Hash, most int64) (int64, error) {
	f, err := openFile(nil, s.path)
	if err != nil {
		return 0, fmt.Errorf("read audit log: %s: %w", s.path, err)
	}
	defer f.Close()
	n, err := io.Copy(h, io.LimitReader(f, most))
	if err != nil {
		return 0, fmt.Errorf("read audit log: %s: %w", s.path, err)
	}
	return n, nil
}

// has reports whether the segment still begins with what its checkpoint says, and whether there is
// more.
func (s segment) has(l *link.Link) (same, more bool, err error) {
	h := sha256.New()
	n, err := s.summed(h, l.Bytes)
	if err != nil {
		return false, false, err
	}
	size, err := s.size()
	return n == l.Bytes && hexSum(h) == l.SHA256, size > l.Bytes, err
}

func (s segment) size() (int64, error) {
	info, err := os.Lstat(s.path)
	if err != nil {
		return 0, fmt.Errorf("read audit log: %w", err)
	}
	return info.Size(), nil
}

func hexSum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// settle closes, in the chain, what a writer before this one has left open: all segments but the
// last one. It returns what is wrong with the segment of the last checkpoint.
//
// The link of a segment that no longer begins as its checkpoint says is that of the checkpoint: so
// whoever verifies the log finds the difference for ever. A writer that is closed signs all that it
// has written. So unless that writer was killed, what no checkpoint covers is somebody else's, and
// is not signed.
func (w *Writer) settle(all []segment, killed bool) (gap string, err error) {
	open := w.chain.open
	for i, s := range all {
		if s.first <= w.chain.closed {
			continue
		}
		l := link.Link{Kind: link.Closed, First: s.first}
		if open != nil && open.First <= s.first {
			same, more := false, false
			if open.First == s.first {
				if same, more, err = s.has(open); err != nil {
					return "", err
				}
			}
			if !same || more && !killed {
				gap = w.missed(open)
				if err := w.chain.add(closed(open)); err != nil {
					return "", err
				}
			}
			open = nil
		} else if size, err := s.size(); err != nil {
			return "", err
		} else if size > 0 && !killed {
			gap = w.missed(&l)
			l.SHA256 = hexSum(sha256.New())
			if err := w.chain.add(l); err != nil {
				return "", err
			}
		}
		if i == len(all)-1 || s.first <= w.chain.closed {
			continue
		}
		h := sha256.New()
		if l.Bytes, err = s.summed(h, maxSegment); err != nil {
			return "", err
		}
		l.First, l.Last, l.SHA256 = s.first, all[i+1].first-1, hexSum(h)
		if err := w.chain.add(l); err != nil {
			return "", err
		}
	}
	if open != nil && open.First > w.chain.closed { // it was the last one
		gap, err = w.missed(open), w.chain.add(closed(open))
	}
	return gap, err
}

// closed returns the link that closes the segment of the checkpoint as it was.
func closed(l *link.Link) link.Link {
	return link.Link{Kind: link.Closed, First: l.First, Last: l.Last, Bytes: l.Bytes, SHA256: l.SHA256}
}

func (w *Writer) missed(open *link.Link) string {
	return filepath.Base(segmentPath(w.dir, open.First)) +
		" was changed, shortened or removed while nothing wrote this log"
}

// seal closes the segment that is written to in the chain, once.
func (w *Writer) seal() error {
	if w.first <= w.chain.closed {
		return nil
	}
	if err := w.chain.add(w.written(link.Closed)); err != nil {
		return err
	}
	// A chain with all checkpoints grows faster than a quiet log.
	return w.chain.shorten(0)
}

// written says what was written to the last segment.
func (w *Writer) written(kind string) link.Link {
	return link.Link{Kind: kind, First: w.first, Last: w.seq, Bytes: w.size, SHA256: hexSum(w.sum)}
}

// checkpoint signs what was written since the last checkpoint, if that is so old.
func (w *Writer) checkpoint(due time.Duration) error {
	if w.size == 0 || w.first <= w.chain.closed || time.Since(w.chain.at) < due {
		return nil
	}
	if o := w.chain.open; o != nil && o.First == w.first && o.Bytes == w.size {
		return nil
	}
	w.chain.at = time.Now()
	err := w.chain.add(w.written(link.Open))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // somebody removed the folder: the next event notices
	}
	return err
}
