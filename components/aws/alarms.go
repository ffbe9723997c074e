package aws

import (
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/cloudwatch"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/sns"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/components/aws/document"
	"github.com/postern/postern/plan/cloud"
)

// alarm is something that a person should hear of.
type alarm struct {
	name, description string
	// group and pattern select the events that the metric counts. Without a pattern it counts all
	// events of the group.
	group, pattern string
	// more raises it when there are at least so many in period seconds, several
	// times; otherwise it is raised when there are none.
	more, period, times int
}

// refused selects the events of requests that were not allowed. It leaves out errors of requests
// that the agent itself ended, because clients do that all the time.
const refused = `{ ($.verdict = "deny") || (($.verdict = "error") && ($.reason != "not_sent")) }`

// alarms of the stack. Patterns: CloudWatch Logs User Guide, "Filter pattern syntax".
func (a *EnvironmentArgs) alarms() []alarm {
	out := []alarm{
		{
			name: "denials", description: "Agents ask for much that is not allowed, or that the proxies refuse for another reason: an agent that was taken over, or a rule that is missing",
			group: groupProxies, pattern: refused, more: 100, period: 300, times: 1,
		},
		{name: "silence", description: "No event for an hour: the proxies do not serve, or their log is lost", group: groupProxies, period: 3600, times: 1},
		{
			name: "rejected", description: "An Envoy has rejected its configuration: the live policy is not the one that was pushed",
			group: groupControl, pattern: `{ $.msg = "node rejected resources" }`, more: 1, period: 60, times: 1,
		},
		{
			name: "delivery", description: "The audit log does not reach its bucket", group: groupDelivery, more: 1, period: 300, times: 1,
		},
	}
	if a.AWS.Mode == cloud.ModeIsolated && !a.ownAgentsVPC() {
		return out // the resolver is not the stack's
	}
	dns := alarm{
		name: "dns", description: "A name was asked for that is not allowed: somebody tries to get out through DNS",
		group: groupDNS, pattern: `{ $.firewall_rule_action = "BLOCK" }`, more: 1, period: 60, times: 1,
	}
	if a.AWS.Mode == cloud.ModeIsolated {
		dns.group = groupProbes
		if !a.AWS.FargateAgents() {
			dns.description, dns.pattern = "Something in the agents' network has asked a resolver that should not even answer", ""
		}
	}
	return append(out, dns)
}

func (a *auditLog) alert(s *scope, b *balancer) *sns.Topic {
	topic := add(s, sns.NewTopic, "alarms", &sns.TopicArgs{KmsMasterKeyId: a.key.id, Tags: s.tags("alarms")})
	add(s, sns.NewTopicPolicy, "alarms", &sns.TopicPolicyArgs{Arn: topic.Arn, Policy: written(func(v []string) string {
		return document.Topic(s.args.place(), document.ARN(v[0])).Text()
	}, topic.Arn)})
	if email := s.args.AWS.Audit.Email; email != "" {
		add(s, sns.NewTopicSubscription, "alarms", &sns.TopicSubscriptionArgs{Topic: topic.Arn, Protocol: pulumi.String("email"), Endpoint: pulumi.String(email)})
	}
	// Every proxy serves every agent, so that one target group tells of all. Before the first
	// publication no proxy is ready, and that is told too.
	if len(b.targets) > 0 {
		add(s, cloudwatch.NewMetricAlarm, "ready", &cloudwatch.MetricAlarmArgs{
			Name:             pulumi.String("postern-" + s.stack + "/ready"),
			AlarmDescription: pulumi.String("Fewer proxies are ready than there must be: see postern status"),
			Namespace:        pulumi.String("AWS/NetworkELB"), MetricName: pulumi.String("HealthyHostCount"),
			Dimensions: pulumi.StringMap{"LoadBalancer": b.lb.ArnSuffix, "TargetGroup": b.targets[0].ArnSuffix},
			Statistic:  pulumi.String("Minimum"), Period: pulumi.Int(300), EvaluationPeriods: pulumi.Int(3),
			Threshold:          pulumi.Float64(s.args.AWS.Proxies.Min),
			ComparisonOperator: pulumi.String("LessThanThreshold"), TreatMissingData: pulumi.String("breaching"),
			AlarmActions: pulumi.Array{topic.Arn}, Tags: s.tags("ready"),
		})
	}
	for _, x := range s.args.alarms() {
		args := &cloudwatch.MetricAlarmArgs{
			Name: pulumi.String("postern-" + s.stack + "/" + x.name), AlarmDescription: pulumi.String(x.description),
			Namespace: pulumi.String("AWS/Logs"), MetricName: pulumi.String("IncomingLogEvents"),
			Dimensions: pulumi.StringMap{"LogGroupName": a.group(x.group)},
			Statistic:  pulumi.String("Sum"), Period: pulumi.Int(x.period),
			EvaluationPeriods: pulumi.Int(x.times), Threshold: pulumi.Float64(x.more),
			ComparisonOperator: pulumi.String("GreaterThanOrEqualToThreshold"),
			TreatMissingData:   pulumi.String("notBreaching"),
			AlarmActions:       pulumi.Array{topic.Arn}, Tags: s.tags(x.name),
		}
		if x.more == 0 {
			args.Threshold, args.ComparisonOperator, args.TreatMissingData = pulumi.Float64(1), pulumi.String("LessThanThreshold"), pulumi.String("breaching")
		}
		if x.pattern != "" {
			namespace := "Postern/" + s.stack
			add(s, cloudwatch.NewLogMetricFilter, x.name, &cloudwatch.LogMetricFilterArgs{
				LogGroupName: a.group(x.group), Pattern: pulumi.String(x.pattern),
				MetricTransformation: &cloudwatch.LogMetricFilterMetricTransformationArgs{
					Namespace: pulumi.String(namespace), Name: pulumi.String(x.name), Value: pulumi.String("1"),
					DefaultValue: pulumi.String("0"),
				},
			})
			args.Namespace, args.MetricName, args.Dimensions = pulumi.String(namespace), pulumi.String(x.name), nil
		}
		add(s, cloudwatch.NewMetricAlarm, x.name, args)
	}
	return topic
}
