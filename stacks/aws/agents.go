package aws

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/plan/cloud"
	"github.com/postern/postern/stacks/yaml"
)

// agents reads where the agents run. Every agent of the policy needs a place.
func (l *loader) agents(n, root *yaml.Node, a *cloud.AWS) {
	m := n.Get("agents")
	if m == nil {
		l.At(n, "write agents: and for each agent at least its image", "aws has no agents")
		return
	}
	if !l.Mapping(m, "agents of aws") {
		return
	}
	var names []string
	for _, agent := range l.plan.Agents {
		names = append(names, agent.Name)
	}
	seen := map[string]bool{}
	for _, f := range m.Fields {
		seen[f.Key.Text] = true
		if !slices.Contains(names, f.Key.Text) {
			l.At(f.Key, yaml.Nearest(f.Key.Text, names), "there is no agent %q", f.Key.Text)
			continue
		}
		a.Agents = append(a.Agents, l.agent(f, runtimeOf(root, f.Key.Text), a))
	}
	for _, name := range names {
		if !seen[name] {
			l.At(m, fmt.Sprintf("write %s: {image: ...}", name), "agent %s is not there", name)
		}
	}
	slices.SortFunc(a.Agents, func(x, y cloud.Agent) int { return strings.Compare(x.Name, y.Name) })
	if len(a.Agents) > cloud.MaxAgents {
		l.At(m, "split the stack", "there are %d agents, more than %d", len(a.Agents), cloud.MaxAgents)
	} else if len(a.Agents) > cloud.MaxFargatePorts && a.Proxies.Compute == cloud.ComputeFargate {
		l.At(m, "write proxies: {compute: ec2, ami: ...}",
			"proxies on fargate serve at most %d agents (ECS's target groups for a service), and there are %d", cloud.MaxFargatePorts, len(a.Agents))
	}
	if n := len(a.Agents) * a.Proxies.Max; n > cloud.MaxTargets {
		l.At(m, fmt.Sprintf("write proxies: {max: %d}, or split the stack", cloud.MaxTargets/len(a.Agents)),
			"%d agents at up to %d proxies are %d targets, and a load balancer has %d", len(a.Agents), a.Proxies.Max, n, cloud.MaxTargets)
	}
	l.ports(m, a)
	for i := range l.plan.Agents {
		if j := slices.IndexFunc(a.Agents, func(x cloud.Agent) bool { return x.Name == l.plan.Agents[i].Name }); j >= 0 {
			l.plan.Agents[i].Port = a.Agents[j].Port
		}
	}
}

// runtimeOf returns the runtime that the policy section gives an agent.
func runtimeOf(root *yaml.Node, agent string) *yaml.Node {
	if agents := root.Get("agents"); agents != nil {
		if n := agents.Get(agent); n != nil {
			return n.Get("runtime")
		}
	}
	return nil
}

func (l *loader) agent(f yaml.Field, runtime *yaml.Node, a *cloud.AWS) cloud.Agent {
	name, n := f.Key.Text, f.Value
	what := "agent " + name + " of aws"
	out := cloud.Agent{Name: name, Compute: cloud.ComputeEC2, Count: 1, Port: portOf(name)}
	if !l.Mapping(n, what, "compute", "image", "command", "count", "port", "instance", "ami", "disk", "metadata", "cpu", "memory") {
		return out
	}
	if c := n.Get("compute"); c != nil {
		out.Compute = l.OneOf(c, "compute", cloud.ComputeEC2, cloud.ComputeFargate)
	}
	out.Image = l.Required(n, what, "image", imageHint, cloud.IsImage)
	if c := n.Get("command"); c != nil {
		out.Command = l.command(c)
	}
	if c := n.Get("count"); c != nil {
		out.Count = l.Integer(c, "count", 0, cloud.MaxCount)
	}
	if c := n.Get("port"); c != nil {
		if out.Port = uint16(l.Integer(c, "port", cloud.FirstPort, cloud.LastPort)); out.Port > 0 && !cloud.AgentPort(out.Port) {
			l.At(c, "write another port", "port %d is of the proxies or the control plane themselves", out.Port)
		}
	}
	if out.Compute == cloud.ComputeFargate {
		if a.Mode == cloud.ModeShared {
			// The endpoints' policies are for agents, and everybody may resolve their names.
			l.At(n.Get("compute"), "write compute: ec2, or mode: isolated",
				"fargate needs endpoints in the agents' network, and mode shared has no such network")
		}
		l.Useless(n, "compute fargate", "instance", "ami", "disk", "metadata")
		if runtime != nil {
			l.At(runtime, "remove it, or write compute: ec2",
				"fargate has its own isolation, so no runtime can be chosen")
		}
		l.image(n.Get("image"), a, out.Image)
		out.CPU, out.Memory = l.fargate(n, 1024, 2048)
		return out
	}
	l.Useless(n, "compute ec2", "cpu", "memory")
	l.machine(n, runtime, what, &out)
	return out
}

// machine reads the keys of an agent that runs on a machine of its own.
func (l *loader) machine(n, runtime *yaml.Node, what string, out *cloud.Agent) {
	out.Runtime, out.Instance, out.Disk, out.Metadata = "gvisor", "m7i.large", 30, cloud.MetadataV2
	if runtime != nil {
		if t, ok := l.Text(runtime, "runtime"); ok {
			out.Runtime = t
			if !slices.Contains(cloud.Runtimes, t) {
				l.At(runtime, "write runtime: container, gvisor or vm", "runtime %q is not supported on AWS", t)
			}
		}
	}
	if c := n.Get("instance"); c != nil {
		out.Instance = l.instance(c)
	}
	if out.Runtime == "vm" && !strings.Contains(out.Instance, ".metal") {
		at := n.Get("instance")
		if at == nil {
			at = runtime
		}
		l.At(at, "write a bare-metal type such as m7i.metal-24xl, or runtime: gvisor", "runtime vm needs a machine that is not a virtual machine, and %s is one", out.Instance)
	}
	out.AMI = l.ami(n, what)
	if c := n.Get("disk"); c != nil {
		size := l.Size(c, "disk", "")
		if out.Disk = int(size >> 30); size != 0 && (size%(1<<30) != 0 || out.Disk < cloud.MinDisk || out.Disk > cloud.MaxDisk) {
			l.At(c, "write 8GiB to 16384GiB", "disk is not a valid size")
		}
	}
	if c := n.Get("metadata"); c != nil {
		out.Metadata = l.OneOf(c, "metadata", cloud.MetadataV2, cloud.MetadataDisabled)
	}
}

// portOf returns the port of an agent for which the file gives none. It depends on the name
// alone, so that other agents may come and go without changing an identity.
func portOf(name string) uint16 {
	h := fnv.New32a()
	h.Write([]byte(name))
	port := uint16(cloud.FirstPort + h.Sum32()%(cloud.LastPort-cloud.FirstPort+1))
	if !cloud.AgentPort(port) { // the next one is
		port++
	}
	return port
}

// ports makes sure that no two agents have the same identity.
func (l *loader) ports(m *yaml.Node, a *cloud.AWS) {
	taken := map[uint16]string{}
	for _, agent := range a.Agents {
		if other, ok := taken[agent.Port]; ok {
			at := m.Get(agent.Name)
			if p := at.Get("port"); p != nil {
				at = p
			}
			l.At(at, fmt.Sprintf("write another port: from %d to %d", cloud.FirstPort, cloud.LastPort), "agents %s and %s have the same port %d", other, agent.Name, agent.Port)
		}
		taken[agent.Port] = agent.Name
	}
}

// command reads the words of a command. Unlike [yaml.Reader.Texts] a word may come
// twice, or be empty.
func (l *loader) command(n *yaml.Node) []string {
	if n.Kind != yaml.KindList || len(n.Items) == 0 {
		l.At(n, "write a list of its words, such as [python, main.py], or remove the key", "command is not a valid list")
		return nil
	}
	var out []string
	for _, item := range n.Items {
		if item.Kind != yaml.KindText {
			l.At(item, "write it in quotes", "a word of command is %s, not text", item.Kind)
			continue
		}
		out = append(out, item.Text)
	}
	return out
}

// secrets makes sure that the control plane can read every secret where it runs.
func (l *loader) secrets(root *yaml.Node, a *cloud.AWS) {
	credentials := root.Get("credentials")
	for _, c := range l.plan.Credentials {
		at := credentials.Get(c.Name)
		if secret := at.Get("secret"); secret != nil {
			at = secret
		}
		ref, err := plan.ParseReference(c.Secret)
		switch {
		case err != nil: // was reported where it was read
		case ref.Source == plan.SourceAWSSecretsManager && ref.Region != a.Region && a.Region != "":
			l.At(at, "write ?region="+a.Region,
				"the secret is in %s, the stack in %s: its control plane reads its own region only", ref.Region, a.Region)
		case !cloud.ReadsSecretsOf(ref.Source):
			l.At(at, fmt.Sprintf(`write where it is in AWS: "awssecretsmanager://NAME?region=%s"`, cmp.Or(a.Region, "eu-west-1")), "the control plane in AWS does not read secrets of %s://", ref.Source)
		}
	}
}

func (l *loader) instance(n *yaml.Node) string {
	t, ok := l.Text(n, "instance")
	if ok && !cloud.IsInstance(t) {
		l.At(n, "write a type such as m7i.large", "%q is not a valid instance type", t)
	}
	return t
}

func (l *loader) ami(n *yaml.Node, what string) string {
	return l.Required(n, what, "ami", "write the machine image that images/ builds, such as ami-0123456789abcdef0", cloud.IsAMI)
}

// fargate reads a size that Fargate has.
func (l *loader) fargate(n *yaml.Node, cpu, memory int) (int, int) {
	at := n.Get("cpu")
	if at != nil {
		cpu, _ = strconv.Atoi(at.Text)
		if _, ok := cloud.FargateSizes[cpu]; !ok || at.Kind != yaml.KindInteger {
			l.At(at, "write 256, 512, 1024, 2048, 4096, 8192 or 16384 (1024 is one)", "fargate has no such cpu")
			return 0, 0
		}
		memory = cloud.FargateSizes[cpu][0]
	}
	if m := n.Get("memory"); m != nil {
		size := l.Size(m, "memory", "")
		if size == 0 {
			return 0, 0
		}
		from, to, step := cloud.FargateSizes[cpu][0], cloud.FargateSizes[cpu][1], cloud.FargateSizes[cpu][2]
		memory = int(size >> 20)
		if size%(1<<20) != 0 || memory < from || memory > to || memory%step != 0 {
			l.At(m, fmt.Sprintf("write %s to %s, in steps of %s", mib(from), mib(to), mib(step)), "fargate has no such memory with cpu %d", cpu)
		}
	}
	return cpu, memory
}

func mib(n int) string { return yaml.SizeText(uint64(n) << 20) }

// days reads a number of days, such as 400d.
func (l *loader) days(n *yaml.Node, what string) int {
	m := daysForm.FindStringSubmatch(n.Text)
	if n.Kind != yaml.KindText || m == nil {
		l.At(n, "write a number of days, such as 400d", "%s is not a valid number of days", what)
		return 0
	}
	days, _ := strconv.Atoi(m[1])
	return days
}
