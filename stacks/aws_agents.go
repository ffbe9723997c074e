package stacks

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/plan/cloud"
)

var (
	instanceType = plan.Matching(`^[a-z][a-z0-9-]*\.(nano|micro|small|medium|large|[0-9]*xlarge|metal(-[0-9]+xl)?)$`)
	amiID        = plan.Matching(`^ami-([0-9a-f]{8}|[0-9a-f]{17})$`)
)

const (
	// maxAgents is fewer than the rules that a security group can have.
	maxAgents = 50
	// maxFargatePorts is the most target groups that a service on ECS can have,
	// and each agent has one.
	maxFargatePorts = 5
)

// awsAgents reads where the agents run. Every agent of the policy does.
func (l *loader) awsAgents(n, root *node, a *cloud.AWS, s *Stack) {
	m := n.get("agents")
	if m == nil {
		l.at(n, "write agents: and for each agent at least its image", "aws has no agents")
		return
	}
	if !l.mapping(m, "agents of aws") {
		return
	}
	var names []string
	for _, agent := range s.Plan.Agents {
		names = append(names, agent.Name)
	}
	seen := map[string]bool{}
	for _, f := range m.fields {
		seen[f.key.text] = true
		if !slices.Contains(names, f.key.text) {
			l.at(f.key, nearest(f.key.text, names), "there is no agent %q", f.key.text)
			continue
		}
		a.Agents = append(a.Agents, l.awsAgent(f, runtimeOf(root, f.key.text), a))
	}
	for _, name := range names {
		if !seen[name] {
			l.at(m, fmt.Sprintf("write %s: {image: ...}", name), "agent %s is not there", name)
		}
	}
	slices.SortFunc(a.Agents, func(x, y cloud.Agent) int { return strings.Compare(x.Name, y.Name) })
	if len(a.Agents) > maxAgents {
		l.at(m, "split the stack", "there are %d agents, more than %d", len(a.Agents), maxAgents)
	} else if len(a.Agents) > maxFargatePorts && a.Proxies.Compute == cloud.ComputeFargate {
		l.at(m, "write proxies: {compute: ec2, ami: ...}", "proxies on fargate serve at most %d agents (ECS's target groups for a service), and there are %d", maxFargatePorts, len(a.Agents))
	}
	l.awsPorts(m, a)
	for i := range s.Plan.Agents {
		if j := slices.IndexFunc(a.Agents, func(x cloud.Agent) bool { return x.Name == s.Plan.Agents[i].Name }); j >= 0 {
			s.Plan.Agents[i].Port = a.Agents[j].Port
		}
	}
}

// runtimeOf returns the runtime that the policy's part of the file gives an agent.
func runtimeOf(root *node, agent string) *node {
	if agents := root.get("agents"); agents != nil {
		if n := agents.get(agent); n != nil {
			return n.get("runtime")
		}
	}
	return nil
}

func (l *loader) awsAgent(f field, runtime *node, a *cloud.AWS) cloud.Agent {
	name, n := f.key.text, f.value
	what := "agent " + name + " of aws"
	out := cloud.Agent{Name: name, Compute: cloud.ComputeEC2, Count: 1, Port: portOf(name)}
	if !l.mapping(n, what, "compute", "image", "command", "count", "port", "instance", "ami", "disk", "metadata", "cpu", "memory") {
		return out
	}
	if c := n.get("compute"); c != nil {
		out.Compute = l.oneOf(c, "compute", cloud.ComputeEC2, cloud.ComputeFargate)
	}
	out.Image = l.required(n, what, "image", imageHint, imageName)
	if c := n.get("command"); c != nil {
		out.Command = l.command(c)
	}
	if c := n.get("count"); c != nil {
		out.Count = l.integer(c, "count", 0, 1000)
	}
	if c := n.get("port"); c != nil {
		out.Port = uint16(l.integer(c, "port", cloud.FirstPort, cloud.LastPort))
	}
	if out.Compute == cloud.ComputeFargate {
		if a.Mode == cloud.ModeShared {
			// Their policies are for agents, and the names are everybody's.
			l.at(n.get("compute"), "write compute: ec2, or mode: isolated", "fargate needs endpoints in the agents' network, and mode shared has no such network")
		}
		l.useless(n, "compute fargate", "instance", "ami", "disk", "metadata")
		if runtime != nil {
			l.at(runtime, "remove it, or write compute: ec2", "fargate has its own isolation, so no runtime can be chosen")
		}
		l.awsImage(n.get("image"), a, out.Image)
		out.CPU, out.Memory = l.fargate(n, 1024, 2048)
		return out
	}
	l.useless(n, "compute ec2", "cpu", "memory")
	l.awsMachine(n, runtime, what, &out)
	return out
}

// awsMachine reads what only an agent's own machine has.
func (l *loader) awsMachine(n, runtime *node, what string, out *cloud.Agent) {
	out.Runtime, out.Instance, out.Disk, out.Metadata = "gvisor", "m7i.large", 30, cloud.MetadataV2
	if runtime != nil {
		if t, ok := l.text(runtime, "runtime"); ok {
			out.Runtime = t
			if !slices.Contains([]string{"container", "gvisor", "vm"}, t) {
				l.at(runtime, "write runtime: container, gvisor or vm", "runtime %q is not supported on AWS", t)
			}
		}
	}
	if c := n.get("instance"); c != nil {
		out.Instance = l.instance(c)
	}
	if out.Runtime == "vm" && !strings.Contains(out.Instance, ".metal") {
		at := n.get("instance")
		if at == nil {
			at = runtime
		}
		l.at(at, "write a bare-metal type such as m7i.metal-24xl, or runtime: gvisor", "runtime vm needs a machine that is not a virtual machine, and %s is one", out.Instance)
	}
	out.AMI = l.ami(n, what)
	if c := n.get("disk"); c != nil {
		size := l.size(c, "disk", "")
		if out.Disk = int(size >> 30); size != 0 && (size%(1<<30) != 0 || out.Disk < 8 || out.Disk > 16384) {
			l.at(c, "write 8GiB to 16384GiB", "disk is not a valid size")
		}
	}
	if c := n.get("metadata"); c != nil {
		out.Metadata = l.oneOf(c, "metadata", cloud.MetadataV2, cloud.MetadataDisabled)
	}
}

// portOf is an agent's port if the file does not say one. It depends on the
// name alone, so that another agent that comes or goes changes no identity.
func portOf(name string) uint16 {
	h := fnv.New32a()
	h.Write([]byte(name))
	return uint16(cloud.FirstPort + h.Sum32()%(cloud.LastPort-cloud.FirstPort+1))
}

// awsPorts makes sure that no two agents have the same identity.
func (l *loader) awsPorts(m *node, a *cloud.AWS) {
	taken := map[uint16]string{}
	for _, agent := range a.Agents {
		if other, ok := taken[agent.Port]; ok {
			at := m.get(agent.Name)
			if p := at.get("port"); p != nil {
				at = p
			}
			l.at(at, fmt.Sprintf("write another port: from %d to %d", cloud.FirstPort, cloud.LastPort), "agents %s and %s have the same port %d", other, agent.Name, agent.Port)
		}
		taken[agent.Port] = agent.Name
	}
}

// command reads the words of a command. Unlike [loader.texts] a word may come
// twice, or be empty.
func (l *loader) command(n *node) []string {
	if n.kind != kindList || len(n.items) == 0 {
		l.at(n, "write a list of its words, such as [python, main.py], or remove the key", "command is not a valid list")
		return nil
	}
	var out []string
	for _, item := range n.items {
		if item.kind != kindText {
			l.at(item, "write it in quotes", "a word of command is %s, not text", item.kind)
			continue
		}
		out = append(out, item.text)
	}
	return out
}

// awsSecrets makes sure that the control plane can read every secret where it runs.
func (l *loader) awsSecrets(root *node, a *cloud.AWS, s *Stack) {
	credentials := root.get("credentials")
	for _, c := range s.Plan.Credentials {
		at := credentials.get(c.Name)
		if secret := at.get("secret"); secret != nil {
			at = secret
		}
		ref, err := plan.ParseReference(c.Secret)
		switch {
		case err != nil: // was reported where it was read
		case ref.Source == plan.SourceAWSSecretsManager && ref.Region != a.Region && a.Region != "":
			l.at(at, "write ?region="+a.Region, "the secret is in %s, the stack in %s: its control plane reads its own region only", ref.Region, a.Region)
		case slices.Contains(notInAWS, ref.Source):
			l.at(at, fmt.Sprintf(`write where it is in AWS: "awssecretsmanager://NAME?region=%s"`, cmp.Or(a.Region, "eu-west-1")), "the control plane in AWS does not read secrets of %s://", ref.Source)
		}
	}
}

// notInAWS are sources that the control plane has not, or is not permitted, in AWS.
var notInAWS = []string{plan.SourceEnv, plan.SourceFile, plan.SourceExec, plan.SourceAWSParamStore}

func (l *loader) instance(n *node) string {
	t, ok := l.text(n, "instance")
	if ok && !instanceType(t) {
		l.at(n, "write a type such as m7i.large", "%q is not a valid instance type", t)
	}
	return t
}

func (l *loader) ami(n *node, what string) string {
	return l.required(n, what, "ami", "write the machine image that images/ builds, such as ami-0123456789abcdef0", amiID)
}

// fargate reads a size that Fargate has.
func (l *loader) fargate(n *node, cpu, memory int) (int, int) {
	at := n.get("cpu")
	if at != nil {
		cpu, _ = strconv.Atoi(at.text)
		if _, ok := fargateSizes[cpu]; !ok || at.kind != kindInteger {
			l.at(at, "write 256, 512, 1024, 2048, 4096, 8192 or 16384 (1024 is one)", "fargate has no such cpu")
			return 0, 0
		}
		memory = fargateSizes[cpu][0]
	}
	if m := n.get("memory"); m != nil {
		size := l.size(m, "memory", "")
		if size == 0 {
			return 0, 0
		}
		from, to, step := fargateSizes[cpu][0], fargateSizes[cpu][1], fargateSizes[cpu][2]
		memory = int(size >> 20)
		if size%(1<<20) != 0 || memory < from || memory > to || memory%step != 0 {
			l.at(m, fmt.Sprintf("write %s to %s, in steps of %s", mib(from), mib(to), mib(step)), "fargate has no such memory with cpu %d", cpu)
		}
	}
	return cpu, memory
}

func mib(n int) string { return sizeText(uint64(n) << 20) }

// days reads a number of days, such as 400d.
func (l *loader) days(n *node, what string) int {
	m := daysForm.FindStringSubmatch(n.text)
	if n.kind != kindText || m == nil {
		l.at(n, "write a number of days, such as 400d", "%s is not a valid number of days", what)
		return 0
	}
	days, _ := strconv.Atoi(m[1])
	return days
}

// oneOf reads one of several words; the first one if it is none.
func (l *loader) oneOf(n *node, what string, words ...string) string {
	t, ok := l.text(n, what)
	if !ok {
		return words[0]
	}
	if !slices.Contains(words, t) {
		l.at(n, nearest(t, words), "%s %q is not known", what, t)
		return words[0]
	}
	return t
}

// required reads a text that must be there and valid, or "".
func (l *loader) required(n *node, what, key, hint string, valid func(string) bool) string {
	m := n.get(key)
	if m == nil {
		l.at(n, hint, "%s has no %s", what, key)
		return ""
	}
	if m.kind == kindInteger && key == "account" {
		l.at(m, "write it in quotes: it may begin with 0", "account is an integer, not text")
		return ""
	}
	t, ok := l.text(m, key)
	if !ok {
		return ""
	}
	if !valid(t) {
		l.at(m, hint, "%s is not valid", key)
		return ""
	}
	return t
}
