package stacks

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/postern/postern/plan"
)

var (
	ratePattern = regexp.MustCompile(`^([1-9][0-9]{0,8})/(s|sec|min|h|hour)$`)
	sizePattern = regexp.MustCompile(`^([1-9][0-9]{0,11})(B|KiB|MiB|GiB)$`)
	seconds     = map[string]uint32{"s": 1, "sec": 1, "min": 60, "h": 3600, "hour": 3600}
	units       = map[string]uint64{"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
)

// limits reads what bounds the use of a destination.
func (l *loader) limits(n *node, what string) *plan.Limits {
	if !l.mapping(n, what, "requests", "concurrent", "body", "upload", "download") {
		return nil
	}
	var out plan.Limits
	if r := n.get("requests"); r != nil {
		m := ratePattern.FindStringSubmatch(r.text)
		if r.kind != kindText || m == nil {
			l.at(r, "write a number per s, min or hour, such as 600/min", "requests is not a valid rate")
		} else {
			count, _ := strconv.ParseUint(m[1], 10, 32) // nine digits
			out.Requests, out.Per = uint32(count), seconds[m[2]]
		}
	}
	if c := n.get("concurrent"); c != nil {
		out.Concurrent = uint32(l.integer(c, "concurrent", 1, 1000000))
	}
	if b := n.get("body"); b != nil {
		out.Body = l.size(b, "body", "")
	}
	if u := n.get("upload"); u != nil {
		out.Upload = l.size(u, "upload", "/s")
	}
	if d := n.get("download"); d != nil {
		out.Download = l.size(d, "download", "/s")
	}
	if out == (plan.Limits{}) {
		if len(n.fields) == 0 {
			l.at(n, "remove the key", "%s are empty", what)
		}
		return nil
	}
	return &out
}

// size reads a number of bytes, per the unit in the suffix.
func (l *loader) size(n *node, what, suffix string) uint64 {
	text, per := strings.CutSuffix(n.text, suffix)
	m := sizePattern.FindStringSubmatch(text)
	if n.kind != kindText || !per || m == nil {
		l.at(n, "write a number of B, KiB, MiB or GiB, such as 10MiB"+suffix, "%s is not a valid number of bytes%s", what, suffix)
		return 0
	}
	count, _ := strconv.ParseUint(m[1], 10, 64) // twelve digits
	if count > math.MaxInt64/units[m[2]] {
		l.at(n, "write less", "%s is more than can be counted", what)
		return 0
	}
	if suffix != "" && count*units[m[2]] < 1<<10 {
		l.at(n, "write at least 1KiB/s", "%s is less than the proxies can count", what)
	}
	return count * units[m[2]]
}

// limited returns a destination's limits, with the agent's limits where the destination sets none.
func limited(own, agent *plan.Limits) *plan.Limits {
	if own == nil || agent == nil {
		if own == nil {
			return agent
		}
		return own
	}
	out := *own
	if out.Requests == 0 {
		out.Requests, out.Per = agent.Requests, agent.Per
	}
	if out.Concurrent == 0 {
		out.Concurrent = agent.Concurrent
	}
	if out.Body == 0 {
		out.Body = agent.Body
	}
	if out.Upload == 0 {
		out.Upload = agent.Upload
	}
	if out.Download == 0 {
		out.Download = agent.Download
	}
	return &out
}

// limitsEntry writes limits in the grammar, as a key that follows others.
func limitsEntry(l *plan.Limits) string {
	if l == nil {
		return ""
	}
	var keys []string
	if l.Requests != 0 {
		per := map[uint32]string{1: "s", 60: "min", 3600: "hour"}[l.Per]
		keys = append(keys, fmt.Sprintf("requests: %d/%s", l.Requests, per))
	}
	if l.Concurrent != 0 {
		keys = append(keys, fmt.Sprintf("concurrent: %d", l.Concurrent))
	}
	for _, s := range []struct {
		key, per string
		bytes    uint64
	}{{"body", "", l.Body}, {"upload", "/s", l.Upload}, {"download", "/s", l.Download}} {
		if s.bytes != 0 {
			keys = append(keys, s.key+": "+sizeText(s.bytes)+s.per)
		}
	}
	return ", limits: {" + strings.Join(keys, ", ") + "}"
}

// sizeText is the shortest way to write a number of bytes.
func sizeText(n uint64) string {
	for _, unit := range []string{"GiB", "MiB", "KiB"} {
		if n%units[unit] == 0 {
			return strconv.FormatUint(n/units[unit], 10) + unit
		}
	}
	return strconv.FormatUint(n, 10) + "B"
}
