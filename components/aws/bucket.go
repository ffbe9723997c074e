package aws

import (
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/s3"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/components/aws/document"
)

// bucket holds what is special about a bucket. All buckets are private, versioned, encrypted,
// reached over TLS only, and without ACLs.
type bucket struct {
	// lock is for how many days objects can be neither changed nor deleted;
	// expire, after how many they are removed. 0 means not.
	lock, expire int
	// kept refuses that a version of an object is deleted, while the stack is
	// protected or the bucket locked.
	kept bool
	// key encrypts; nil means S3's own.
	key *key
	// more statements of its policy.
	more func(document.ARN) []document.Statement
}

// held is a bucket, the stack's own or another one.
type held struct{ name, arn pulumi.StringInput }

// existing returns the bucket of that name, of which the stack declares nothing.
func existing(place document.Place, name pulumi.StringInput) held {
	return held{name, written(func(v []string) string { return "arn:" + place.Partition + ":s3:::" + v[0] }, name)}
}

// newBucket declares a bucket and everything about it. It also returns the bucket's policy, for
// resources that need permission to write first. The options apply to all of it.
func newBucket(s *scope, suffix string, b bucket, opts ...pulumi.ResourceOption) (held, *s3.BucketPolicy) {
	// S3 does not delete a bucket with objects. Emptying a bucket needs `protect: false`, and a
	// locked bucket is never emptied.
	expendable := !s.args.AWS.Protect && b.lock == 0
	// Names of buckets are everybody's. The deployer's policy is for names that begin so.
	named := *s
	named.prefix = "postern-" + s.prefix
	s = &named
	out := add(s, s3.NewBucketV2, suffix, &s3.BucketV2Args{
		ForceDestroy: pulumi.Bool(expendable), ObjectLockEnabled: pulumi.Bool(b.lock > 0), Tags: s.tags(suffix),
	}, opts...)
	// What follows describes the bucket: where the bucket stays, so does it.
	s = s.within(out)
	add(s, s3.NewBucketPublicAccessBlock, suffix, &s3.BucketPublicAccessBlockArgs{
		Bucket: out.ID(), BlockPublicAcls: pulumi.Bool(true), BlockPublicPolicy: pulumi.Bool(true), IgnorePublicAcls: pulumi.Bool(true), RestrictPublicBuckets: pulumi.Bool(true),
	}, opts...)
	add(s, s3.NewBucketOwnershipControls, suffix, &s3.BucketOwnershipControlsArgs{
		Bucket: out.ID(), Rule: &s3.BucketOwnershipControlsRuleArgs{ObjectOwnership: pulumi.String("BucketOwnerEnforced")},
	}, opts...)
	versioning := add(s, s3.NewBucketVersioningV2, suffix, &s3.BucketVersioningV2Args{
		Bucket: out.ID(), VersioningConfiguration: &s3.BucketVersioningV2VersioningConfigurationArgs{Status: pulumi.String("Enabled")},
	}, opts...)
	encryption := &s3.BucketServerSideEncryptionConfigurationV2RuleApplyServerSideEncryptionByDefaultArgs{SseAlgorithm: pulumi.String("AES256")}
	if b.key != nil {
		encryption = &s3.BucketServerSideEncryptionConfigurationV2RuleApplyServerSideEncryptionByDefaultArgs{SseAlgorithm: pulumi.String("aws:kms"), KmsMasterKeyId: b.key.arn.ToStringOutput()}
	}
	add(s, s3.NewBucketServerSideEncryptionConfigurationV2, suffix, &s3.BucketServerSideEncryptionConfigurationV2Args{
		Bucket: out.ID(),
		Rules: s3.BucketServerSideEncryptionConfigurationV2RuleArray{&s3.BucketServerSideEncryptionConfigurationV2RuleArgs{
			ApplyServerSideEncryptionByDefault: encryption, BucketKeyEnabled: pulumi.Bool(b.key != nil),
		}},
	}, opts...)
	policy := add(s, s3.NewBucketPolicy, suffix, &s3.BucketPolicyArgs{
		Bucket: out.ID(),
		Policy: written(func(v []string) string {
			var more []document.Statement
			if b.kept && !expendable {
				more = append(more, document.KeptVersions(s.args.place(), document.ARN(v[0])))
			}
			if b.more != nil {
				more = append(more, b.more(document.ARN(v[0]))...)
			}
			return document.Bucket(document.ARN(v[0]), more...).Text()
		}, out.Arn),
	}, opts...)
	if b.lock > 0 {
		add(s, s3.NewBucketObjectLockConfigurationV2, suffix, &s3.BucketObjectLockConfigurationV2Args{
			Bucket: out.ID(), ObjectLockEnabled: pulumi.String("Enabled"),
			Rule: &s3.BucketObjectLockConfigurationV2RuleArgs{DefaultRetention: &s3.BucketObjectLockConfigurationV2RuleDefaultRetentionArgs{
				Mode: pulumi.String("COMPLIANCE"), Days: pulumi.Int(b.lock),
			}},
		}, append([]pulumi.ResourceOption{pulumi.DependsOn([]pulumi.Resource{versioning})}, opts...)...)
	}
	rules := s3.BucketLifecycleConfigurationV2RuleArray{&s3.BucketLifecycleConfigurationV2RuleArgs{
		Id: pulumi.String("unfinished"), Status: pulumi.String("Enabled"), Filter: &s3.BucketLifecycleConfigurationV2RuleFilterArgs{Prefix: pulumi.String("")},
		AbortIncompleteMultipartUpload: &s3.BucketLifecycleConfigurationV2RuleAbortIncompleteMultipartUploadArgs{DaysAfterInitiation: pulumi.Int(7)},
	}}
	if b.expire > 0 {
		rules = append(rules, &s3.BucketLifecycleConfigurationV2RuleArgs{
			Id: pulumi.String("expire"), Status: pulumi.String("Enabled"), Filter: &s3.BucketLifecycleConfigurationV2RuleFilterArgs{Prefix: pulumi.String("")},
			Expiration:                  &s3.BucketLifecycleConfigurationV2RuleExpirationArgs{Days: pulumi.Int(b.expire)},
			NoncurrentVersionExpiration: &s3.BucketLifecycleConfigurationV2RuleNoncurrentVersionExpirationArgs{NoncurrentDays: pulumi.Int(30)},
		})
	}
	add(s, s3.NewBucketLifecycleConfigurationV2, suffix, &s3.BucketLifecycleConfigurationV2Args{Bucket: out.ID(), Rules: rules},
		append([]pulumi.ResourceOption{pulumi.DependsOn([]pulumi.Resource{versioning})}, opts...)...)
	return held{out.Bucket, out.Arn}, policy
}
