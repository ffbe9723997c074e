package aws

import (
	"cmp"
	"encoding/pem"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/plan/cloud"
	"github.com/postern/postern/stacks/yaml"
)

var (
	daysForm  = regexp.MustCompile(`^([1-9][0-9]{0,4})d$`)
	stateForm = plan.Matching(`^(s3://[a-z0-9.-]{3,63}(/[A-Za-z0-9._/-]+)?(\?[A-Za-z0-9._~%&=:/-]+)?` +
		`|https://[a-z0-9.-]+(:[0-9]{1,5})?|file:///[^?]+)$`)
)

// zoneLetters lists the regions whose first three zones are not a, b and c, or that have more. The
// same zone name is a different place in another account.
var zoneLetters = map[string]string{
	"ap-northeast-1": "acd", "ap-northeast-2": "abcd", "ca-central-1": "abd", "us-east-1": "abcdef", "us-west-1": "ac", "us-west-2": "abcd",
}

const (
	agentsCIDR = "10.64.0.0/20"
	egressCIDR = "10.80.0.0/20"
	sharedCIDR = "10.64.0.0/19"
)

// loader reads one section. Its methods record problems and carry on.
type loader struct {
	*yaml.Reader
	plan     *plan.Plan
	warnings []*yaml.Problem
}

// Read reads the section aws of the stack file with the given root. p is the plan of the rest of
// the file; Read sets the ports of its agents. If the section is missing or cannot be read, the
// result is nil.
func Read(r *yaml.Reader, root *yaml.Node, p *plan.Plan) (*cloud.AWS, []*yaml.Problem) {
	l := &loader{Reader: r, plan: p}
	a := l.section(root)
	return a, l.warnings
}

func (l *loader) section(root *yaml.Node) *cloud.AWS {
	n := root.Get("aws")
	if n == nil {
		l.At(root, "write aws: and at least its account, region, image and agents", "target aws needs the section aws")
		return nil
	}
	if !l.Mapping(n, "aws", "account", "region", "state", "mode", "zones", "network", "nat", "image", "ca", "fleet_ca", "operators",
		"agents", "proxies", "control", "audit", "singletons", "protect", "tags") {
		return nil
	}
	a := &cloud.AWS{Mode: cloud.ModeIsolated, NATPerZone: true, Protect: true}
	a.Account = l.Required(n, "aws", "account", "write the 12 digits of the account, in quotes", cloud.IsAccount)
	a.Region = l.Required(n, "aws", "region", "write a region such as eu-west-1", cloud.IsRegion)
	if n.Get("state") != nil {
		const hint = "write s3://BUCKET or s3://BUCKET/FOLDER, or another URL for `pulumi login`"
		a.State = l.Required(n, "aws", "state", hint, stateForm)
	}
	if m := n.Get("mode"); m != nil {
		a.Mode = l.OneOf(m, "mode", cloud.ModeIsolated, cloud.ModeShared)
	}
	l.zones(n, a)
	l.network(n, a)
	if m := n.Get("nat"); m != nil {
		a.NATPerZone = l.OneOf(m, "nat", "zone", "one") == "zone"
	}
	a.Image = l.Required(n, "aws", "image", imageHint, cloud.IsImage)
	l.image(n.Get("image"), a, a.Image)
	a.CA = l.authority(n, "ca", "agents trust no proxy")
	a.FleetCA = l.authority(n, "fleet_ca", "no proxy can join")
	a.Operators = l.operators(n)
	l.proxies(n, a)
	l.control(n, a)
	l.audit(n, a)
	l.agents(n, root, a)
	if m := n.Get("singletons"); m != nil {
		a.Singletons = l.Boolean(m, "singletons")
	}
	if m := n.Get("protect"); m != nil {
		a.Protect = l.Boolean(m, "protect")
	}
	l.tags(n, a)
	l.secrets(root, a)
	for _, r := range l.plan.Resolvers {
		if ap, err := netip.ParseAddrPort(r); err == nil && !ap.Addr().Is4() {
			l.At(root.Get("proxies").Get("resolvers"), "write an IPv4 address", "the proxies' network has no IPv6, and %s is one", r)
		}
	}
	return a
}

// authority reads an authority's certificate. The certificate may be missing, because the first
// preview and the first `up` do not need it.
func (l *loader) authority(n *yaml.Node, key, without string) string {
	m := n.Get(key)
	if m == nil {
		l.lacks(n, key, without)
		return ""
	}
	t, ok := l.Text(m, key)
	if !ok {
		return ""
	}
	return l.Certificates(m, l.Resolve(t))
}

func (l *loader) lacks(n *yaml.Node, key, without string) {
	l.warnings = append(l.warnings, &yaml.Problem{
		File: l.File, Line: n.Line, Col: n.Col, Message: "aws has no " + key + ": " + without,
		Hint: "make it (docs/aws.md says how), then write " + key + ": and its file",
	})
}

// maxOperators bounds the file of the operators' public keys.
const maxOperators = 1 << 20

// operators reads the public keys of the operators who may publish.
func (l *loader) operators(n *yaml.Node) string {
	m := n.Get("operators")
	if m == nil {
		l.lacks(n, "operators", "the control plane takes nothing that is published")
		return ""
	}
	t, ok := l.Text(m, "operators")
	if !ok {
		return ""
	}
	path := l.Resolve(t)
	data, err := hostpath.ReadFile(path, maxOperators)
	if err != nil {
		l.Unreadable(m, "name the file of the operators' public keys, PEM", path, err)
		return ""
	}
	var out []byte
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "PUBLIC KEY" { // a private key would go to AWS
			l.At(m, "name a file that has only public keys", "%s has a block of type %s", path, block.Type)
			return ""
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
	}
	if len(out) == 0 {
		l.At(m, "name a PEM file", "%s has no public key", path)
	}
	return string(out)
}

// zones reads the zones: a list of letters, or a number.
func (l *loader) zones(n *yaml.Node, a *cloud.AWS) {
	letters := "abc"
	if known, ok := zoneLetters[a.Region]; ok {
		letters = known
	}
	m := n.Get("zones")
	switch {
	case m == nil:
		letters = letters[:2]
	case m.Kind == yaml.KindList:
		letters = ""
		l.Texts(m, "zones", "write at least one", func(item *yaml.Node, t string) {
			if len(t) != 1 || t < "a" || t > "f" {
				l.At(item, "write the zone's letter, a to f", "%q is not a valid zone", t)
				return
			}
			letters += t
		})
		if len(letters) > cloud.MaxZones {
			l.At(m, fmt.Sprintf("write at most %d", cloud.MaxZones), "there are %d zones", len(letters))
			letters = letters[:cloud.MaxZones]
		}
	default:
		count, err := strconv.Atoi(m.Text)
		if m.Kind != yaml.KindInteger || err != nil || count < 1 || count > len(letters) {
			hint := fmt.Sprintf("write a number from 1 to %d, or a list of letters such as [a, b]", len(letters))
			l.At(m, hint, "%s is known to have %d zones", cmp.Or(a.Region, "the region"), len(letters))
			count = 1
		}
		letters = letters[:count]
	}
	for _, letter := range letters {
		a.Zones = append(a.Zones, a.Region+string(letter))
	}
	if len(a.Zones) == 0 {
		a.Zones = []string{a.Region + "a"}
	}
}

// network reads the address ranges. A refused range is not used.
func (l *loader) network(n *yaml.Node, a *cloud.AWS) {
	m := n.Get("network")
	var keys []string
	defaults := map[string]string{"agents": agentsCIDR, "egress": egressCIDR}
	if keys = []string{"agents", "egress"}; a.Mode == cloud.ModeShared {
		keys, defaults = []string{"vpc"}, map[string]string{"vpc": sharedCIDR}
	}
	if m != nil && !l.Mapping(m, "network of mode "+a.Mode, keys...) {
		return
	}
	ranges, at := map[string]netip.Prefix{}, map[string]*yaml.Node{}
	for _, key := range keys {
		ranges[key] = netip.MustParsePrefix(defaults[key])
		if m == nil || m.Get(key) == nil {
			continue
		}
		at[key] = m.Get(key)
		t, ok := l.Text(at[key], key)
		if !ok {
			continue
		}
		p, err := netip.ParsePrefix(t)
		if err != nil {
			l.At(at[key], "write a private range such as "+defaults[key], "%q is not a valid range of addresses", t)
			continue
		}
		switch key {
		case "agents":
			err = cloud.CheckAgents(p, a.Zones)
		case "egress":
			err = cloud.CheckEgress(p)
		case "vpc":
			err = cloud.CheckShared(p, a.Zones)
		}
		if err != nil {
			l.At(at[key], "write a private range such as "+defaults[key], "%s", err)
			continue
		}
		ranges[key] = p
	}
	if a.Mode == cloud.ModeShared {
		a.VPC = ranges["vpc"]
		a.AgentsCIDR, a.EgressCIDR = cloud.Halves(a.VPC)
		return
	}
	a.AgentsCIDR, a.EgressCIDR = ranges["agents"], ranges["egress"]
	if a.AgentsCIDR.Overlaps(a.EgressCIDR) {
		second := at["egress"]
		if second == nil {
			second = at["agents"]
		}
		// The load balancer's firewall distinguishes the two networks by their ranges.
		l.At(second, "write ranges that have nothing in common", "agents %s and egress %s overlap", a.AgentsCIDR, a.EgressCIDR)
	}
}

const imageHint = `write an image by digest, such as "123456789012.dkr.ecr.eu-west-1.amazonaws.com/postern@sha256:..."`

// image makes sure that Fargate can pull an image without a way out.
func (l *loader) image(n *yaml.Node, a *cloud.AWS, image string) {
	if image == "" || a.Account == "" || a.Region == "" {
		return
	}
	if registry := a.Registry(); !strings.HasPrefix(image, registry+"/") {
		l.At(n, "push it there, and write it with that registry", "the image is not in the stack's own registry, %s", registry)
	}
}

func (l *loader) proxies(n *yaml.Node, a *cloud.AWS) {
	p := &a.Proxies
	*p = cloud.Proxies{Compute: cloud.ComputeFargate, Min: 2, Max: 6}
	m := n.Get("proxies")
	if m == nil {
		m = &yaml.Node{Kind: yaml.KindMap, Line: n.Line, Col: n.Col}
	} else if !l.Mapping(m, "proxies", "compute", "min", "max", "cpu", "memory", "instance", "ami") {
		return
	}
	if c := m.Get("compute"); c != nil {
		p.Compute = l.OneOf(c, "compute", cloud.ComputeFargate, cloud.ComputeEC2)
	}
	if c := m.Get("min"); c != nil {
		p.Min = l.Integer(c, "min", 1, cloud.MaxLeast)
		p.Max = max(p.Max, p.Min)
	}
	if c := m.Get("max"); c != nil {
		if p.Max = l.Integer(c, "max", 1, cloud.MaxProxies); p.Max < p.Min {
			l.At(c, "write at least as many as min", "max %d is less than min %d", p.Max, p.Min)
		}
	}
	if p.Compute == cloud.ComputeEC2 {
		l.Useless(m, "compute ec2", "cpu", "memory")
		p.Instance = "c7i.large"
		if c := m.Get("instance"); c != nil {
			p.Instance = l.instance(c)
		}
		p.AMI = l.ami(m, "proxies on ec2")
		return
	}
	l.Useless(m, "compute fargate", "instance", "ami")
	p.CPU, p.Memory = l.fargate(m, 1024, 2048)
}

func (l *loader) control(n *yaml.Node, a *cloud.AWS) {
	a.Control = cloud.Control{Replicas: 2, CPU: 512, Memory: 1024}
	m := n.Get("control")
	if m == nil || !l.Mapping(m, "control", "replicas", "cpu", "memory") {
		return
	}
	if c := m.Get("replicas"); c != nil {
		a.Control.Replicas = l.Integer(c, "replicas", 1, cloud.MaxReplicas)
	}
	a.Control.CPU, a.Control.Memory = l.fargate(m, 512, 1024)
}

func (l *loader) audit(n *yaml.Node, a *cloud.AWS) {
	a.Audit = cloud.Audit{Retention: 400, Lock: 365, Expire: 730}
	m := n.Get("audit")
	if m == nil || !l.Mapping(m, "audit", "retention", "lock", "expire", "email") {
		return
	}
	if c := m.Get("retention"); c != nil {
		a.Audit.Retention = l.days(c, "retention")
		if i, found := slices.BinarySearch(cloud.LogDays, a.Audit.Retention); !found && a.Audit.Retention > 0 {
			next := cloud.LogDays[min(i, len(cloud.LogDays)-1)]
			l.At(c, fmt.Sprintf("write %dd", next), "CloudWatch Logs cannot keep events for %d days", a.Audit.Retention)
		}
	}
	if c := m.Get("lock"); c != nil {
		if c.Kind == yaml.KindOther && c.Text == "false" {
			a.Audit.Lock = 0
		} else {
			a.Audit.Lock = l.days(c, "lock")
			a.Audit.Expire = max(a.Audit.Expire, a.Audit.Lock)
		}
	}
	if c := m.Get("expire"); c != nil {
		if a.Audit.Expire = l.days(c, "expire"); a.Audit.Expire > 0 && a.Audit.Expire < a.Audit.Lock {
			l.At(c, "write at least as many days as lock", "objects cannot expire after %d days: they are locked for %d", a.Audit.Expire, a.Audit.Lock)
		}
	}
	if c := m.Get("email"); c != nil {
		if t, ok := l.Text(c, "email"); ok {
			if !cloud.IsEmail(t) {
				l.At(c, "write an address such as security@example.com", "email is not a valid address")
			}
			a.Audit.Email = t
		}
	}
}

func (l *loader) tags(n *yaml.Node, a *cloud.AWS) {
	m := n.Get("tags")
	if m == nil || !l.Mapping(m, "tags") {
		return
	}
	a.Tags = map[string]string{}
	for _, f := range m.Fields {
		key := f.Key.Text
		switch {
		case !cloud.IsTag(key):
			l.At(f.Key, "write letters, digits and _.:/=+@-", "%q cannot name a tag", key)
		case cloud.OwnTag(key):
			l.At(f.Key, "write another name", "the tag %s is Postern's own", key)
		default:
			if t, ok := l.Text(f.Value, "tag "+key); ok {
				if len(t) > cloud.MaxTag {
					l.At(f.Value, "write at most 256 characters", "tag %s is too long", key)
				}
				a.Tags[key] = t
			}
		}
	}
}
