package cloud_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	cwtypes "github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/graph"
)

// TestAuditIsArchived: an event in a log group, as the plan has it, comes into
// the plan's bucket by the plan's subscriptions and stream, and nobody deletes
// what is there. Moto delivers at once, and whatever the pattern: it does not filter.
func TestAuditIsArchived(t *testing.T) {
	t.Parallel()
	const region = "us-west-1"
	stack, g := planned(t, "prod-aws", region, "zones: 3", "zones: 2")
	cfg, err := config.LoadDefaultConfig(t.Context(), config.WithRegion(region))
	require.NoError(t, err)
	store := s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true })
	logs := cloudwatchlogs.NewFromConfig(cfg)

	bucket := one(t, g, "aws:s3/bucketV2:BucketV2", "-audit-log")
	name := awssdk.String(strings.ToLower(bucket.Name) + "-1234567")
	_, err = store.CreateBucket(t.Context(), &s3.CreateBucketInput{
		Bucket: name, ObjectLockEnabledForBucket: flag(bucket, "objectLockEnabled"), CreateBucketConfiguration: &s3types.CreateBucketConfiguration{LocationConstraint: region},
	})
	require.NoError(t, err)
	lock := one(t, g, "aws:s3/bucketObjectLockConfigurationV2:BucketObjectLockConfigurationV2", "-audit-log")
	retention := lock.Inputs["rule"].(map[string]any)["defaultRetention"].(map[string]any)
	require.EqualValues(t, stack.AWS.Audit.Lock, retention["days"])
	_, err = store.PutObjectLockConfiguration(t.Context(), &s3.PutObjectLockConfigurationInput{Bucket: name, ObjectLockConfiguration: &s3types.ObjectLockConfiguration{
		ObjectLockEnabled: s3types.ObjectLockEnabled(lock.String("objectLockEnabled")),
		Rule: &s3types.ObjectLockRule{DefaultRetention: &s3types.DefaultRetention{
			Mode: s3types.ObjectLockRetentionMode(retention["mode"].(string)), Days: awssdk.Int32(int32(retention["days"].(float64))),
		}},
	}})
	require.NoError(t, err)

	stream := one(t, g, "aws:kinesis/firehoseDeliveryStream:FirehoseDeliveryStream", "-delivery")
	to := stream.Inputs["extendedS3Configuration"].(map[string]any)
	var made struct{ DeliveryStreamARN string }
	create, err := json.Marshal(map[string]any{
		"DeliveryStreamName": stream.Name, "ExtendedS3DestinationConfiguration": map[string]any{
			"BucketARN": "arn:aws:s3:::" + *name, "RoleARN": "arn:aws:iam::" + account + ":role/delivery", "Prefix": to["prefix"], "ErrorOutputPrefix": to["errorOutputPrefix"],
		},
	})
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(ask(t, region, "firehose", "application/x-amz-json-1.1", "Firehose_20150804.CreateDeliveryStream", create), &made))
	filters := g.OfType("aws:cloudwatch/logSubscriptionFilter:LogSubscriptionFilter")
	require.Len(t, filters, 2)
	for _, f := range filters {
		group := g.Refers(f, "logGroup", "aws:cloudwatch/logGroup:LogGroup").String("name")
		_, err = logs.CreateLogGroup(t.Context(), &cloudwatchlogs.CreateLogGroupInput{LogGroupName: &group})
		require.NoError(t, err)
		_, err = logs.PutSubscriptionFilter(t.Context(), &cloudwatchlogs.PutSubscriptionFilterInput{
			LogGroupName: &group, FilterName: awssdk.String(f.Name), FilterPattern: awssdk.String(f.String("filterPattern")), DestinationArn: &made.DeliveryStreamARN,
		})
		require.NoError(t, err)

		e := audit.Event{Time: time.Now().UTC(), Seq: 1, Node: "n1", Agent: group, Verdict: audit.Deny}
		line, err := json.Marshal(e)
		require.NoError(t, err)
		_, err = logs.CreateLogStream(t.Context(), &cloudwatchlogs.CreateLogStreamInput{LogGroupName: &group, LogStreamName: awssdk.String("a")})
		require.NoError(t, err)
		_, err = logs.PutLogEvents(t.Context(), &cloudwatchlogs.PutLogEventsInput{
			LogGroupName: &group, LogStreamName: awssdk.String("a"), LogEvents: []cwtypes.InputLogEvent{{Timestamp: awssdk.Int64(e.Time.UnixMilli()), Message: awssdk.String(string(line))}},
		})
		require.NoError(t, err)
	}

	listed, err := store.ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: name})
	require.NoError(t, err)
	archived := map[string]bool{}
	for _, v := range listed.Versions {
		require.Regexp(t, `^events/`, *v.Key)
		archived[agentOf(t, store, name, v)] = true
	}
	require.Equal(t, map[string]bool{"/postern/" + stack.Name + "/proxies": true, "/postern/" + stack.Name + "/control": true}, archived)

	// Moto locks what is put by a client, and not what its own Firehose puts.
	key := awssdk.String("events/1")
	put, err := store.PutObject(t.Context(), &s3.PutObjectInput{Bucket: name, Key: key, Body: strings.NewReader("{}"), ChecksumAlgorithm: s3types.ChecksumAlgorithmCrc32})
	require.NoError(t, err)
	_, err = store.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: name, Key: key, VersionId: put.VersionId, BypassGovernanceRetention: awssdk.Bool(true)})
	require.ErrorContains(t, err, "AccessDenied")
	_, err = store.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: name, Key: key, VersionId: put.VersionId})
	require.NoError(t, err)
}

// agentOf is that of the one event in an object, as CloudWatch Logs hands it on.
func agentOf(t *testing.T, store *s3.Client, bucket *string, v s3types.ObjectVersion) string {
	t.Helper()
	got, err := store.GetObject(t.Context(), &s3.GetObjectInput{Bucket: bucket, Key: v.Key, VersionId: v.VersionId})
	require.NoError(t, err)
	defer got.Body.Close()
	unzipped, err := gzip.NewReader(got.Body)
	require.NoError(t, err)
	var batch struct{ LogEvents []struct{ Message string } }
	require.NoError(t, json.NewDecoder(unzipped).Decode(&batch))
	require.Len(t, batch.LogEvents, 1)
	var e audit.Event
	require.NoError(t, json.Unmarshal([]byte(batch.LogEvents[0].Message), &e))
	return e.Agent
}

// one is the resource of a type with that end of its name.
func one(t *testing.T, g *graph.Graph, token, suffix string) *graph.Resource {
	t.Helper()
	for _, r := range g.OfType(token) {
		if strings.HasSuffix(r.Name, suffix) {
			return r
		}
	}
	require.Failf(t, "no such resource", "%s %s", token, suffix)
	return nil
}

// asker is for what nothing else here needs a client of AWS's for.
var asker = &http.Client{Timeout: time.Minute}

// ask calls an API by hand: moto looks at the scope of the signature only.
func ask(t *testing.T, region, service, form, target string, body []byte) []byte {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, os.Getenv("AWS_ENDPOINT_URL"), bytes.NewReader(body)) //nolint:gosec // the test's own moto
	require.NoError(t, err)
	r.Header.Set("Content-Type", form)
	r.Header.Set("X-Amz-Target", target)
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIATEST/20260101/"+region+"/"+service+"/aws4_request, SignedHeaders=host, Signature=0")
	answer, err := asker.Do(r) //nolint:gosec // the test's own moto
	require.NoError(t, err)
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, answer.StatusCode, "%s", said)
	return said
}
