// Package document says what the statements of a policy document of IAM are about, one by one. It
// does not evaluate them: package iam does.
package document

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Statement is a statement of a policy document.
type Statement struct {
	Effect                  string
	Principal, NotPrincipal any
	Action, NotAction       any
	Resource, NotResource   any
	Condition               map[string]map[string]any
	// Principals, Actions and Resources are the texts of these.
	Principals []string `json:"-"`
	Actions    []string `json:"-"`
	Resources  []string `json:"-"`
}

// Parse returns the statements of a document.
func Parse(text string) ([]Statement, error) {
	var doc struct{ Statement json.RawMessage }
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		return nil, err
	}
	var out []Statement
	if json.Unmarshal(doc.Statement, &out) != nil {
		out = make([]Statement, 1) // AWS takes one without a list
		if err := json.Unmarshal(doc.Statement, &out[0]); err != nil {
			return nil, err
		}
	}
	for i := range out {
		s := &out[i]
		s.Actions, s.Resources = Texts(s.Action), Texts(s.Resource)
		s.Principals = Texts(s.Principal)
		if m, ok := s.Principal.(map[string]any); ok {
			s.Principals = nil
			for _, kind := range slices.Sorted(maps.Keys(m)) {
				s.Principals = append(s.Principals, Texts(m[kind])...)
			}
		}
	}
	return out, nil
}

// Texts returns the texts of a list, or of a single item without one.
func Texts(v any) []string {
	items, ok := v.([]any)
	if !ok && v != nil {
		items = []any{v}
	}
	var out []string
	for _, item := range items {
		switch item := item.(type) {
		case string:
			out = append(out, item)
		case float64: // an account
			out = append(out, strconv.FormatFloat(item, 'f', -1, 64))
		default:
			out = append(out, fmt.Sprint(item))
		}
	}
	return out
}

// Allows reports whether the statement allows something.
func (s *Statement) Allows() bool { return s.Effect == "Allow" }

// Anybody reports whether everybody is meant.
func (s *Statement) Anybody() bool {
	return s.NotPrincipal != nil || slices.Contains(s.Principals, "*")
}

// Requires reports whether a condition with that operator is on one of the keys.
func (s *Statement) Requires(operators []string, keys ...string) bool {
	for _, op := range operators {
		for key := range s.Condition[op] {
			if slices.Contains(keys, strings.ToLower(key)) {
				return true
			}
		}
	}
	return false
}

// Whom are the keys by which a condition says who asks, or from where.
var Whom = []string{
	"aws:principalaccount", "aws:principalorgid", "aws:principalorgpaths", "aws:principalarn", "aws:sourceaccount",
	"aws:sourcearn", "aws:sourceorgid", "aws:sourceorgpaths", "aws:sourcevpc", "aws:sourcevpce", "aws:sourceip",
	"aws:vpcsourceip", "aws:userid", "kms:calleraccount", "s3:dataaccesspointaccount",
}

// Limits reports whether a condition with that operator has one of the keys, and values that are
// not for everybody.
func (s *Statement) Limits(operators []string, keys ...string) bool {
	for _, op := range operators {
		for key, v := range s.Condition[op] {
			if slices.Contains(keys, strings.ToLower(key)) && !slices.ContainsFunc(Texts(v), func(text string) bool {
				return strings.Trim(text, "*?:") == "" || strings.Contains(text, "${") || strings.HasSuffix(text, "/0")
			}) {
				return true
			}
		}
	}
	return false
}

// Does reports whether the statement is about an action, such as iam:PassRole.
func (s *Statement) Does(action string) bool {
	if s.NotAction != nil {
		return !slices.ContainsFunc(Texts(s.NotAction), func(p string) bool { return matches(p, action) })
	}
	return slices.ContainsFunc(s.Actions, func(p string) bool { return matches(p, action) })
}

// matches reports whether a pattern of IAM, with * and ?, matches the text in any letter case.
func matches(pattern, text string) bool {
	p, t := strings.ToLower(pattern), strings.ToLower(text)
	// The place behind the last * of the pattern, and the part of the text that the * has taken.
	i, j, star, taken := 0, 0, -1, 0
	for j < len(t) {
		switch {
		case i < len(p) && p[i] == '*':
			star, taken = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == t[j]):
			i++
			j++
		case star >= 0:
			taken++
			i, j = star+1, taken
		default:
			return false
		}
	}
	return strings.Trim(p[i:], "*") == ""
}

// Everything reports whether a list of resources has one that is every resource.
func Everything(resources []string) bool {
	return slices.ContainsFunc(resources, func(r string) bool {
		parts := strings.SplitN(r, ":", 6)
		if len(parts) < 6 {
			return strings.HasSuffix(r, "*")
		}
		name := strings.TrimRight(parts[5], "*?")
		return name == "" || parts[2] == "iam" && (name == "role/" || name == "user/")
	})
}

// layers matches the image layers of AWS's own bucket of a region.
var layers = regexp.MustCompile(`^arn:aws[a-z-]*:s3:::prod-[a-z]{2}(-[a-z]+)+-[0-9]-starport-layer-bucket/\*$`)

// OfLayers reports whether the statement lets images be read, and nothing else.
func (s *Statement) OfLayers() bool {
	return len(s.Resources) == 1 && layers.MatchString(s.Resources[0]) &&
		slices.Equal(s.Actions, []string{"s3:GetObject"})
}

// Operators of conditions.
var (
	Matching  = []string{"StringEquals", "StringLike", "ArnEquals", "ArnLike", "IpAddress"}
	Differing = []string{"StringNotEquals", "StringNotEqualsIfExists", "NotIpAddress", "NotIpAddressIfExists", "Null"}
)

// Service returns the one service of AWS's that the statement is about, or "".
func (s *Statement) Service() string {
	kinds, ok := s.Principal.(map[string]any)
	if services := Texts(kinds["Service"]); ok && len(kinds) == 1 && len(services) == 1 &&
		strings.HasSuffix(services[0], ".amazonaws.com") {
		return services[0]
	}
	return ""
}

// AccountOf returns the account that a principal or the source of a request is of, or "".
func AccountOf(who string) string {
	if parts := strings.Split(who, ":"); len(parts) > 5 {
		who = parts[4]
	}
	if len(who) == 12 && strings.Trim(who, "0123456789") == "" {
		return who
	}
	return ""
}

// values returns what conditions with that operator say of a key.
func (s *Statement) values(operator, key string) (out []string) {
	for k, v := range s.Condition[operator] {
		if strings.EqualFold(k, key) {
			out = append(out, Texts(v)...)
		}
	}
	return out
}

// SourceBut returns the source of another account for which the statement counts, or "".
func (s *Statement) SourceBut(own string) string {
	for _, operator := range Matching {
		for _, v := range append(s.values(operator, "aws:sourceaccount"), s.values(operator, "aws:sourcearn")...) {
			if other := AccountOf(v); own != "" && other != "" && other != own {
				return v
			}
		}
	}
	return ""
}

// Strangers reports whether the statement counts for principals of an account besides the own one.
// Of several organizations one is not the own one.
func (s *Statement) Strangers(own string) bool {
	accounts := s.values("StringEquals", "aws:principalaccount")
	return len(accounts) == 0 && len(s.values("StringEquals", "aws:principalorgid")) > 1 ||
		own != "" && slices.ContainsFunc(accounts, func(a string) bool { return a != own })
}
