package aws

import (
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/cloudwatch"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/kinesis"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/components/aws/document"
)

// deliveryStream is the log stream of Firehose's own errors.
const deliveryStream = "s3"

// onlyEvents are the lines of the control plane's log group that are events: its
// own log is there too (CloudWatch Logs User Guide, "Filter pattern syntax").
const onlyEvents = `{ ($.verdict = "change") || ($.verdict = "gap") }`

// ship declares how events get from their log groups to the bucket: the proxies' decisions, and the
// control plane's events about the policy.
func (a *auditLog) ship(s *scope, r *roles) {
	place := s.args.place()
	errors := add(s, cloudwatch.NewLogStream, "delivery", &cloudwatch.LogStreamArgs{LogGroupName: a.group(groupDelivery), Name: pulumi.String(deliveryStream)})
	deliver, mayDeliver := r.role(s, "delivery", "firehose.amazonaws.com", "How Firehose writes the audit log", written(func(v []string) string {
		return document.Delivery{Place: place, Bucket: document.ARN(v[0]), Key: document.ARN(v[1]), Group: v[2]}.Policy().Text()
	}, a.bucket.arn, a.key.arn, a.group(groupDelivery)), place.ARN("firehose", "*"))
	stream := add(s, kinesis.NewFirehoseDeliveryStream, "delivery", &kinesis.FirehoseDeliveryStreamArgs{
		Destination: pulumi.String("extended_s3"),
		ExtendedS3Configuration: &kinesis.FirehoseDeliveryStreamExtendedS3ConfigurationArgs{
			BucketArn: a.bucket.arn, RoleArn: deliver.Arn, KmsKeyArn: a.key.arn,
			Prefix:            pulumi.String("events/!{timestamp:yyyy/MM/dd}/"),
			ErrorOutputPrefix: pulumi.String("errors/!{firehose:error-output-type}/!{timestamp:yyyy/MM/dd}/"),
			// CloudWatch Logs delivers compressed data.
			CompressionFormat: pulumi.String("UNCOMPRESSED"),
			BufferingInterval: pulumi.Int(60), BufferingSize: pulumi.Int(5),
			CloudwatchLoggingOptions: &kinesis.FirehoseDeliveryStreamExtendedS3ConfigurationCloudwatchLoggingOptionsArgs{
				Enabled: pulumi.Bool(true), LogGroupName: a.group(groupDelivery), LogStreamName: errors.Name,
			},
		},
		ServerSideEncryption: &kinesis.FirehoseDeliveryStreamServerSideEncryptionArgs{
			Enabled: pulumi.Bool(true), KeyType: pulumi.String("CUSTOMER_MANAGED_CMK"), KeyArn: a.key.arn,
		},
		Tags: s.tags("delivery"),
	}, pulumi.DependsOn([]pulumi.Resource{mayDeliver}))
	forward, mayForward := r.role(s, "forward", "logs.amazonaws.com", "How CloudWatch Logs hands events to Firehose", written(func(v []string) string {
		return document.Forward(document.ARN(v[0]), document.ARN(v[1])).Text()
	}, stream.Arn, a.key.arn), place.ARN("logs", "*"))
	// CloudWatch Logs tries whether it may, before it takes a filter.
	subscribe := func(name, group, pattern string) {
		add(s, cloudwatch.NewLogSubscriptionFilter, name, &cloudwatch.LogSubscriptionFilterArgs{
			LogGroup: a.group(group), FilterPattern: pulumi.String(pattern), DestinationArn: stream.Arn,
			RoleArn: forward.Arn,
		}, pulumi.DependsOn([]pulumi.Resource{mayForward}))
	}
	subscribe("events", groupProxies, "")
	subscribe("changes", groupControl, onlyEvents)
	// Nothing is masked on the way: events have no credential in them, and are
	// kept as the proxies wrote them.
	add(s, cloudwatch.NewQueryDefinition, "denials", &cloudwatch.QueryDefinitionArgs{
		Name:          pulumi.String("postern/" + s.stack + "/denials"),
		LogGroupNames: pulumi.StringArray{a.group(groupProxies)},
		QueryString:   pulumi.String("filter verdict in [\"deny\", \"error\"] | stats count(*) as denials by verdict, agent, host, reason | sort denials desc"),
	})
}
