package aws

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/reach"
)

// service reads who may connect to a service of the stack.
func (r *reader) service(x *graph.Resource) {
	d := &reach.Door{Name: x.Name}
	r.doors[x] = d
	r.n.Doors = append(r.n.Doors, d)
	if !boolean(x, "acceptanceRequired", false, false) {
		d.Open = "whoever may ask is accepted"
	}
	if v := x.Inputs["allowedPrincipals"]; v != nil {
		items, ok := v.([]any)
		if !ok {
			items = []any{v}
		}
		for _, item := range items {
			r.asks(d, item)
		}
	}
}

// principal matches whom a service of a network knows: an account, or a user or a role of it.
var principal = regexp.MustCompile(`^arn:aws[a-z-]*:iam::([0-9]{12}):(root|(user|role)/[^*?]+)$`)

// asks adds somebody who may ask for a connection.
func (r *reader) asks(d *reach.Door, who any) {
	text, _ := who.(string)
	account := ""
	if m := principal.FindStringSubmatch(text); m != nil {
		account = m[1]
	}
	switch {
	case text == "*":
		d.Open = "everybody may ask"
	case account == "" || r.account == "":
		if text == graph.Unknown || text == "" {
			text = "who may ask"
		}
		d.Doubts(fmt.Sprintf("the account of %q is not known", text))
	case account != r.account:
		d.Open = text + " may ask"
	}
}

// mayAsk reads a principal that is a resource of its own.
func (r *reader) mayAsk(x *graph.Resource) {
	if d, ok := one(r, x, "vpcEndpointServiceId", r.doors); ok {
		r.asks(d, x.Inputs["principalArn"])
	}
}

// accepted reads whom a service lets in: an endpoint of the plan, or somebody's.
func (r *reader) accepted(x *graph.Resource) {
	d, ok := one(r, x, "vpcEndpointServiceId", r.doors)
	if !ok {
		return
	}
	if found := all(r, x, "vpcEndpointId", r.nodes); len(found) != 1 ||
		r.strange(x, "vpcEndpointId", x.Inputs["vpcEndpointId"], len(found)) {
		d.Doubts(x.Name + " accepts an endpoint that is not in the plan")
	}
}

var (
	accountID = regexp.MustCompile(`^[0-9]{12}$`)
	orgID     = regexp.MustCompile(`^o-[a-z0-9]{10,32}$`)
	// layers are the image layers of AWS's own bucket of a region.
	layers      = regexp.MustCompile(`^arn:aws[a-z-]*:s3:::prod-[a-z]{2}(-[a-z]+)+-[0-9]-starport-layer-bucket/\*$`)
	readsObject = regexp.MustCompile(`^s3:GetObject$`)
)

// Account returns the account that the ARNs of the plan's own resources have, or "" if it is not
// known.
func Account(g *graph.Graph) string {
	found := ""
	for _, e := range g.Edges() {
		text, _ := g.ByURN(e.From).Value(e.Property).(string)
		parts := strings.Split(text, ":")
		if len(parts) < 6 || parts[0] != "arn" || !accountID.MatchString(parts[4]) || parts[4] == found {
			continue
		}
		if found != "" {
			return "" // one of them is somebody's
		}
		found = parts[4]
	}
	return found
}

// pinnedPolicy reports whether every statement of an endpoint's policy that allows something
// requires the account or an organization, or reads image layers of AWS's own bucket. Without a
// policy everybody may do everything. A variable may be anybody's. It does not evaluate IAM.
func (r *reader) pinnedPolicy(x *graph.Resource) bool {
	text, _ := x.Value("policy").(string)
	var policy struct {
		Statement []struct {
			Effect    string
			Action    any
			Resource  any
			Condition map[string]map[string]any
		}
	}
	if json.Unmarshal([]byte(text), &policy) != nil || len(policy.Statement) == 0 {
		return false
	}
	for _, s := range policy.Statement {
		pinned := s.Effect == "Deny"
		for operator, keys := range s.Condition {
			for key := range keys {
				if operator != "StringEquals" {
					continue
				}
				switch strings.ToLower(key) {
				case "aws:principalaccount":
					pinned = pinned || r.account != "" && slices.Equal(list(keys[key]), []any{r.account})
				case "aws:principalorgid":
					pinned = pinned || only(keys[key], orgID)
				}
			}
		}
		if !pinned && !(only(s.Action, readsObject) && only(s.Resource, layers)) {
			return false
		}
	}
	return true
}

// Policies returns whether the policy of each endpoint of AWS's services refuses strangers, by
// name.
func Policies(g *graph.Graph) map[string]bool {
	r, out := &reader{g: g, account: Account(g)}, map[string]bool{}
	for _, x := range g.OfType("aws:ec2/vpcEndpoint:VpcEndpoint") {
		if own := r.g.Refers(x, "serviceName", "aws:ec2/vpcEndpointService:VpcEndpointService"); own == nil {
			out[x.Name] = r.pinnedPolicy(x)
		}
	}
	return out
}

// only reports whether v is a text, or a list of texts, that matches.
func only(v any, is *regexp.Regexp) bool {
	items := list(v)
	return len(items) > 0 && !slices.ContainsFunc(items, func(item any) bool {
		text, _ := item.(string)
		return !is.MatchString(text)
	})
}

func list(v any) []any {
	if items, ok := v.([]any); ok {
		return items
	}
	return []any{v}
}
