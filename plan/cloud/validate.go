package cloud

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern/postern/plan"
)

// Validate returns an error that names everything that AWS or the components would refuse, or that
// does not fit the policy. The loader of stack files reports the same with positions. A program
// that makes its settings itself has only this.
func (a *AWS) Validate(p *plan.Plan) error {
	v := &validation{AWS: a, plan: p}
	v.check(IsStack(p.Stack), "stack: %q is not a valid name: write lower-case letters, digits and hyphens, at most 32",
		p.Stack)
	v.check(IsAccount(a.Account), "account: write the 12 digits of the account")
	v.check(IsRegion(a.Region), "region: %q is not a valid region", a.Region)
	v.check(a.Mode == ModeIsolated || a.Mode == ModeShared, "mode: write %s or %s", ModeIsolated, ModeShared)
	if v.zones() {
		v.networks()
	}
	v.image("image", a.Image)
	v.proxies()
	v.check(a.Control.Replicas >= 1 && a.Control.Replicas <= MaxReplicas, "control.replicas: write 1 to %d",
		MaxReplicas)
	v.fargate("control", a.Control.CPU, a.Control.Memory)
	v.audit()
	v.agents()
	for _, key := range slices.Sorted(maps.Keys(a.Tags)) {
		v.check(IsTag(key) && len(a.Tags[key]) <= MaxTag, "tags: %q is not a valid tag", key)
		v.check(!OwnTag(key), "tags: the tag %s is Postern's own", key)
	}
	v.policy()
	return errors.Join(v.problems...)
}

type validation struct {
	*AWS
	plan     *plan.Plan
	problems []error
}

// check records a problem unless ok.
func (v *validation) check(ok bool, format string, args ...any) {
	if !ok {
		v.problems = append(v.problems, fmt.Errorf(format, args...))
	}
}

// zones reports whether addresses can be computed for the zones.
func (v *validation) zones() bool {
	before := len(v.problems)
	v.check(len(v.Zones) >= 1 && len(v.Zones) <= MaxZones, "zones: there are %d zones: write 1 to %d",
		len(v.Zones), MaxZones)
	seen := map[string]bool{}
	for _, zone := range v.Zones {
		letter, ok := strings.CutPrefix(zone, v.Region)
		v.check(ok && len(letter) == 1 && letter >= "a" && letter <= "f",
			"zones: %q is not a zone of %q with a letter from a to f", zone, v.Region)
		v.check(!seen[zone], "zones: %q is there twice", zone)
		seen[zone] = true
	}
	return len(v.problems) == before
}

func (v *validation) networks() {
	if v.Mode == ModeShared {
		err := CheckShared(v.VPC, v.Zones)
		if v.check(err == nil, "network: vpc: %v", err); err != nil {
			return
		}
		agents, egress := Halves(v.VPC)
		v.check(v.AgentsCIDR == agents && v.EgressCIDR == egress,
			"network: agents and egress are not the halves of %s: use Halves", v.VPC)
		return
	}
	v.check(!v.VPC.IsValid(), "network: mode %s has no range vpc", v.Mode)
	agents, egress := CheckAgents(v.AgentsCIDR, v.Zones), CheckEgress(v.EgressCIDR)
	v.check(agents == nil, "network: agents: %v", agents)
	v.check(egress == nil, "network: egress: %v", egress)
	// The load balancer's firewall distinguishes the two networks by their ranges.
	v.check(!v.AgentsCIDR.Overlaps(v.EgressCIDR), "network: agents %s and egress %s overlap",
		v.AgentsCIDR, v.EgressCIDR)
}

// CheckImage returns an error unless the image is named by digest and, if platform, in the stack's
// own registry, from which Fargate can pull without a way out.
func (a *AWS) CheckImage(image string, platform bool) error {
	switch {
	case !IsImage(image):
		return fmt.Errorf("%q is not an image by digest: write NAME@sha256:DIGEST, with a NAME such as %s/postern", image, a.Registry())
	case platform && !strings.HasPrefix(image, a.Registry()+"/"):
		return fmt.Errorf("image %s is not in the stack's own registry, %s", image, a.Registry())
	}
	return nil
}

func (v *validation) image(what, image string) {
	err := v.CheckImage(image, true)
	v.check(err == nil, "%s: %v", what, err)
}

func (v *validation) fargate(what string, cpu, memory int) {
	v.check(fargate(cpu, memory), "%s: Fargate has no size of cpu %d and %d MiB", what, cpu, memory)
}

func (v *validation) proxies() {
	p := v.Proxies
	v.check(p.Min >= 1 && p.Min <= MaxLeast, "proxies.min: write 1 to %d", MaxLeast)
	v.check(p.Max >= p.Min && p.Max <= MaxProxies, "proxies.max: write %d to %d", p.Min, MaxProxies)
	switch p.Compute {
	case ComputeFargate:
		v.fargate("proxies", p.CPU, p.Memory)
		v.check(len(v.Agents) <= MaxFargatePorts, "proxies: on Fargate they serve at most %d agents", MaxFargatePorts)
	case ComputeEC2:
		v.check(IsInstance(p.Instance), "proxies.instance: %q is not a valid instance type", p.Instance)
		v.check(IsAMI(p.AMI), "proxies.ami: %q is not a machine image", p.AMI)
	default:
		v.check(false, "proxies.compute: write %s or %s", ComputeFargate, ComputeEC2)
	}
}

func (v *validation) audit() {
	_, found := slices.BinarySearch(LogDays, v.Audit.Retention)
	v.check(found, "audit.retention: CloudWatch Logs cannot keep events for %d days", v.Audit.Retention)
	v.check(v.Audit.Lock >= 0, "audit.lock: write a number of days, or 0")
	v.check(v.Audit.Expire > 0 && v.Audit.Expire >= v.Audit.Lock,
		"audit.expire: write at least as many days as audit.lock")
	v.check(v.Audit.Email == "" || IsEmail(v.Audit.Email), "audit.email is not a valid address")
}

func (v *validation) agents() {
	var names, described []string
	for _, x := range v.plan.Agents {
		names = append(names, x.Name)
	}
	taken := map[uint16]string{}
	for _, x := range v.Agents {
		described = append(described, x.Name)
		v.agent("agents."+x.Name, x)
		other, there := taken[x.Port]
		v.check(!there, "agents.%s.port: agent %s has the port %d too", x.Name, other, x.Port)
		taken[x.Port] = x.Name
		i := slices.IndexFunc(v.plan.Agents, func(p plan.Agent) bool { return p.Name == x.Name })
		v.check(i < 0 || v.plan.Agents[i].Port == x.Port, "agents.%s.port: the policy has another port for the agent",
			x.Name)
	}
	v.check(slices.Equal(names, described), "agents: the policy is about agents %q, the settings about %q",
		names, described)
	v.check(len(v.Agents) <= MaxAgents, "agents: there are %d, more than %d", len(v.Agents), MaxAgents)
	n := len(v.Agents) * v.Proxies.Max
	v.check(n <= MaxTargets, "agents: %d of them at up to %d proxies are %d targets, and a load balancer has %d",
		len(v.Agents), v.Proxies.Max, n, MaxTargets)
}

func (v *validation) agent(what string, x Agent) {
	v.check(AgentPort(x.Port), "%s: port %d is not for agents", what, x.Port)
	v.check(x.Count >= 0 && x.Count <= MaxCount, "%s.count: write 0 to %d", what, MaxCount)
	if x.Compute == ComputeElsewhere {
		return
	}
	err := v.CheckImage(x.Image, x.Compute == ComputeFargate)
	v.check(err == nil, "%s: %v", what, err)
	switch x.Compute {
	case ComputeFargate:
		v.check(v.Mode == ModeIsolated,
			"%s: Fargate needs endpoints in the agents' network, and mode %s has no such network", what, v.Mode)
		v.check(x.Runtime == "", "%s.runtime: Fargate has its own isolation", what)
		v.fargate(what, x.CPU, x.Memory)
	case ComputeEC2:
		v.check(slices.Contains(Runtimes, x.Runtime), "%s.runtime: write one of %s", what, strings.Join(Runtimes, ", "))
		v.check(IsInstance(x.Instance), "%s.instance: %q is not a valid instance type", what, x.Instance)
		v.check(x.Runtime != "vm" || strings.Contains(x.Instance, ".metal"),
			"%s.instance: runtime vm needs a bare-metal type", what)
		v.check(IsAMI(x.AMI), "%s.ami: %q is not a machine image", what, x.AMI)
		v.check(x.Disk >= MinDisk && x.Disk <= MaxDisk, "%s.disk: write %d to %d GiB", what, MinDisk, MaxDisk)
		v.check(x.Metadata == MetadataV2 || x.Metadata == MetadataDisabled, "%s.metadata: write %s or %s",
			what, MetadataV2, MetadataDisabled)
	default:
		v.check(false, "%s.compute: write %s or %s", what, ComputeEC2, ComputeFargate)
	}
}

// policy checks what the plan asks for where it runs.
func (v *validation) policy() {
	for _, c := range v.plan.Credentials {
		ref, err := plan.ParseReference(c.Secret)
		if v.check(err == nil, "credential %s: %v", c.Name, err); err != nil {
			continue
		}
		v.check(ReadsSecretsOf(ref.Source), "credential %s: the control plane in AWS does not read secrets of %s://",
			c.Name, ref.Source)
		v.check(ref.Source != plan.SourceAWSSecretsManager || ref.Region == v.Region,
			"credential %s: the secret is in %s, the stack in %s: its control plane reads its own region only",
			c.Name, ref.Region, v.Region)
	}
	for _, r := range v.plan.Resolvers {
		ap, err := netip.ParseAddrPort(r)
		v.check(err == nil && ap.Addr().Is4(), "resolvers: %q is not an IPv4 address with a port", r)
	}
}
