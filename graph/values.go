package graph

import (
	"regexp"
	"slices"
	"strings"
)

// cloudID matches IDs that no two things of a cloud have.
var cloudID = regexp.MustCompile(`^([a-z]+-)+[0-9a-f]{8,17}$|^arn:`)

// references makes the references of a state those that its values have. A program may compute an
// input from one resource and give another one's ID; and it may write an ID that it was told. An
// input that is not known yet keeps what the engine recorded. IAM's resources have a role's name.
func references(g *Graph, resources []saved) {
	byID, says := map[string][]string{}, map[string]map[string]bool{}
	roles := map[string]string{}
	for i := range resources {
		s := &resources[i]
		if !s.Custom {
			continue
		}
		own := map[string]bool{}
		for _, v := range append([]any{s.ID}, values(s.Outputs)...) {
			if text, ok := v.(string); ok && text != "" {
				own[text] = true
			}
		}
		says[s.URN] = own
		if s.Type == "aws:iam/role:Role" && s.ID != "" {
			roles[s.ID] = s.URN
		}
		arn, _ := s.Outputs["arn"].(string)
		for _, id := range []string{s.ID, arn} {
			if cloudID.MatchString(id) {
				byID[id] = append(byID[id], s.URN)
			}
		}
	}
	for i := range g.Resources {
		r := &g.Resources[i]
		for property, v := range r.Inputs {
			if HasUnknown(v) {
				continue
			}
			texts := flat(v)
			kept := slices.DeleteFunc(slices.Clone(r.PropertyDependencies[property]), func(urn string) bool {
				own := says[urn]
				return own != nil && !slices.ContainsFunc(texts, func(text string) bool { return mentions(text, own) })
			})
			ofRole := strings.HasPrefix(r.Type, "aws:iam/") && (property == "role" || property == "roles")
			for _, text := range texts {
				named := byID[text]
				if role := roles[text]; ofRole && role != "" {
					named = append(slices.Clone(named), role)
				}
				for _, urn := range named {
					if urn != r.URN && !slices.Contains(kept, urn) {
						kept = append(kept, urn)
					}
				}
			}
			slices.Sort(kept)
			switch {
			case len(kept) > 0 && r.PropertyDependencies == nil:
				r.PropertyDependencies = map[string][]string{property: kept}
			case len(kept) > 0:
				r.PropertyDependencies[property] = kept
			default:
				delete(r.PropertyDependencies, property)
			}
		}
	}
}

func values(m map[string]any) (out []any) {
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

// mentions reports whether a text is one of them. A document may have it inside.
func mentions(text string, own map[string]bool) bool {
	if own[text] {
		return true
	}
	if !strings.HasPrefix(text, "{") {
		return false
	}
	for is := range own {
		if len(is) > 3 && strings.Contains(text, is) {
			return true
		}
	}
	return false
}

// flat returns every text in a value.
func flat(v any) (out []string) {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		for _, item := range v {
			out = append(out, flat(item)...)
		}
	case map[string]any:
		for _, key := range sortedKeys(v) {
			out = append(out, flat(v[key])...)
		}
	}
	return out
}
