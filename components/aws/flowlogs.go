package aws

import (
	"strings"

	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ec2"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// flowFields also tell for whom a connection really was, and why it was refused (Amazon VPC User
// Guide, "Flow log records"). DNS queries to Amazon's resolver and the metadata service do not
// appear.
var flowFields = []string{
	"version", "account-id", "vpc-id", "subnet-id", "interface-id", "srcaddr", "dstaddr", "srcport", "dstport", "protocol", "packets", "bytes", "start", "end",
	"action", "log-status", "tcp-flags", "pkt-srcaddr", "pkt-dstaddr", "flow-direction", "traffic-path", "reject-reason",
}

// newFlowLogs logs every connection and every attempt in the stack's networks.
func newFlowLogs(s *scope, n *network, a *auditLog) {
	var fields []string
	for _, f := range flowFields {
		fields = append(fields, "${"+f+"}")
	}
	flows := func(name string, v pulumi.StringInput) {
		add(s, ec2.NewFlowLog, name, &ec2.FlowLogArgs{
			VpcId: v.ToStringOutput(), TrafficType: pulumi.String("ALL"), LogDestinationType: pulumi.String("s3"),
			LogDestination: a.flows.arn, LogFormat: pulumi.String(strings.Join(fields, " ")),
			MaxAggregationInterval: pulumi.Int(60),
			DestinationOptions: &ec2.FlowLogDestinationOptionsArgs{
				FileFormat: pulumi.String("parquet"), PerHourPartition: pulumi.Bool(true),
				HiveCompatiblePartitions: pulumi.Bool(true),
			},
			Tags: s.tags(name),
		}, // Without a policy that lets it write, AWS would put one of its own in the place of ours.
			pulumi.DependsOn([]pulumi.Resource{a.flowsPolicy}))
	}
	flows("egress", n.egress)
	if s.args.ownAgentsVPC() {
		flows("agents", n.agents)
	}
}
