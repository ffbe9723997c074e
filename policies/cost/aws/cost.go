// Package aws estimates the monthly price of a graph, from list prices and from assumptions about
// everything that depends on traffic. It serves to compare modes before an `up`, not to write
// invoices.
package aws

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/visible"
)

// AsOf is the date on which the prices were written down, for us-east-1, in US dollars. They should
// be AWS's list prices, but nobody has compared them with AWS's pages since. Other regions cost up
// to a half more.
const AsOf = "November 2026"

// Uncounted lists what costs money and is in no line, because it depends on use that a graph does
// not tell.
var Uncounted = []string{
	"data transfer to the internet and between zones", "Container Insights", "detailed monitoring of machines", "requests to KMS, S3 and Secrets Manager",
	"log groups besides the audit events'", "snapshots and machine images",
}

// hours is the number of hours in a month, as AWS counts them.
const hours = 730

// Line is one kind of thing to pay for.
type Line struct {
	What  string  `json:"what"`
	Count float64 `json:"count"`
	// Unit is the monthly price of one, in US dollars.
	Unit float64 `json:"unit"`
	// Total is Count times Unit.
	Total float64 `json:"total"`
	// Assuming says what was assumed, or how the unit price was computed.
	Assuming string `json:"assuming"`
}

// Estimate is the sum of its lines. Unpriced are the types without a price here that are not known
// to be free.
type Estimate struct {
	AsOf     string   `json:"asOf"`
	Lines    []Line   `json:"lines"`
	Total    float64  `json:"total"`
	Unpriced []string `json:"unpriced,omitempty"`
}

// Prices, US dollars, us-east-1.
const (
	natHour       = 0.045
	natGB         = 0.045
	ipv4Hour      = 0.005
	endpointHour  = 0.01
	endpointGB    = 0.01
	balancerHour  = 0.0225
	capacityHour  = 0.006 // one NLB capacity unit
	fargateCPU    = 0.04048
	fargateMemory = 0.004445
	armDiscount   = 0.8
	keyMonth      = 1
	secretMonth   = 0.40
	logsGB        = 0.50
	logsStoredGB  = 0.03
	firehoseGB    = 0.029
	flowGB        = 0.25
	s3GB          = 0.023
	alarmMonth    = 0.10
	diskGB        = 0.08
	queriesM      = 0.60
	zoneMonth     = 0.50
)

// Assumed traffic of a quiet environment, a month. Everything else follows from the graph.
const (
	auditGB   = 20 // events of the proxies
	trafficGB = 50 // from the agents to the internet
	flowLogGB = 5
	queries   = 1 // millions
)

// instanceHour is the price of an hour of an instance type on demand, Linux.
var instanceHour = map[string]float64{
	"t4g.nano": 0.0042, "t4g.micro": 0.0084, "t4g.small": 0.0168, "t4g.medium": 0.0336, "t4g.large": 0.0672, "t4g.xlarge": 0.1344,
	"t3.micro": 0.0104, "t3.small": 0.0208, "t3.medium": 0.0416, "t3.large": 0.0832, "t3.xlarge": 0.1664,
	"m7g.medium": 0.0408, "m7g.large": 0.0816, "m7g.xlarge": 0.1632, "m7g.2xlarge": 0.3264, "m7i.large": 0.1008, "m7i.xlarge": 0.2016,
	"c7g.medium": 0.0363, "c7g.large": 0.0725, "c7g.xlarge": 0.145, "c7i.large": 0.08925, "r7g.large": 0.1071, "m7g.metal": 2.6112, "c7g.metal": 2.32,
	"m8g.medium": 0.04488, "m8g.large": 0.08976, "c8g.medium": 0.03988, "c8g.large": 0.07976, "m6i.large": 0.096, "c6i.large": 0.085, "m5.large": 0.096,
}

// free are the types that cost nothing by themselves.
var free = []string{
	"aws:ec2/vpc:", "aws:ec2/subnet:", "aws:ec2/routeTable", "aws:ec2/defaultRouteTable:", "aws:ec2/route:", "aws:ec2/mainRouteTable", "aws:ec2/internetGateway", "aws:ec2/securityGroup",
	"aws:ec2/default", "aws:ec2/networkAcl", "aws:ec2/vpcEndpointService", "aws:ec2/vpcEndpointConnectionAccepter:", "aws:ec2/vpcEndpointPolicy:", "aws:ec2/vpcEndpointRouteTableAssociation:", "aws:ec2/launchTemplate:", "aws:ec2/vpcBlockPublicAccess", "aws:ec2/vpcDhcpOptions",
	"aws:vpc/securityGroup", "aws:lb/targetGroup", "aws:lb/listener", "aws:iam/", "aws:kms/alias:", "aws:kms/keyPolicy:", "aws:s3/bucket", "aws:secretsmanager/secretPolicy:", "aws:cloudwatch/logMetricFilter:",
	"aws:cloudwatch/logSubscriptionFilter:", "aws:cloudwatch/queryDefinition:", "aws:cloudwatch/logDataProtectionPolicy:", "aws:cloudwatch/logResourcePolicy:", "aws:cloudwatch/logStream:", "aws:ecs/cluster", "aws:ecs/taskDefinition:",
	"aws:appautoscaling/", "aws:autoscaling/policy:", "aws:autoscaling/lifecycleHook:", "aws:autoscaling/attachment:", "aws:ecr/", "aws:sns/", "aws:route53/resolverFirewall", "aws:route53/resolverQueryLogConfig", "aws:servicediscovery/service:",
	"aws:lb/",
}

// Of estimates the monthly price of the graph.
func Of(g *graph.Graph) Estimate {
	e := &estimator{g: g, Estimate: Estimate{AsOf: AsOf, Lines: []Line{}}}
	for i := range g.Resources {
		if r := &g.Resources[i]; r.Custom && !r.External && strings.HasPrefix(r.Type, "aws:") {
			e.price(r)
		}
	}
	e.traffic()
	for _, l := range e.Lines {
		e.Total += l.Total
	}
	slices.SortStableFunc(e.Lines, func(a, b Line) int {
		switch {
		case a.Total > b.Total:
			return -1
		case a.Total < b.Total:
			return 1
		}
		return strings.Compare(a.What, b.What)
	})
	slices.Sort(e.Unpriced)
	e.Unpriced = slices.Compact(e.Unpriced)
	return e.Estimate
}

type estimator struct {
	Estimate
	g *graph.Graph
}

// add counts n more of something.
func (e *estimator) add(what string, n, unit float64, assuming string) {
	for i := range e.Lines {
		if l := &e.Lines[i]; l.What == what && l.Unit == unit {
			l.Count += n
			l.Total = l.Count * l.Unit
			return
		}
	}
	e.Lines = append(e.Lines, Line{What: what, Count: n, Unit: unit, Total: n * unit, Assuming: assuming})
}

func (e *estimator) price(r *graph.Resource) {
	hourly := func(price float64) string { return fmt.Sprintf("$%g an hour", price) }
	switch kind := strings.TrimPrefix(r.Type[:strings.LastIndexByte(r.Type, ':')], "aws:"); kind {
	case "ec2/natGateway":
		e.add("NAT gateway", 1, natHour*hours, hourly(natHour))
	case "ec2/eip":
		e.add("public IPv4 address", 1, ipv4Hour*hours, hourly(ipv4Hour))
	case "ec2/vpcEndpoint":
		if t := r.String("vpcEndpointType"); t == "Interface" || t == "GatewayLoadBalancer" {
			n := max(1, length(r.Inputs["subnetIds"]), length(r.Inputs["subnetConfigurations"]))
			e.add("interface endpoint, per zone", float64(n), endpointHour*hours, hourly(endpointHour))
		}
	case "lb/loadBalancer":
		e.add("load balancer", 1, balancerHour*hours, hourly(balancerHour))
		e.add("load balancer capacity unit", 1, capacityHour*hours, "one unit in use on average")
	case "ecs/service":
		e.fargate(r)
	case "autoscaling/group":
		e.instances(r)
	case "kms/key":
		e.add("KMS key", 1, keyMonth, "before requests")
	case "secretsmanager/secret":
		e.add("secret", 1, secretMonth, "before requests")
	case "cloudwatch/metricAlarm":
		e.add("alarm", 1, alarmMonth, "standard resolution")
	case "servicediscovery/privateDnsNamespace", "route53/zone":
		e.add("private DNS zone", 1, zoneMonth, "before queries")
	case "cloudwatch/logGroup", "kinesis/firehoseDeliveryStream", "ec2/flowLog": // by traffic
	default:
		if !slices.ContainsFunc(free, func(prefix string) bool { return strings.HasPrefix(r.Type, prefix) }) {
			e.Unpriced = append(e.Unpriced, r.Type)
		}
	}
}

// traffic adds what depends on use, once for the whole stack.
func (e *estimator) traffic() {
	perGB := func(price float64) string { return fmt.Sprintf("assumed; $%g a GB", price) }
	has := func(token string) int { return len(e.g.OfType("aws:" + token)) }
	if has("ec2/natGateway:NatGateway") > 0 {
		e.add("GB through NAT", trafficGB, natGB, perGB(natGB))
	}
	if has("ec2/vpcEndpointService:VpcEndpointService") > 0 {
		e.add("GB through PrivateLink", trafficGB, endpointGB, perGB(endpointGB))
	}
	if has("cloudwatch/logGroup:LogGroup") > 0 {
		e.add("GB of audit events into CloudWatch Logs", auditGB, logsGB, perGB(logsGB))
		e.add("GB of them kept there", auditGB*months(e.g), logsStoredGB, "what the retention holds once it is full")
	}
	if has("kinesis/firehoseDeliveryStream:FirehoseDeliveryStream") > 0 {
		e.add("GB through Firehose", auditGB, firehoseGB, perGB(firehoseGB))
		e.add("GB of audit events in S3", auditGB*12, s3GB, "a year's worth, uncompressed")
	}
	if n := has("ec2/flowLog:FlowLog"); n > 0 {
		e.add("GB of flow logs", float64(n)*flowLogGB, flowGB, perGB(flowGB))
	}
	if has("route53/resolverFirewallRuleGroup:ResolverFirewallRuleGroup") > 0 {
		e.add("million DNS queries through the DNS Firewall", queries, queriesM, "assumed")
	}
}

// months is the longest retention of a log group; a year if it is kept for good.
func months(g *graph.Graph) float64 {
	longest := 0.0
	for _, r := range g.OfType("aws:cloudwatch/logGroup:LogGroup") {
		d, ok := r.Number("retentionInDays")
		if !ok || d == 0 {
			d = 365
		}
		longest = max(longest, d)
	}
	return float64(int(longest/30 + 0.5))
}

func (e *estimator) fargate(r *graph.Resource) {
	n, ok := r.Number("desiredCount")
	if !ok {
		n = 1
	}
	task := e.g.Refers(r, "taskDefinition", "aws:ecs/taskDefinition:TaskDefinition")
	if task == nil {
		e.Unpriced = append(e.Unpriced, r.Type+" "+r.Name)
		return
	}
	var cpu, memory float64
	_, _ = fmt.Sscan(task.String("cpu"), &cpu) // 0 if it is not known
	_, _ = fmt.Sscan(task.String("memory"), &memory)
	unit := (cpu/1024*fargateCPU + memory/1024*fargateMemory) * hours
	arch := "x86-64"
	if platform, _ := task.Inputs["runtimePlatform"].(map[string]any); platform["cpuArchitecture"] == "ARM64" {
		unit, arch = unit*armDiscount, "Arm"
	}
	e.add(fmt.Sprintf("%s: Fargate task, %g vCPU and %g GB", r.Role, cpu/1024, memory/1024), n, unit, arch+", on demand, the desired count")
}

func (e *estimator) instances(r *graph.Resource) {
	n, ok := r.Number("desiredCapacity")
	if !ok {
		n, _ = r.Number("minSize")
	}
	template := e.g.Refers(r, "launchTemplate", "aws:ec2/launchTemplate:LaunchTemplate")
	if template == nil {
		e.Unpriced = append(e.Unpriced, r.Type+" "+r.Name)
		return
	}
	size := template.String("instanceType")
	if price, ok := instanceHour[size]; ok {
		e.add(r.Role+": "+size, n, price*hours, fmt.Sprintf("$%g an hour, on demand, the desired count", price))
	} else {
		e.Unpriced = append(e.Unpriced, "instance type "+size)
	}
	if mappings, ok := template.Inputs["blockDeviceMappings"].([]any); ok {
		for _, m := range mappings {
			mapping, _ := m.(map[string]any)
			ebs, _ := mapping["ebs"].(map[string]any)
			if gb, ok := ebs["volumeSize"].(float64); ok {
				e.add("GB of disk", n*gb, diskGB, "gp3")
			}
		}
	}
}

func length(v any) int {
	items, _ := v.([]any)
	return len(items)
}

// Print writes the estimate as a table.
func (e Estimate) Print(w io.Writer) error {
	if len(e.Lines) == 0 && len(e.Unpriced) == 0 {
		return nil
	}
	text := visible.Sprintf("\ncost a month (list prices of us-east-1, approximate and unchecked, as of %s; before tax)\n", e.AsOf)
	for _, l := range e.Lines {
		text += visible.Sprintf("  %9.2f  %6g x %-46s %s\n", l.Total, l.Count, l.What, l.Assuming)
	}
	text += visible.Sprintf("  %9.2f  in all, with %d GB of traffic and %d GB of audit events assumed\n", e.Total, trafficGB, auditGB)
	text += visible.Sprintf("             not in the sum: %s\n", strings.Join(Uncounted, ", "))
	for _, u := range e.Unpriced {
		text += visible.Sprintf("             not in the sum: %s has no price here\n", u)
	}
	_, err := io.WriteString(w, text)
	return err
}
