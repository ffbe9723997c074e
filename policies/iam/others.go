package iam

import (
	"fmt"
	"slices"
	"strings"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/reach"
)

// nobody is somebody of an account that no document names.
const nobody = "arn:aws:iam::000000000000:role/nobody"

// outsiders returns for each secret of a credential whether somebody of another account may read
// it. There, an administrator has allowed himself everything: only what belongs to the secret
// refuses.
func (r *reader) outsiders() (out []reach.Verdict) {
	for _, s := range r.ofCredentials() {
		v := reach.Verdict{Assertion: "other accounts -> secret " + s.Name + ": never", Result: reach.Holds}
		guards, whole := r.guards(s)
		if !whole {
			v.Result, v.Note = reach.Indeterminate, "not all of its policies can be read"
		}
		for _, who := range r.named(guards) {
			answer := (&Policies{Resource: guards}).Decide(&Request{
				Principal: who, Action: "secretsmanager:GetSecretValue", Resource: r.arns[s.URN],
				Keys: map[string][]string{"aws:principalarn": {who}},
			})
			if who != nobody && r.account() == "" { // it may be our own
				answer = min(answer, Unknown)
			}
			says := strings.Replace(who, nobody, "everybody in every account", 1)
			switch {
			case answer == Allowed:
				v.Result, v.Note = reach.Fails, says+" may read it"
			case answer == Unknown && v.Result == reach.Holds:
				v.Result, v.Note = reach.Indeterminate, says+" may perhaps read it"
			}
			if v.Result == reach.Fails {
				break
			}
		}
		out = append(out, v)
	}
	return out
}

// guards returns the policies of a secret. It reports false if one cannot be read.
func (r *reader) guards(secret *graph.Resource) (out []*Document, whole bool) {
	whole = true
	add := func(d *Document) {
		if d != nil {
			out = append(out, d)
		} else {
			whole = false
		}
	}
	if v := secret.Inputs["policy"]; v != nil && v != "" {
		add(document(secret, "policy"))
	}
	for _, x := range r.g.OfType(readersType) {
		if slices.Contains(x.PropertyDependencies["secretArn"], secret.URN) {
			add(document(x, "policy"))
		}
	}
	return out, whole
}

// named returns everybody of other accounts whom a document allows something, and [nobody].
func (r *reader) named(documents []*Document) []string {
	out := []string{nobody}
	for _, d := range documents {
		for i := range d.statements {
			s := &d.statements[i]
			if s.Effect != "Allow" {
				continue
			}
			for _, p := range s.principals() {
				if len(p) == 12 { // an account
					p = "arn:aws:iam::" + p + ":root"
				}
				parts := strings.Split(p, ":")
				if len(parts) < 6 || parts[4] == r.account() {
					continue
				}
				out = append(out, p)
			}
		}
	}
	return out
}

// principals returns the identities of AWS that a statement names.
func (s *statement) principals() (out texts) {
	of := s.Principal
	if m, ok := of.(map[string]any); ok {
		of = m["AWS"]
	}
	items, ok := of.([]any)
	if !ok {
		items = []any{of}
	}
	for _, item := range items {
		if text, ok := item.(string); ok {
			out = append(out, text)
		}
	}
	return out
}

// account returns the account of the plan's roles and secrets, or "".
func (r *reader) account() string {
	found := ""
	for _, arn := range r.arns {
		parts := strings.Split(arn, ":")
		if len(parts) < 6 || parts[4] == found {
			continue
		}
		if found != "" {
			return ""
		}
		found = parts[4]
	}
	return found
}

// wearers returns for each role of a workload whether somebody else may take it: by what the role
// trusts, or because it is given to something else, too.
func (r *reader) wearers() (out []reach.Verdict) {
	seen := map[string]bool{}
	for i := range r.g.Resources {
		x := &r.g.Resources[i]
		property := roleInputs[x.Type]
		if property == "" || !slices.Contains([]string{"agents", "proxies", "control"}, x.Role) {
			continue
		}
		role, named := r.role(x, property)
		if role == nil && (!named || len(x.PropertyDependencies[property]) > 0) || role != nil && seen[role.URN] {
			continue
		}
		v := reach.Verdict{Assertion: "anything else -> the role of " + x.Name + ": never", Result: reach.Holds}
		if role == nil {
			v.Result, v.Note = reach.Indeterminate, "the role is not in the plan"
		} else {
			seen[role.URN] = true
			v.Result, v.Note = r.trusts(role)
			for j := range r.g.Resources {
				if y := &r.g.Resources[j]; y.Role != x.Role && r.wears(y, role) {
					v.Result, v.Note = reach.Fails, fmt.Sprintf("%s has the role %s too", y.Name, role.Name)
				}
			}
		}
		out = append(out, v)
	}
	return out
}

// wears reports whether something that is no part of IAM is given a role. A policy only names it.
func (r *reader) wears(x *graph.Resource, role *graph.Resource) bool {
	if !x.Custom || strings.HasPrefix(x.Type, "aws:iam/") {
		return false
	}
	for property, urns := range x.PropertyDependencies {
		if strings.Contains(strings.ToLower(property), "policy") {
			continue
		}
		for _, urn := range urns {
			to := r.g.ByURN(urn)
			if urn == role.URN || to != nil && to.Type == profileType &&
				slices.Contains(to.PropertyDependencies["role"], role.URN) {
				return true
			}
		}
	}
	return false
}

// trusts says whether a role may be taken by whoever is not a service of AWS's.
func (r *reader) trusts(role *graph.Resource) (reach.Result, string) {
	d := document(role, "assumeRolePolicy")
	if d == nil {
		return reach.Indeterminate, "nobody knows whom the role " + role.Name + " trusts"
	}
	result, note := reach.Holds, ""
	for i := range d.statements {
		s := &d.statements[i]
		if s.Effect != "Allow" {
			continue
		}
		doubt := s.NotPrincipal != nil
		if kinds, ok := s.Principal.(map[string]any); ok {
			for kind := range kinds {
				doubt = doubt || kind != "Service" && kind != "AWS"
			}
		}
		for _, p := range s.principals() {
			account := p
			if parts := strings.Split(p, ":"); len(parts) > 5 {
				account = parts[4]
			}
			if own := r.account(); p == "*" || own != "" && account != own {
				return reach.Fails, fmt.Sprintf("%s may take the role %s", p, role.Name)
			}
			doubt = true
		}
		if doubt {
			result, note = reach.Indeterminate, "somebody may perhaps take the role "+role.Name
		}
	}
	return result, note
}
