package iam

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/reach"
)

// The types of a plan that say who may do what.
const (
	roleType       = "aws:iam/role:Role"
	rolePolicyType = "aws:iam/rolePolicy:RolePolicy"
	attachType     = "aws:iam/rolePolicyAttachment:RolePolicyAttachment"
	attachesType   = "aws:iam/policyAttachment:PolicyAttachment"
	policyType     = "aws:iam/policy:Policy"
	profileType    = "aws:iam/instanceProfile:InstanceProfile"
	secretType     = "aws:secretsmanager/secret:Secret"
	readersType    = "aws:secretsmanager/secretPolicy:SecretPolicy"
	keyType        = "aws:kms/key:Key"
	aliasType      = "aws:kms/alias:Alias"
	keyPolicyType  = "aws:kms/keyPolicy:KeyPolicy"
	grantType      = "aws:kms/grant:Grant"
	taskType       = "aws:ecs/taskDefinition:TaskDefinition"
	templateType   = "aws:ec2/launchTemplate:LaunchTemplate"
	instanceType   = "aws:ec2/instance:Instance"
)

// roleInputs has the input by which each type of workload is given a role.
var roleInputs = map[string]string{
	taskType: "taskRoleArn", templateType: "iamInstanceProfile", instanceType: "iamInstanceProfile",
}

// rolesOf has the input that names roles of each type that gives a role policies.
var rolesOf = map[string]string{rolePolicyType: "role", attachType: "role", attachesType: "roles"}

// becomes are actions by which a role gets what another role may do, or opens a secret.
var becomes = []string{
	"sts:AssumeRole", "iam:PassRole", "iam:PutRolePolicy", "iam:AttachRolePolicy", "iam:UpdateAssumeRolePolicy",
	"iam:CreatePolicyVersion", "iam:SetDefaultPolicyVersion", "iam:DeleteRolePermissionsBoundary",
	"ecs:ExecuteCommand", "ssm:StartSession", "ssm:SendCommand", "secretsmanager:PutResourcePolicy",
	"secretsmanager:DeleteResourcePolicy",
}

// reader has the identities of a plan.
type reader struct {
	g *graph.Graph
	// arns are the names of resources as policies have them, by URN.
	arns map[string]string
}

// Prove says which workloads of a plan may read a secret, and that agents may do nothing. It
// returns nil if the plan has no workload with an identity.
func Prove(g *graph.Graph) []reach.Verdict {
	r := &reader{g: g, arns: arns(g)}
	var out []reach.Verdict
	for i := range g.Resources {
		x := &g.Resources[i]
		property := roleInputs[x.Type]
		if property == "" || !slices.Contains([]string{"agents", "proxies", "control"}, x.Role) {
			continue
		}
		role, named := r.role(x, property)
		switch x.Role {
		case "agents":
			v := reach.Verdict{Assertion: x.Name + " -> an action of the cloud, as itself: never", Result: reach.Holds}
			if named {
				v.Result, v.Note = r.powers(role)
			}
			out = append(out, v)
		case "proxies":
			out = append(out, r.secrets(x, role, named, "the secret of a credential: never", Denied))
		case "control":
			out = append(out, r.secrets(x, role, named, "the secrets of credentials: must", Unknown))
		}
	}
	return slices.Concat(out, r.strangers(), r.outsiders(), r.wearers())
}

// arns returns the ARNs of roles and secrets: a state has them, and in a plan an input that was
// computed from nothing but one resource. If two inputs differ, the ARN is not known.
func arns(g *graph.Graph) map[string]string {
	out := map[string]string{}
	for i := range g.Resources { // of a state
		if x := &g.Resources[i]; isARN(x.Type, x.String("arn")) {
			out[x.URN] = x.String("arn")
		}
	}
	for _, e := range g.Edges() {
		x, to := g.ByURN(e.From), g.ByURN(e.To)
		text, _ := x.Value(e.Property).(string)
		if to == nil || !isARN(to.Type, text) || len(x.PropertyDependencies[e.Property]) != 1 {
			continue
		}
		if had, ok := out[e.To]; ok && had != text {
			text = ""
		}
		out[e.To] = text
	}
	return out
}

// isARN reports whether the text is the ARN of one resource of the type, with nothing after it.
func isARN(token, text string) bool {
	parts := strings.Split(text, ":")
	switch {
	case parts[0] != "arn" || strings.ContainsAny(text, "*?"):
		return false
	case token == roleType:
		return len(parts) == 6 && parts[2] == "iam" && strings.HasPrefix(parts[5], "role/")
	case token == secretType:
		return len(parts) == 7 && parts[2] == "secretsmanager" && parts[5] == "secret"
	}
	return false
}

// role returns the role that a workload has. named is true if it has one, whichever.
func (r *reader) role(x *graph.Resource, property string) (role *graph.Resource, named bool) {
	v := x.Inputs[property]
	if v == nil || v == "" {
		return nil, false
	}
	if role = r.g.Refers(x, property, roleType); role != nil {
		return role, true
	}
	if profile := r.g.Refers(x, property, profileType); profile != nil {
		return r.g.Refers(profile, "role", roleType), true
	}
	return nil, true
}

// policies returns what a role may do, without the policies of resources.
func (r *reader) policies(role *graph.Resource) *Policies {
	p := &Policies{}
	if role == nil || role.External {
		p.More = true
		return p
	}
	add := func(d *Document) {
		if d != nil {
			p.Identity = append(p.Identity, d)
		} else {
			p.More = true
		}
	}
	attached := map[any]bool{}
	for i := range r.g.Resources {
		x := &r.g.Resources[i]
		property := rolesOf[x.Type]
		if property == "" {
			// Other types may give a role policies too.
			p.More = p.More || x.Type != roleType && strings.HasPrefix(x.Type, "aws:iam/role")
			continue
		}
		names, ok := x.Inputs[property].([]any)
		if !ok && x.Inputs[property] != nil {
			names = []any{x.Inputs[property]}
		}
		known := 0
		for _, urn := range x.PropertyDependencies[property] {
			if to := r.g.ByURN(urn); to != nil && to.Type == roleType {
				known++
			}
		}
		// A name that is not one of the plan's roles may be this role's.
		p.More = p.More || len(names) > known || x.External
		if !slices.Contains(x.PropertyDependencies[property], role.URN) {
			continue
		}
		if x.Type == rolePolicyType {
			add(document(x, "policy"))
			continue
		}
		attached[x.Inputs["policyArn"]] = true
		if managed := r.g.Refers(x, "policyArn", policyType); managed != nil {
			add(document(managed, "policy"))
		} else {
			p.More = true
		}
	}
	own := func(property string, read func(v any)) {
		list, ok := role.Inputs[property].([]any)
		p.More = p.More || !ok && role.Inputs[property] != nil
		for _, v := range list {
			read(v)
		}
	}
	own("managedPolicyArns", func(v any) {
		text, ok := v.(string)
		p.More = p.More || !ok || text == graph.Unknown || !attached[text]
	})
	own("inlinePolicies", func(v any) {
		inline, _ := v.(map[string]any)
		text, _ := inline["policy"].(string)
		add(parsed(text))
	})
	if v := role.Inputs["permissionsBoundary"]; v != nil && v != "" {
		// A boundary that cannot be read limits nothing here: what it would refuse may be allowed.
		if boundary := r.g.Refers(role, "permissionsBoundary", policyType); boundary != nil {
			p.Boundary = document(boundary, "policy")
		}
	}
	return p
}

// document returns a policy of the plan, or nil if it cannot be read.
func document(x *graph.Resource, property string) *Document {
	if x.External {
		return nil
	}
	text, _ := x.Value(property).(string)
	return parsed(text)
}

func parsed(text string) *Document {
	d, err := Parse(text)
	if err != nil || strings.Contains(text, graph.Unknown) {
		return nil
	}
	return d
}

// powers says what a role may do: each action that its policies name is tried. It never holds: the
// policy of a resource that the plan does not have may grant a role something, and AWS answers some
// requests of every role.
func (r *reader) powers(role *graph.Resource) (reach.Result, string) {
	p := r.policies(role)
	if p.More {
		return reach.Indeterminate, "not all policies of its role are in the plan"
	}
	for s := range p.allows {
		for _, action := range append(slices.Clone(s.Action), s.NotAction...) {
			for _, resource := range append(append(texts{}, s.Resource...), s.NotResource...) {
				ask := &Request{Principal: r.arns[role.URN], Action: action, Resource: resource}
				if p.Decide(ask) != Denied {
					return reach.Fails, fmt.Sprintf("its role %s may %s at %s", role.Name, action, resource)
				}
			}
		}
	}
	// A pattern is not a request: what a policy refuses of it does not refuse the rest.
	for range p.allows {
		return reach.Indeterminate, "its role " + role.Name + " may perhaps do what its policies allow"
	}
	return reach.Indeterminate, "the policy of a resource may grant its role " + role.Name + " something"
}

// allows yields the statements of the identity that allow something.
func (p *Policies) allows(yield func(*statement) bool) {
	for _, d := range p.Identity {
		for i := range d.statements {
			if s := &d.statements[i]; s.Effect == "Allow" && !yield(s) {
				return
			}
		}
	}
}

// mayBecome reports whether a statement allows an action of [becomes], at whatever resource.
func (p *Policies) mayBecome() bool {
	for s := range p.allows {
		for _, action := range becomes {
			any := &statement{Action: s.Action, NotAction: s.NotAction}
			if any.what(&Request{Action: action}) != Denied {
				return true
			}
		}
	}
	return false
}

// reads returns whether a role may read a secret.
func (r *reader) reads(role, secret *graph.Resource) Answer {
	p := r.policies(role)
	arn, principal := r.arns[secret.URN], r.principal(role)
	guards, _ := r.guards(secret)
	p.Resource = append(p.Resource, guards...)
	for _, x := range r.g.OfType(readersType) {
		if !slices.Contains(x.PropertyDependencies["secretArn"], secret.URN) {
			continue
		}
		if role != nil && r.arns[role.URN] == "" && slices.Contains(x.PropertyDependencies["policy"], role.URN) {
			principal = "" // it is about the role, whose ARN is not known
		}
	}
	if len(guards) == 0 || arn == "" || principal == "" {
		return Unknown
	}
	answer := p.Decide(&Request{
		Principal: principal, Action: "secretsmanager:GetSecretValue", Resource: arn,
		Keys: map[string][]string{"aws:principalarn": {principal}},
	})
	if answer == Denied && p.mayBecome() {
		return Unknown
	}
	return answer
}

// found reports whether a statement in the plan lets a role read a secret, perhaps by conditions
// that are not known. What is not in the plan lets nobody do what must be possible.
func (r *reader) found(role, secret *graph.Resource) bool {
	p := r.policies(role)
	p.More = false
	p.Resource, _ = r.guards(secret)
	principal := r.principal(role)
	return p.Decide(&Request{
		Principal: principal, Action: "secretsmanager:GetSecretValue", Resource: r.arns[secret.URN],
		Keys: map[string][]string{"aws:principalarn": {principal}},
	}) != Denied
}

// principal returns the ARN of a role. If no document has it, it is one of the role's account and
// path, with a name that no document can have.
func (r *reader) principal(role *graph.Resource) string {
	if role == nil {
		return ""
	}
	if arn := r.arns[role.URN]; arn != "" {
		return arn
	}
	for _, arn := range slices.Sorted(maps.Values(r.arns)) {
		if parts := strings.Split(arn, ":"); len(parts) > 5 && len(parts[4]) == 12 {
			return fmt.Sprintf("arn:%s:iam::%s:role%s(new)", parts[1], parts[4], cmp.Or(role.String("path"), "/"))
		}
	}
	return ""
}

// ofCredentials returns the secrets that are not the fleet's own.
func (r *reader) ofCredentials() (out []*graph.Resource) {
	for _, s := range r.g.OfType(secretType) {
		if !strings.HasPrefix(s.String("name"), "postern/") {
			out = append(out, s)
		}
	}
	return out
}

// secrets returns the verdict on a workload and the secrets of credentials. want is [Denied], or
// [Unknown] if the workload must read them.
func (r *reader) secrets(x, role *graph.Resource, named bool, says string, want Answer) reach.Verdict {
	v := reach.Verdict{Assertion: x.Name + " -> " + says, Result: reach.Holds}
	for _, s := range r.ofCredentials() {
		got := Denied
		if named {
			got = r.reads(role, s)
		}
		switch {
		case want == Denied && got == Allowed:
			v.Result, v.Note = reach.Fails, "its role may read "+s.Name
		case want == Denied && got == Unknown && v.Result == reach.Holds:
			v.Result, v.Note = reach.Indeterminate, "its role may perhaps read "+s.Name
		case want != Denied && got == Denied:
			v.Result, v.Note = reach.Fails, "its role may not read "+s.Name
		case want != Denied && v.Result == reach.Holds && !r.found(role, s):
			v.Result = reach.Indeterminate
			v.Note = "no policy that is in the plan lets its role read " + s.Name
		}
	}
	return v
}

// strangers returns for each secret of a credential whether a role besides the control plane's may
// read it.
func (r *reader) strangers() (out []reach.Verdict) {
	own := map[string]bool{}
	for _, x := range r.g.OfType(taskType) {
		if role, _ := r.role(x, "taskRoleArn"); role != nil && x.Role == "control" {
			own[role.URN] = true
		}
	}
	for _, s := range r.ofCredentials() {
		v := reach.Verdict{
			Assertion: "a role besides the control plane's -> secret " + s.Name + ": never", Result: reach.Holds,
		}
		say := func(a Answer, sure, perhaps string) {
			switch {
			case a == Allowed && v.Result != reach.Fails:
				v.Result, v.Note = reach.Fails, sure
			case a == Unknown && v.Result == reach.Holds:
				v.Result, v.Note = reach.Indeterminate, perhaps
			}
		}
		guards, why := r.guards(s)
		if why != "" {
			say(Unknown, "", why)
		}
		for _, who := range append(named(guards), nobody) {
			if who != nobody && (accountOf(who) != r.account() || r.hasRole(who) || strings.HasSuffix(who, ":root")) {
				continue // others, or who is asked about below; the account itself only delegates
			}
			answer := (&Policies{Resource: guards}).Decide(request(who, "secretsmanager:GetSecretValue", r.arns[s.URN]))
			if who == nobody {
				say(answer, "its own policy lets everybody read it", "its own policy lets everybody perhaps read it")
			} else {
				say(answer, who+", who is not in the plan, may read it", who+" may perhaps read it")
			}
		}
		if who := foreign(guards, r.arns[s.URN]); who != "" {
			say(Unknown, "", "its own policy names "+who+", and nobody knows for whom that reads")
		}
		for _, who := range r.spared(guards) {
			is := Allowed
			if r.nameless(s) || r.unread(who) {
				is = Unknown // it may be that role
			}
			text := "its policy spares " + who + ", who is not in the plan"
			say(is, text, text+" as far as ARNs are known")
		}
		answer, note := r.decrypts(s)
		say(answer, note, note)
		for _, role := range r.g.OfType(roleType) {
			if own[role.URN] || v.Result == reach.Fails {
				continue
			}
			say(r.reads(role, s), "the role "+role.Name+" may read it", "the role "+role.Name+" may perhaps read it")
		}
		out = append(out, v)
	}
	return out
}
