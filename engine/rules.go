package engine

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/postern/postern/plan"
)

// rulesChanged compares two plans in their canonical form, rule by rule: what
// each agent may do more, less or otherwise.
func rulesChanged(before, after any) []string {
	old, ok1 := rules(before)
	now, ok2 := rules(after)
	if !ok1 || !ok2 {
		return nil
	}
	ids := maps.Clone(old)
	maps.Copy(ids, now)
	var out []string
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		was, had := old[id]
		is, has := now[id]
		switch {
		case !had:
			out = append(out, "+ "+id+": "+is)
		case !has:
			out = append(out, "- "+id+": "+was)
		case was != is:
			out = append(out, "~ "+id+": "+was+" -> "+is)
		}
	}
	return out
}

func rules(encoded any) (map[string]string, bool) {
	s, ok := encoded.(string)
	if !ok {
		return nil, false
	}
	var p plan.Plan
	if json.Unmarshal([]byte(s), &p) != nil {
		return nil, false
	}
	out := map[string]string{}
	for _, c := range p.Credentials {
		out["credential "+c.Name] = fmt.Sprintf("%s %s, secret in %s", c.Kind, c.Header, c.Secret)
	}
	for _, a := range p.Agents {
		out["agent "+a.Name] = "denied what its rules do not allow"
		for _, r := range a.Rules {
			line := fmt.Sprintf("%s:%d %s %s", r.Host, r.Port, strings.Join(r.Methods, ","), strings.Join(r.Paths, " "))
			if r.Credential != "" {
				line += ", with credential " + r.Credential
			}
			if r.Gateway != 0 {
				line += fmt.Sprintf(", at localhost:%d", r.Gateway)
			}
			if r.Upstream != nil {
				line += ", found at " + r.Upstream.Address
			}
			out[r.ID] = line
		}
	}
	return out, true
}
