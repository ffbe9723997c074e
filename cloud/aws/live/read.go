// Package live reads what exists in networks of an AWS account, whoever made it, and writes it down
// as a state of Pulumi: the same types, inputs and outputs, with the IDs of AWS as names. So the
// one proof reads plans, states and accounts alike.
//
// It only asks, and asks for nothing that carries no packet and says nothing about who may do what.
// A question that AWS refuses is reported. What it reads and the proof does not know stays in the
// state, with its own type: the proof reports it.
package live

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/postern/postern/cloud"
	"github.com/postern/postern/graph"
)

// resource is one of a state (sdk/go/common/apitype.ResourceV3).
type resource struct {
	URN                  string              `json:"urn"`
	ID                   string              `json:"id,omitempty"`
	Type                 string              `json:"type"`
	Custom               bool                `json:"custom"`
	External             bool                `json:"external,omitempty"`
	Parent               string              `json:"parent,omitempty"`
	Inputs               object              `json:"inputs"`
	Outputs              object              `json:"outputs,omitempty"`
	PropertyDependencies map[string][]string `json:"propertyDependencies,omitempty"`
}

type object = map[string]any

// reader holds what was read so far.
type reader struct {
	ctx     context.Context //nolint:containedctx // a reader is one question
	cfg     aws.Config
	ec2     *ec2.Client
	refused func(code string) bool
	say     func(string)

	stack  string
	region string
	vpcs   []string
	// all are the resources in the order in which they were read, and named those by type and ID.
	all   []*resource
	named map[[2]string]*resource
	// lists are the networks of prefix lists, by ID.
	lists map[string][]string
	// explained are the interfaces that belong to something else that was read.
	explained map[string]bool
	// tasks are where services have tasks.
	tasks []taskNetwork
	// members are what services and Auto Scaling groups have registered, by the ARN of the target
	// group.
	members map[string][]string
	// profiles are the ARNs of instance profiles, by name, and wanted the names of roles to be
	// read.
	profiles map[string]string
	wanted   map[string]bool
	// path is that of the stack's roles, or "".
	path   string
	unread []cloud.Unread
	err    error
}

// Read returns what exists in the networks: those with the stack's tag, unless stack is "", and
// those with the IDs. refused says which codes of AWS mean that this identity may not ask; any
// other failure is an error. say is told what is asked next.
func Read(
	ctx context.Context, cfg aws.Config, n cloud.Networks, refused func(code string) bool, say func(string),
) (*graph.Graph, []cloud.Unread, error) {
	r := &reader{
		ctx: ctx, cfg: cfg, ec2: ec2.NewFromConfig(cfg), refused: refused, say: say, stack: n.Stack,
		region: cfg.Region, named: map[[2]string]*resource{}, lists: map[string][]string{},
		explained: map[string]bool{}, members: map[string][]string{}, profiles: map[string]string{},
		wanted: map[string]bool{},
	}
	if r.stack == "" {
		r.stack = strings.Join(n.IDs, "+")
	} else {
		r.path = "/postern/" + r.stack + "/"
	}
	if err := r.networks(n); err != nil {
		return nil, nil, err
	}
	for _, step := range []struct {
		what string
		read func()
	}{ // what others refer to comes first
		{"subnets", r.subnets},
		{"security groups", r.groups},
		{"network ACLs", r.acls},
		{"endpoints", r.endpoints},
		{"gateways", r.gateways},
		{"route tables", r.tables},
		{"rules of security groups", r.rules},
		{"load balancers", r.balancers},
		{"Auto Scaling groups", r.scaling},
		{"instances", r.instances},
		{"services of ECS", r.services},
		{"network interfaces", r.interfaces},
		{"targets of load balancers", r.targets},
		{"the DNS firewall", r.firewalls},
		{"secrets", r.secrets},
		{"roles", r.roles},
	} {
		if r.say(step.what); r.err == nil {
			step.read()
		}
	}
	if r.err != nil {
		return nil, nil, r.err
	}
	var state bytes.Buffer
	if err := json.NewEncoder(&state).Encode(object{
		"version": 3, "deployment": object{"resources": r.all},
	}); err != nil {
		return nil, nil, fmt.Errorf("write down what exists: %w", err)
	}
	g, err := graph.Read(&state)
	if err != nil {
		return nil, nil, fmt.Errorf("what exists in %s: %w", r.stack, err)
	}
	return g, r.unread, nil
}

// readable are the names that a report shows next to an ID: anybody who may tag chooses them.
var readable = regexp.MustCompile(`^[A-Za-z0-9 ._/=+@:-]{1,128}$`)

// label returns the name of a resource: its ID, and what people call it.
func label(id, name string) string {
	if !readable.MatchString(name) || name == id {
		return id
	}
	return id + " (" + name + ")"
}

// add adds a resource, once. name is what people call it, or "".
func (r *reader) add(token, id, name string, inputs object) *resource {
	key := [2]string{token, id}
	if had := r.named[key]; had != nil {
		return had
	}
	x := &resource{
		URN: "urn:pulumi:" + r.stack + "::live::" + token + "::" + label(id, name),
		ID:  id, Type: token, Custom: true, Inputs: inputs, Outputs: object{},
	}
	if strings.HasPrefix(id, "arn:") {
		x.Outputs["arn"] = id
	}
	r.named[key] = x
	r.all = append(r.all, x)
	return x
}

// refers says that an input was computed from another resource. The input must have something that
// only that resource has: see [graph.Read].
func (x *resource) refers(property string, to *resource) {
	if to == nil {
		return
	}
	if x.PropertyDependencies == nil {
		x.PropertyDependencies = map[string][]string{}
	}
	x.PropertyDependencies[property] = append(x.PropertyDependencies[property], to.URN)
}

// pool puts a workload below the component that stands for its agent, and does nothing for other
// workloads. The tag Name of what an AgentPool makes is the pool's name, and what it is.
func (r *reader) pool(x *resource, tags object) {
	name, _ := tags[graph.TagName].(string)
	if tags[graph.TagRole] != "agents" || !readable.MatchString(name) {
		return
	}
	for _, kind := range []string{"-machine", "-service"} {
		if pool, ok := strings.CutSuffix(name, kind); ok {
			name = pool
			break
		}
	}
	p := r.add("postern:aws:AgentPool", name, "", object{})
	p.Custom, p.ID = false, ""
	x.Parent = p.URN
}

// answered reports whether AWS has answered. What this identity may not ask is remembered; any
// other failure ends the reading.
func (r *reader) answered(action string, err error) bool {
	api := smithy.APIError(nil)
	switch {
	case r.err != nil:
		return false
	case err == nil:
		return true
	case errors.As(err, &api) && r.refused(api.ErrorCode()):
		u := cloud.Unread{Action: action, Why: api.ErrorCode() + ": " + api.ErrorMessage()}
		if !slices.Contains(r.unread, u) {
			r.unread = append(r.unread, u)
		}
	default:
		r.err = fmt.Errorf("%s: %w", action, err)
	}
	return false
}

// pages is one of the SDK's paginators.
type pages[P, O any] interface {
	HasMorePages() bool
	NextPage(context.Context, ...func(*O)) (*P, error)
}

// every returns the items of all pages.
func every[P, O, T any](r *reader, action string, p pages[P, O], items func(*P) []T) (list []T) {
	for r.err == nil && p.HasMorePages() {
		page, err := p.NextPage(r.ctx)
		if !r.answered(action, err) {
			return nil
		}
		list = append(list, items(page)...)
	}
	return list
}

func (r *reader) inside() []types.Filter { return filter("vpc-id", r.vpcs...) }

func filter(name string, values ...string) []types.Filter {
	return []types.Filter{{Name: aws.String(name), Values: values}}
}

// value returns what a pointer of the SDK's points to, or nil.
func value[T any](p *T) any {
	if p == nil {
		return nil
	}
	return *p
}

func tagsOf(list []types.Tag) object {
	out := object{}
	for _, t := range list {
		out[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return out
}

func called(tags object) string {
	name, _ := tags[graph.TagName].(string)
	return name
}

// pick returns what f returns of each item.
func pick[T, V any](items []T, f func(T) V) []V {
	out := []V{}
	for _, item := range items {
		out = append(out, f(item))
	}
	return out
}
