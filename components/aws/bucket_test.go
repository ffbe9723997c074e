package aws

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/components/aws/document"
)

// statement is the one of that name in a resource's policy; nil if there is none.
func (g *declarations) statement(t *testing.T, at, sid string) *document.Statement {
	t.Helper()
	for _, s := range g.policies(t)[at].Statement {
		if s.Sid == sid {
			return &s
		}
	}
	return nil
}

// A stack that may be taken down can be: S3 deletes no bucket that is not empty.
// Until then nobody removes a version of what was published or decided; what is
// locked, never.
func TestBucketsCanBeDestroyed(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		for _, r := range g.of("aws:s3/bucketV2:BucketV2") {
			locked := r.inputs["objectLockEnabled"].BoolValue()
			expendable := !args.AWS.Protect && !locked
			require.Equal(t, expendable, r.inputs["forceDestroy"].BoolValue(), r.name)
			kept := g.statement(t, "aws:s3/bucketPolicy:BucketPolicy|"+r.name+"|policy", "KeptVersions")
			if strings.HasSuffix(r.name, "-flows") {
				require.Nil(t, kept)
				continue
			}
			require.Equal(t, !expendable, kept != nil, "%s: who may delete a version", r.name)
		}
	})
}

// Flow logs are let in where they are written, before they are: otherwise AWS
// would put a policy of its own in the place of ours, or refuse them.
func TestFlowLogsMayBeWritten(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, _ *EnvironmentArgs, g *declarations) {
		bucket := g.one(t, "aws:s3/bucketV2:BucketV2", "-audit-flows")
		write := g.statement(t, "aws:s3/bucketPolicy:BucketPolicy|"+bucket.name+"|policy", "FlowLogsWrite")
		require.NotNil(t, write)
		for _, r := range g.of("aws:ec2/flowLog:FlowLog") {
			require.Contains(t, r.text("logDestination"), bucket.name)
			require.Contains(t, strings.Join(r.dependencies, " "), "BucketPolicy::"+bucket.name)
			below := "/AWSLogs/123456789012/*"
			if r.inputs["destinationOptions"].ObjectValue()["hiveCompatiblePartitions"].BoolValue() {
				below = "/AWSLogs/aws-account-id=123456789012/*"
			}
			require.Equal(t, []document.ARN{document.ARN("arn:aws:bucketv2:eu-west-1:123456789012:BucketV2/" + bucket.name + below)}, write.Resource)
		}
	})
}

// What a group of machines is scaled by, Auto Scaling publishes.
func TestScalingFollowsWhatIsPublished(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, args *EnvironmentArgs, g *declarations) {
		published := map[string][]string{}
		for _, r := range g.of("aws:autoscaling/group:Group") {
			if metrics := r.texts("enabledMetrics"); len(metrics) > 0 {
				require.Equal(t, "1Minute", r.text("metricsGranularity"))
				published[r.name] = metrics
			}
		}
		followed := 0
		for _, r := range g.of("aws:autoscaling/policy:Policy") {
			custom, ok := r.inputs["targetTrackingConfiguration"].ObjectValue()["customizedMetricSpecification"]
			if !ok {
				continue
			}
			for _, m := range custom.ObjectValue()["metrics"].ArrayValue() {
				stat, ok := m.ObjectValue()["metricStat"]
				if !ok || stat.ObjectValue()["metric"].ObjectValue()["namespace"].StringValue() != "AWS/AutoScaling" {
					continue
				}
				require.Contains(t, published[r.text("autoscalingGroupName")], stat.ObjectValue()["metric"].ObjectValue()["metricName"].StringValue())
				followed++
			}
		}
		require.Equal(t, args.AWS.Proxies.Compute == "ec2", followed > 0)
	})
}
