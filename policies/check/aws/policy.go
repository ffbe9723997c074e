package aws

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/postern/postern/graph"
)

// policies are the inputs that hold IAM policy documents, by type. trusting are the inputs that say
// who may assume the role.
var policies = []struct {
	kind, property string
	// resourceBased documents name a principal, the others may not.
	resourceBased bool
	// limit is how many characters AWS takes, white space not counted where
	// AWS does not count it.
	limit int
}{
	{"iam/role", "assumeRolePolicy", true, 2048},
	{"iam/rolePolicy", "policy", false, 10240},
	{"iam/policy", "policy", false, 6144},
	{"ec2/vpcEndpoint", "policy", true, 20480},
	{"s3/bucketPolicy", "policy", true, 20480},
	{"kms/key", "policy", true, 32768},
	{"secretsmanager/secretPolicy", "policy", true, 20480},
	{"cloudwatch/logResourcePolicy", "policyDocument", true, 5120},
	{"sns/topicPolicy", "policy", true, 30720},
}

var (
	// action is service:Action; wildcards may be in the action only.
	action = regexp.MustCompile(`^[a-z][a-z0-9-]*:[A-Za-z0-9*?]+$`)
	sid    = regexp.MustCompile(`^[A-Za-z0-9]*$`)
	// arn matches the valid values of Resource. Parts may have wildcards and variables, and may be
	// empty where AWS leaves them out.
	arn     = regexp.MustCompile(`^arn:(aws|aws-cn|aws-us-gov|\*):[a-z0-9-]+:([a-z0-9-]*|\*):([0-9]{12}|aws|\*|\$\{[A-Za-z:]+\})?:.+$`)
	account = regexp.MustCompile(`^[0-9]{12}$`)
	service = regexp.MustCompile(`^[a-z0-9.-]+\.amazonaws\.com(\.cn)?$`)
)

// statementKeys are the elements of a statement ("IAM JSON policy elements reference").
var statementKeys = []string{"Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"}

// operators of conditions, less their prefix ForAllValues: or ForAnyValue: and
// their suffix IfExists.
var operators = []string{
	"StringEquals", "StringNotEquals", "StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase", "StringLike", "StringNotLike",
	"NumericEquals", "NumericNotEquals", "NumericLessThan", "NumericLessThanEquals", "NumericGreaterThan", "NumericGreaterThanEquals",
	"DateEquals", "DateNotEquals", "DateLessThan", "DateLessThanEquals", "DateGreaterThan", "DateGreaterThanEquals",
	"Bool", "BinaryEquals", "IpAddress", "NotIpAddress", "ArnEquals", "ArnLike", "ArnNotEquals", "ArnNotLike", "Null",
}

// documents checks every policy document and ARN of the resource.
func (c *checker) documents(r *graph.Resource) {
	for _, p := range policies {
		if !is(r, p.kind) || !set(r, p.property) || graph.IsSecret(r.Inputs[p.property]) {
			continue
		}
		text, ok := r.Value(p.property).(string)
		if !ok || text == graph.Unknown {
			continue
		}
		if n := len(strings.Join(strings.Fields(text), "")); n > p.limit {
			c.report(r, p.property, "split it, or name fewer resources", "the document has %d characters, AWS takes %d", n, p.limit)
		}
		c.document(r, p.property, text, p.resourceBased, p.property == "assumeRolePolicy")
	}
	if is(r, "ecs/taskDefinition") {
		const property = "containerDefinitions"
		if text, ok := r.Value(property).(string); ok && text != "" && text != graph.Unknown && !json.Valid([]byte(text)) {
			c.report(r, property, "build it with a JSON encoder", "it is not valid JSON")
		}
	}
	for _, property := range sortedKeys(r.Inputs) {
		c.arns(r, property, r.Value(property))
	}
}

// arns checks every text that is an ARN as a whole, wherever it is.
func (c *checker) arns(r *graph.Resource, path string, v any) {
	switch v := v.(type) {
	case string:
		if strings.HasPrefix(v, "arn:") && !arn.MatchString(v) {
			c.report(r, path, "write arn:partition:service:region:account:resource", "%q is not a valid ARN", v)
		}
	case []any:
		for i, item := range v {
			c.arns(r, join(path, fmt.Sprint(i)), item)
		}
	case map[string]any:
		for _, k := range sortedKeys(v) {
			c.arns(r, join(path, k), v[k])
		}
	}
}

// document checks one policy document. A trust policy has principals, and no resource.
func (c *checker) document(r *graph.Resource, path, text string, principals, trust bool) {
	var doc map[string]any
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		c.report(r, path, "build it with a JSON encoder", "the document is not valid JSON: %v", err)
		return
	}
	for _, k := range sortedKeys(doc) {
		if !slices.Contains([]string{"Version", "Id", "Statement"}, k) {
			c.report(r, path, "remove it", "a document has no element %q", k)
		}
	}
	if v := doc["Version"]; v != "2012-10-17" {
		c.report(r, path, `write "Version": "2012-10-17"`, "its version is %v: variables are not replaced in it", v)
	}
	statements := listOf(doc["Statement"])
	if len(statements) == 0 {
		c.report(r, path, "write a statement, or no document", "the document has no statement")
	}
	sids := map[string]bool{}
	for i, v := range statements {
		s, ok := v.(map[string]any)
		at := fmt.Sprintf("%s.Statement.%d", path, i)
		if !ok {
			c.report(r, at, "write an object", "a statement is not an object")
			continue
		}
		if name, ok := s["Sid"].(string); ok && name != "" {
			// Buckets and keys take more characters, but every service takes these.
			if !sid.MatchString(name) {
				c.report(r, at+".Sid", "write letters and digits", "%q is not a Sid that every service accepts", name)
			}
			if sids[name] {
				c.report(r, at+".Sid", "give every statement another one", "%q is there twice", name)
			}
			sids[name] = true
		}
		c.statement(r, at, s, principals, trust)
	}
}

func (c *checker) statement(r *graph.Resource, at string, s map[string]any, principals, trust bool) {
	for _, k := range sortedKeys(s) {
		if !slices.Contains(statementKeys, k) {
			c.report(r, at+"."+k, "remove it", "a statement has no element %q", k)
		}
	}
	if e := s["Effect"]; e != "Allow" && e != "Deny" {
		c.report(r, at+".Effect", "write Allow or Deny", "%v is not a valid effect", e)
	}
	_, hasAction := s["Action"]
	_, hasNot := s["NotAction"]
	if hasAction == hasNot {
		c.report(r, at+".Action", "write one of Action and NotAction", "a statement needs exactly one")
	}
	for _, key := range []string{"Action", "NotAction"} {
		for _, v := range listOf(s[key]) {
			if a, ok := v.(string); !ok || a != "*" && !action.MatchString(a) {
				c.report(r, at+"."+key, "write service:Action, such as s3:GetObject", "%v is not a valid action", v)
			}
		}
	}
	_, hasResource := s["Resource"]
	_, hasNotResource := s["NotResource"]
	switch {
	case trust && (hasResource || hasNotResource):
		c.report(r, at+".Resource", "remove it", "a trust policy has no resource: it is the role's own")
	case !trust && hasResource == hasNotResource:
		c.report(r, at+".Resource", "write one of Resource and NotResource", "a statement needs exactly one")
	}
	for _, key := range []string{"Resource", "NotResource"} {
		for _, v := range listOf(s[key]) {
			if a, ok := v.(string); !ok || a != "*" && !arn.MatchString(a) {
				c.report(r, at+"."+key, "write an ARN or *", "%v is not a valid ARN", v)
			}
		}
	}
	p, hasPrincipal := s["Principal"]
	switch {
	case hasPrincipal && !principals:
		c.report(r, at+".Principal", "remove it", "a policy of an identity has no principal: it is the identity")
	case !hasPrincipal && principals && s["NotPrincipal"] == nil:
		c.report(r, at+".Principal", "say who", "a policy of a resource needs a principal")
	case hasPrincipal:
		c.principal(r, at, p)
	}
	c.condition(r, at, s["Condition"])
}

func (c *checker) principal(r *graph.Resource, at string, p any) {
	if m, ok := p.(map[string]any); ok {
		for _, kind := range sortedKeys(m) {
			for _, v := range listOf(m[kind]) {
				name, _ := v.(string)
				switch {
				case kind == "AWS" && name != "*" && !account.MatchString(name) && !arn.MatchString(name):
					c.report(r, at+".Principal.AWS", "write an account or an ARN", "%v is not a valid principal", v)
				case kind == "Service" && !service.MatchString(name):
					c.report(r, at+".Principal.Service", "write it like ecs-tasks.amazonaws.com", "%v is not a valid service", v)
				case !slices.Contains([]string{"AWS", "Service", "Federated", "CanonicalUser"}, kind):
					c.report(r, at+".Principal", "write AWS, Service, Federated or CanonicalUser", "%q is not a valid kind of principal", kind)
				}
			}
		}
	} else if p != "*" {
		c.report(r, at+".Principal", `write * or {"AWS": ...}`, "%v is not a valid principal", p)
	}
}

func (c *checker) condition(r *graph.Resource, at string, v any) {
	if v == nil {
		return
	}
	m, ok := v.(map[string]any)
	if !ok {
		c.report(r, at+".Condition", "write {operator: {key: value}}", "the condition is not an object")
		return
	}
	for _, op := range sortedKeys(m) {
		bare := strings.TrimPrefix(strings.TrimPrefix(op, "ForAllValues:"), "ForAnyValue:")
		if !slices.Contains(operators, bare) && !slices.Contains(operators, strings.TrimSuffix(bare, "IfExists")) {
			c.report(r, at+".Condition", "look it up under IAM JSON policy elements", "%q is not a valid operator", op)
		}
		keys, ok := m[op].(map[string]any)
		if !ok || len(keys) == 0 {
			c.report(r, at+".Condition."+op, "write {key: value}", "the operator has no key")
			continue
		}
		for _, k := range sortedKeys(keys) {
			if !strings.Contains(k, ":") {
				c.report(r, at+".Condition."+op, "write it like aws:SourceAccount", "%q is not a valid condition key", k)
			}
			if len(listOf(keys[k])) == 0 {
				c.report(r, at+".Condition."+op+"."+k, "write a value", "it has no value, so it never holds")
			}
		}
	}
}

// listOf is v as a list: AWS takes a single item without one.
func listOf(v any) []any {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		return v
	}
	return []any{v}
}
