package iam

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
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
		guards, why := r.guards(s)
		if why != "" {
			v.Result, v.Note = reach.Indeterminate, why
		}
		for _, who := range named(guards) {
			if accountOf(who) == r.account() {
				continue // strangers are asked about
			}
			answer := (&Policies{Resource: guards}).Decide(request(who, "secretsmanager:GetSecretValue", r.arns[s.URN]))
			if who != nobody && r.account() == "" { // it may be our own
				answer = min(answer, Unknown)
			}
			says := saysWho(who)
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

// guards returns the policies of a secret, and why these may not be the ones that count.
func (r *reader) guards(secret *graph.Resource) (out []*Document, why string) {
	add := func(x *graph.Resource) {
		d := document(x, "policy")
		if d == nil {
			why = "not all of its policies can be read"
			return
		}
		if out = append(out, d); len(out) > 1 {
			why = "it has several policies, and nobody knows which of them counts"
		}
	}
	if v := secret.Inputs["policy"]; v != nil && v != "" {
		add(secret)
	}
	for _, x := range r.g.OfType(readersType) {
		text, _ := x.Value("secretArn").(string)
		if urns := x.PropertyDependencies["secretArn"]; slices.Contains(urns, secret.URN) ||
			len(urns) == 0 && strings.Contains(text, ":secret:"+secret.String("name")+"-") {
			add(x)
		}
	}
	return out, why
}

// spared returns whom the policies of a secret leave out when they refuse everybody, although the
// plan has no such role.
func (r *reader) spared(guards []*Document) (out []string) {
	for _, d := range guards {
		for i := range d.statements {
			s := &d.statements[i]
			for operator, tests := range s.Condition {
				for key, values := range tests {
					if s.Effect != "Deny" || !strings.Contains(operator, "Not") ||
						!strings.EqualFold(key, "aws:PrincipalArn") {
						continue
					}
					for _, who := range values {
						if !r.hasRole(who) {
							out = append(out, who)
						}
					}
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// nameless reports whether a policy of the secret refers to a role whose ARN is not known.
func (r *reader) nameless(secret *graph.Resource) bool {
	return slices.ContainsFunc(r.g.OfType(readersType), func(x *graph.Resource) bool {
		return slices.Contains(x.PropertyDependencies["secretArn"], secret.URN) &&
			slices.ContainsFunc(x.PropertyDependencies["policy"], func(urn string) bool {
				to := r.g.ByURN(urn)
				return to != nil && to.Type == roleType && r.arns[urn] == ""
			})
	})
}

// hasRole reports whether the plan has a role of that ARN.
func (r *reader) hasRole(arn string) bool {
	return slices.ContainsFunc(r.g.OfType(roleType), func(x *graph.Resource) bool { return r.arns[x.URN] == arn })
}

// unread reports whether the plan has a role of that name of which it does not say more.
func (r *reader) unread(arn string) bool {
	return slices.ContainsFunc(r.g.OfType(roleType), func(x *graph.Resource) bool {
		return x.External && r.arns[x.URN] == "" && strings.HasSuffix(arn, "/"+x.Name)
	})
}

// keysOf returns the keys of the plan to which a resource refers, also by an alias.
func (r *reader) keysOf(x *graph.Resource, property string) (out []*graph.Resource) {
	for _, urn := range x.PropertyDependencies[property] {
		switch to := r.g.ByURN(urn); {
		case to == nil:
		case to.Type == keyType:
			out = append(out, to)
		case to.Type == aliasType:
			out = append(out, r.keysOf(to, "targetKeyId")...)
		}
	}
	return out
}

// decrypts returns whether somebody who is not in the plan may use the keys of a secret, and what
// says so. The account itself may: it delegates to the policies of its roles.
func (r *reader) decrypts(secret *graph.Resource) (most Answer, note string) {
	say := func(a Answer, format string, args ...any) {
		if a > most {
			most, note = a, fmt.Sprintf(format, args...)
		}
	}
	for _, key := range r.keysOf(secret, "kmsKeyId") {
		of := append(r.about(key, keyPolicyType), key)
		documents := []*Document{}
		for _, x := range of {
			if x == key && (key.Inputs["policy"] == nil || key.Inputs["policy"] == "") {
				continue
			}
			if d := document(x, "policy"); d != nil {
				documents = append(documents, d)
			} else {
				say(Unknown, "nobody knows the policy of its key %s", key.Name)
			}
		}
		if len(documents) > 1 {
			say(Unknown, "its key %s has several policies, and nobody knows which of them counts", key.Name)
		}
		on, _ := secret.Value("kmsKeyId").(string)
		for _, who := range named(documents) {
			account := accountOf(who)
			if r.hasRole(who) || account == r.account() && strings.HasSuffix(who, ":root") {
				continue
			}
			answer := (&Policies{Resource: documents}).Decide(request(who, "kms:Decrypt", on))
			if who != nobody && r.account() == "" {
				answer = min(answer, Unknown) // it may be our own
			}
			perhaps := map[bool]string{true: " perhaps"}[answer == Unknown]
			say(answer, "its key %s lets %s%s decrypt it", key.Name, saysWho(who), perhaps)
		}
		for _, x := range r.about(key, grantType) {
			who, _ := x.Value("granteePrincipal").(string)
			if x.External || who == "" || who == graph.Unknown {
				say(Unknown, "%s lets somebody use its key %s", x.Name, key.Name)
			} else if !r.hasRole(who) {
				say(Allowed, "%s lets %s use its key %s", x.Name, who, key.Name)
			}
		}
		for _, kind := range []string{keyPolicyType, grantType} {
			for _, x := range r.g.OfType(kind) {
				if len(r.keysOf(x, "keyId")) == 0 {
					say(Unknown, "%s may be about its key %s", x.Name, key.Name)
				}
			}
		}
	}
	return most, note
}

// about returns the resources of a type that are about a key.
func (r *reader) about(key *graph.Resource, kind string) (out []*graph.Resource) {
	for _, x := range r.g.OfType(kind) {
		if slices.Contains(r.keysOf(x, "keyId"), key) {
			out = append(out, x)
		}
	}
	return out
}

// named returns everybody whom a document allows something, as principal or by a condition, and
// [nobody]. A pattern of a condition stands for those that it matches.
func named(documents []*Document) []string {
	out := []string{nobody}
	for s := range allows(documents) {
		who := s.principals("AWS")
		for operator, tests := range s.Condition {
			for key, values := range tests {
				if !strings.Contains(operator, "Not") && slices.Contains(ofPrincipal, strings.ToLower(key)) {
					who = append(who, values...)
				}
			}
		}
		for _, p := range who {
			if len(p) == 12 { // an account
				p = "arn:aws:iam::" + p + ":root"
			}
			if accountOf(p) != "" {
				out = append(out, p)
			}
		}
	}
	return out
}

// ofPrincipal are the keys of conditions that say who asks.
var ofPrincipal = []string{"aws:principalarn", "aws:principalaccount", "kms:calleraccount"}

// request is what somebody asks of whom only the ARN is known.
func request(who, action, resource string) *Request {
	account := []string{accountOf(who)}
	return &Request{Principal: who, Action: action, Resource: resource, Keys: map[string][]string{
		"aws:principalarn": {who}, "aws:principalaccount": account, "kms:calleraccount": account,
	}}
}

// foreign returns a service, or somebody of an identity provider, whom a document allows to read a
// secret, or "".
func foreign(documents []*Document, secret string) string {
	for s := range allows(documents) {
		kinds, _ := s.Principal.(map[string]any)
		for _, kind := range slices.Sorted(maps.Keys(kinds)) {
			if kind != "AWS" && s.what(request("", "secretsmanager:GetSecretValue", secret)) != Denied {
				return cmp.Or(strings.Join(s.principals(kind), ", "), kind)
			}
		}
	}
	return ""
}

// allows returns the statements that allow something.
func allows(documents []*Document) iter.Seq[*statement] {
	return func(yield func(*statement) bool) {
		for _, d := range documents {
			for i := range d.statements {
				if s := &d.statements[i]; s.Effect == "Allow" && !yield(s) {
					return
				}
			}
		}
	}
}

// saysWho returns what people read for somebody's ARN.
func saysWho(arn string) string { return strings.Replace(arn, nobody, "everybody in every account", 1) }

// accountOf returns the account of an ARN, or "".
func accountOf(arn string) string {
	if parts := strings.Split(arn, ":"); len(parts) > 5 {
		return parts[4]
	}
	return ""
}

// principals returns the identities of a kind that a statement names. Everybody is of kind AWS.
func (s *statement) principals(kind string) (out texts) {
	of := s.Principal
	if m, ok := of.(map[string]any); ok {
		of = m[kind]
	} else if kind != "AWS" {
		return nil
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
		v := reach.Verdict{Assertion: x.Name + " -> anything else with its role: never", Result: reach.Holds}
		if role == nil {
			v.Result, v.Note = reach.Indeterminate, "somebody may perhaps take its role, which is not in the plan"
		} else {
			seen[role.URN] = true
			v.Result, v.Note = r.trusts(role, x.Type)
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

// wears reports whether a resource outside of IAM is given the role. A policy only names the role.
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

// trusts says whether the role of a workload may be taken by whoever is not the service that starts
// the workload, or by that service for another account.
func (r *reader) trusts(role *graph.Resource, workload string) (reach.Result, string) {
	d := document(role, "assumeRolePolicy")
	if d == nil {
		return reach.Indeterminate, "somebody may perhaps take the role " + role.Name + ": whom it trusts is not known"
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
		for _, service := range s.principals("Service") {
			if other := s.sourceBut(r.account()); other != "" {
				return reach.Fails, fmt.Sprintf("%s may take the role %s for %s", service, role.Name, other)
			}
			starts := map[bool]string{true: "ecs-tasks.amazonaws.com", false: "ec2.amazonaws.com"}[workload == taskType]
			if result == reach.Holds && service != starts {
				result, note = reach.Indeterminate, fmt.Sprintf("%s may perhaps take the role %s", service, role.Name)
			}
		}
		for _, p := range s.principals("AWS") {
			account := cmp.Or(accountOf(p), p)
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

// sourceBut returns the source of another account for which a statement counts, or "". One that
// counts for everybody but some does.
func (s *statement) sourceBut(own string) string {
	for operator, tests := range s.Condition {
		for key, values := range tests {
			if k := strings.ToLower(key); own == "" || k != "aws:sourceaccount" && k != "aws:sourcearn" {
				continue
			}
			if strings.Contains(operator, "Not") {
				return "everybody but " + strings.Join(values, ", ")
			}
			for _, v := range values {
				if cmp.Or(accountOf(v), v) != own {
					return v
				}
			}
		}
	}
	return ""
}
