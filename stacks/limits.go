package stacks

import (
	"regexp"
	"strconv"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks/yaml"
)

var (
	RatePattern = regexp.MustCompile(`^([1-9][0-9]{0,8})/(s|sec|min|h|hour)$`)
	seconds     = map[string]uint32{"s": 1, "sec": 1, "min": 60, "h": 3600, "hour": 3600}
)

// limits reads what bounds the use of a destination.
func (l *loader) limits(n *yaml.Node, what string) *plan.Limits {
	if !l.Mapping(n, what, "requests", "concurrent", "body", "upload", "download") {
		return nil
	}
	var out plan.Limits
	if r := n.Get("requests"); r != nil {
		m := RatePattern.FindStringSubmatch(r.Text)
		if r.Kind != yaml.KindText || m == nil {
			l.At(r, "write a number per s, min or hour, such as 600/min", "requests is not a valid rate")
		} else {
			count, _ := strconv.ParseUint(m[1], 10, 32) // nine digits
			out.Requests, out.Per = uint32(count), seconds[m[2]]
		}
	}
	if c := n.Get("concurrent"); c != nil {
		out.Concurrent = uint32(l.Integer(c, "concurrent", 1, 1000000))
	}
	if b := n.Get("body"); b != nil {
		out.Body = l.Size(b, "body", "")
	}
	if u := n.Get("upload"); u != nil {
		out.Upload = l.Size(u, "upload", "/s")
	}
	if d := n.Get("download"); d != nil {
		out.Download = l.Size(d, "download", "/s")
	}
	if out == (plan.Limits{}) {
		if len(n.Fields) == 0 {
			l.At(n, "remove the key", "%s are empty", what)
		}
		return nil
	}
	return &out
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
