package aws

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/plan/cloud"
)

// EnvironmentArgs say what to build.
type EnvironmentArgs struct {
	// AWS are the settings: those of a stack file, which package stacks reads, or a program's own.
	// They are checked here, too.
	AWS *cloud.AWS
	// Plan is the stack's policy. Its credentials determine the secrets and their readers. Its
	// ports determine what the proxies' firewall lets out.
	Plan *plan.Plan
	// Existing is the network in which the agents run, if the program has one for them; nil has the
	// stack declare one without a way out.
	Existing *ExistingNetwork
	Inputs
}

// Inputs are values that may come from other resources of the program. A setting for which there is
// an input must be empty. An input that is nil has no effect.
type Inputs struct {
	// Image has posternd and Envoy, by digest, in the stack's registry: see [cloud.AWS].
	Image pulumi.StringInput
	// AgentImages and AgentAMIs are the container images and the machine images of agents, by name.
	AgentImages, AgentAMIs map[string]pulumi.StringInput
	// ProxiesAMI is the machine image of proxies on machines of their own.
	ProxiesAMI pulumi.StringInput
	// SecretsKey and AuditKey are ARNs of KMS keys that take the place of keys that the stack would
	// declare. Their key policies must allow what docs/aws.md says.
	SecretsKey, AuditKey pulumi.StringInput
	// AuditBucket is the name of a bucket, e.g. of an account that only archives, that keeps the
	// events. It has its own lock and lifecycle. Store is the name of the bucket for publications,
	// which must have versions.
	AuditBucket, Store pulumi.StringInput
}

// ExistingNetwork is a VPC of the program in which the agents run. The stack declares in it only the
// agents' way to the proxies, and the agents' groups. Routes, network ACLs, the resolver and flow logs
// are the program's. The range AgentsCIDR of the settings must be the VPC's.
type ExistingNetwork struct {
	VPC pulumi.StringInput
	// Gates has one subnet and address for each zone of the settings, in their order.
	Gates []Gate
	// Subnets are those in which agents run that the stack starts.
	Subnets pulumi.StringArray
}

// Gate is an address, free in its subnet, at which agents reach the proxies.
type Gate struct {
	Subnet  pulumi.StringInput
	Address netip.Addr
}

// check returns an error for arguments that AWS or the components would refuse. With early, the
// inputs are given later.
func (a *EnvironmentArgs) check(early bool) error {
	if a == nil || a.AWS == nil || a.Plan == nil {
		return errors.New("AWS and Plan are needed")
	}
	set, problems := *a.AWS, []error{}
	set.Agents = slices.Clone(set.Agents)
	// What an input gives is checked when it is known. Until then something stands in for it.
	given := func(what string, in pulumi.StringInput, setting *string, standIn string) {
		if in == nil && (!early || *setting != "") {
			return
		}
		if *setting != "" {
			problems = append(problems, fmt.Errorf("%s is a setting and an input: give one of them", what))
		}
		*setting = standIn
	}
	const ami = "ami-00000000"
	image := set.Registry() + "/image@sha256:" + fmt.Sprintf("%064d", 0)
	given("image", a.Image, &set.Image, image)
	if set.Proxies.Compute == cloud.ComputeEC2 || a.ProxiesAMI != nil {
		given("proxies.ami", a.ProxiesAMI, &set.Proxies.AMI, ami)
	}
	names := map[string]bool{}
	for i := range set.Agents {
		x := &set.Agents[i]
		names[x.Name] = true
		given("agents."+x.Name+".image", a.AgentImages[x.Name], &x.Image, image)
		given("agents."+x.Name+".ami", a.AgentAMIs[x.Name], &x.AMI, ami)
	}
	for _, all := range []map[string]pulumi.StringInput{a.AgentImages, a.AgentAMIs} {
		for name := range all {
			if !names[name] {
				problems = append(problems, fmt.Errorf("there is an image for agent %q, and no such agent", name))
			}
		}
	}
	if a.Existing != nil {
		problems = append(problems, a.Existing.check(&set)...)
	}
	if err := errors.Join(append(problems, set.Validate(a.Plan))...); err != nil {
		return err
	}
	for i := range set.Agents {
		x := &set.Agents[i]
		size := base64.StdEncoding.DecodedLen(len(a.agentMachine(*x, x.Image).CloudConfig().Base64()))
		if x.Compute == cloud.ComputeEC2 && x.Metadata != cloud.MetadataDisabled && size > maxUserData {
			return fmt.Errorf("agents.%s: EC2 takes %d bytes of user data, and these are %d: write a shorter command, or put it into the image",
				x.Name, maxUserData, size)
		}
	}
	return nil
}

// maxUserData is the most bytes of user data that EC2 takes, before base64 (Amazon EC2 User Guide,
// "Run commands when you launch an EC2 instance with user data input").
const maxUserData = 16 << 10

func (n *ExistingNetwork) check(set *cloud.AWS) (problems []error) {
	if set.Mode != cloud.ModeIsolated {
		problems = append(problems, fmt.Errorf("existing network: it needs mode %s", cloud.ModeIsolated))
	}
	if set.FargateAgents() {
		problems = append(problems, errors.New("existing network: "+
			"the endpoints that Fargate needs are declared in the stack's own network only: "+
			"run the agents on ec2, or with compute "+cloud.ComputeElsewhere))
	}
	if n.VPC == nil || len(n.Gates) != len(set.Zones) {
		problems = append(problems,
			fmt.Errorf("existing network: give its VPC, and %d gates: one for each zone", len(set.Zones)))
	}
	seen := map[netip.Addr]bool{}
	for i, g := range n.Gates {
		if g.Subnet == nil || seen[g.Address] || !set.AgentsCIDR.Contains(g.Address) {
			problems = append(problems, fmt.Errorf(
				"existing network: gate %d: give its subnet, and an address of its own in %s", i+1, set.AgentsCIDR))
		}
		seen[g.Address] = true
	}
	for _, x := range set.Agents {
		if x.Compute == cloud.ComputeEC2 && len(n.Subnets) == 0 {
			problems = append(problems, fmt.Errorf("existing network: give the subnets of agent %s", x.Name))
		}
	}
	return problems
}

// ownAgentsVPC reports whether the stack declares a network of the agents alone.
func (a *EnvironmentArgs) ownAgentsVPC() bool {
	return a.AWS.Mode == cloud.ModeIsolated && a.Existing == nil
}

// gate returns the address at which agents reach the proxies in the zone with that index.
func (a *EnvironmentArgs) gate(zone int) netip.Addr {
	if a.Existing != nil {
		return a.Existing.Gates[zone].Address
	}
	return a.AWS.Gate(zone)
}

// given returns the input, which must pass the check when it is known, or else the setting.
func given(in pulumi.StringInput, setting string, check func(string) error) pulumi.StringInput {
	if in == nil {
		return pulumi.String(setting)
	}
	return in.ToStringOutput().ApplyT(func(v string) (string, error) { return v, check(v) }).(pulumi.StringOutput)
}

func (a *EnvironmentArgs) image() pulumi.StringInput {
	return given(a.Image, a.AWS.Image, func(v string) error { return a.AWS.CheckImage(v, true) })
}

func (a *EnvironmentArgs) agentImage(x cloud.Agent) pulumi.StringInput {
	return given(a.AgentImages[x.Name], x.Image, func(v string) error {
		return a.AWS.CheckImage(v, x.Compute == cloud.ComputeFargate)
	})
}

func (a *EnvironmentArgs) agentAMI(x cloud.Agent) pulumi.StringInput {
	return given(a.AgentAMIs[x.Name], x.AMI, checkAMI)
}

func (a *EnvironmentArgs) proxiesAMI() pulumi.StringInput {
	return given(a.ProxiesAMI, a.AWS.Proxies.AMI, checkAMI)
}

func checkAMI(v string) error {
	if !cloud.IsAMI(v) {
		return fmt.Errorf("%q is not a machine image", v)
	}
	return nil
}
