package xds

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/postern/postern/svid"
)

// maxState bounds what is read of a state file, in bytes: ten thousand nodes and
// leases are a hundredth of it.
const maxState = 64 << 20

// errDamaged is a state file whose content is not what we wrote.
var errDamaged = errors.New("it is damaged")

// readState decodes the state file into v, and reports false if there is none. The
// error is errDamaged if the content cannot be used.
func readState(path string, v any) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read control plane state: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err != nil {
		return false, fmt.Errorf("read control plane state: %w", err)
	}
	if len(b) > maxState || json.Unmarshal(b, v) != nil {
		return false, fmt.Errorf("%s: %w", path, errDamaged)
	}
	return true, nil
}

// setAside keeps a damaged state file for people, under another name: what replaces
// it is made from the store, and from the nodes when they come back.
func (c *Control) setAside(path string, why error) error {
	aside := path + ".damaged"
	if err := os.Rename(path, aside); err != nil {
		return fmt.Errorf("set aside %s, which is damaged: %w", path, err)
	}
	c.cfg.Log.Error("a state file is damaged, and was set aside", "file", path, "as", aside, "error", why)
	return nil
}

// readNodes reads which nodes there are, and which were removed. A list of nodes
// that is lost is not missed: a node that runs here is recognised when it asks. Of
// nodes that were removed the store has those that were evicted, and what the other
// control planes report.
func (c *Control) readNodes() error {
	var nodes []string
	switch _, err := readState(c.nodesFile(), &nodes); {
	case errors.Is(err, errDamaged):
		if err := c.setAside(c.nodesFile(), err); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	for _, id := range nodes {
		if svid.IsNode(id) {
			c.ledger.Allow(id)
		}
	}
	removed := map[string]time.Time{}
	switch _, err := readState(c.removedFile(), &removed); {
	case errors.Is(err, errDamaged):
		if err := c.setAside(c.removedFile(), err); err != nil {
			return err
		}
		if c.cfg.Fleet != nil {
			c.damaged = "the list of removed nodes was damaged: a node that was removed in the last days, and not by `postern evict`, may be back; " +
				"evict such a node again: `postern evict NODE`"
		}
	case err != nil:
		return err
	default:
		c.ledger.Restore(removed)
	}
	return nil
}

// readLeases reads what is remembered of time. When that is lost, time has come at
// least as far as the files say that were written last: a lease that had ended by
// then does not begin again, wherever the clock was set to.
func (c *Control) readLeases() (leases, error) {
	var past leases
	there, err := readState(c.leasesFile(), &past)
	if there || err != nil && !errors.Is(err, errDamaged) {
		return past, err
	}
	past = leases{}
	for _, path := range []string{c.leasesFile(), c.goodFile(), c.nodesFile(), c.removedFile()} {
		if info, err := os.Stat(path); err == nil && info.ModTime().After(past.Seen) {
			past.Seen = info.ModTime()
		}
	}
	if err != nil {
		return past, c.setAside(c.leasesFile(), err)
	}
	return past, nil
}

// saveJSON is save of v's JSON.
func (c *Control) saveJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return c.save(path, b)
}

// vouch reports whether the node runs on this machine, and if so makes ready what it
// needs here.
func (c *Control) vouch(node string) bool {
	if c.cfg.Local == nil || !c.cfg.Local(node) {
		return false
	}
	if b := c.bundle(); b != nil && c.cfg.Prepare != nil {
		if err := c.cfg.Prepare(node, b.Plan); err != nil {
			c.cfg.Log.Error("prepare a node", "node", node, "error", err)
			return false
		}
	}
	return true
}
