package main

import (
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/cloudwatch"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/ec2"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	postern "github.com/postern/postern/components/aws"
	"github.com/postern/postern/stacks"
)

// everything declares a whole environment from a stack file, with the newest machine
// image of agents and with a bucket of another account for the audit log. Somebody
// else's dashboard shows the events.
func everything(ctx *pulumi.Context, stack *stacks.Stack, provider *aws.Provider) error {
	machine, err := ec2.LookupAmi(ctx, &ec2.LookupAmiArgs{
		Owners: []string{"self"}, MostRecent: pulumi.BoolRef(true),
		Filters: []ec2.GetAmiFilter{{Name: "name", Values: []string{"postern-agent-*"}}},
	}, pulumi.Provider(provider))
	if err != nil {
		return err
	}
	set := *stack.AWS
	set.Agents[0].AMI = ""
	env, err := postern.NewEnvironment(ctx, "everything", &postern.EnvironmentArgs{
		AWS: &set, Plan: stack.Plan, Inputs: postern.Inputs{
			AgentAMIs:   map[string]pulumi.StringInput{"coder": pulumi.String(machine.Id)},
			AuditBucket: pulumi.String("audit-archive"),
		},
	}, pulumi.Provider(provider))
	if err != nil {
		return err
	}
	_, err = cloudwatch.NewMetricAlarm(ctx, "busy", &cloudwatch.MetricAlarmArgs{
		AlarmDescription: pulumi.String("Agents ask for more than usual"),
		Namespace:        pulumi.String("AWS/Logs"), MetricName: pulumi.String("IncomingLogEvents"),
		Dimensions: pulumi.StringMap{"LogGroupName": env.Fleet.Events},
		Statistic:  pulumi.String("Sum"), Period: pulumi.Int(300), EvaluationPeriods: pulumi.Int(1),
		ComparisonOperator: pulumi.String("GreaterThanThreshold"), Threshold: pulumi.Float64(10000),
		AlarmActions: pulumi.Array{env.Fleet.Alarms},
	}, pulumi.Provider(provider))
	if err != nil {
		return err
	}
	ctx.Export("store", env.Fleet.Store)
	ctx.Export("secrets", env.Fleet.Secrets)
	return nil
}
