package document

import "encoding/json"

// KeyUse says which service uses a key, and for what. Source is the ARN of the service's resources,
// or "" for all that it has in the account.
type KeyUse struct {
	Sid, Service string
	Actions      []string
	Condition    Condition
}

// Key returns the policy of a key for services and the account's administrators, whom IAM limits.
// Roles are allowed by their own policies.
func Key(p Place, uses ...KeyUse) Policy {
	out := NewPolicy(Statement{Sid: "Administrators", Effect: Allow, Principal: &Principal{AWS: []ARN{p.Root()}}, Action: []string{"kms:*"}, Resource: Everything})
	for _, u := range uses {
		out.Statement = append(out.Statement, Statement{
			Sid: u.Sid, Effect: Allow, Principal: &Principal{Service: []string{u.Service}}, Action: u.Actions, Resource: Everything, Condition: u.Condition,
		})
	}
	return out
}

// encrypt are the actions of the statement that AWS documents (CloudWatch Logs User Guide, "Encrypt
// log data"). Wildcards are spelled out, without the actions for pairs of keys.
var encrypt = []string{
	"kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptFrom", "kms:ReEncryptTo",
}

// KeyOfLogs lets CloudWatch Logs encrypt the log groups below prefix.
func KeyOfLogs(p Place, prefix string) KeyUse {
	return KeyUse{
		Sid: "Logs", Service: "logs." + p.Region + ".amazonaws.com", Actions: encrypt,
		Condition: Condition{"ArnLike": {"kms:EncryptionContext:aws:logs:arn": {string(p.LogGroup(prefix + "/*"))}}},
	}
}

// KeyOfAlarms lets alarms of the account be published to an encrypted topic.
func KeyOfAlarms(p Place) KeyUse {
	return KeyUse{
		Sid: "Alarms", Service: "cloudwatch.amazonaws.com", Actions: []string{"kms:Decrypt", "kms:GenerateDataKey"},
		Condition: Condition{"StringEquals": {"aws:SourceAccount": {p.Account}}},
	}
}

// Bucket returns the policy of a bucket that requires TLS.
func Bucket(bucket ARN, more ...Statement) Policy {
	return NewPolicy(append([]Statement{{
		Sid: "OnlyTLS", Effect: Deny, Principal: Anybody, Action: []string{"s3:*"}, Resource: []ARN{bucket, bucket.Below("/*")},
		Condition: Condition{"Bool": {"aws:SecureTransport": {"false"}}},
	}}, more...)...)
}

// KeptVersions keeps everybody except the account's root from removing a version. A new object
// under the same name removes none. Whoever deploys also sets the bucket's lifecycle, so only
// operators are denied that. Locked objects outlive the lifecycle.
func KeptVersions(p Place, bucket ARN) Statement {
	return Statement{
		Sid: "KeptVersions", Effect: Deny, Principal: Anybody, Action: []string{"s3:DeleteObjectVersion"},
		Resource: []ARN{bucket, bucket.Below("/*")}, Condition: Condition{"ArnNotEquals": {"aws:PrincipalArn": {string(p.Root())}}},
	}
}

// FlowLogs lets the delivery of the place's flow logs write to the bucket, with prefixes that Hive
// understands (Amazon VPC User Guide, "Amazon S3 bucket permissions for flow logs").
func FlowLogs(p Place, bucket ARN) []Statement {
	who := &Principal{Service: []string{"delivery.logs.amazonaws.com"}}
	from := Condition{"StringEquals": {"aws:SourceAccount": {p.Account}}, "ArnLike": {"aws:SourceArn": {string(p.ARN("logs", "*"))}}}
	return []Statement{
		{Sid: "FlowLogsFind", Effect: Allow, Principal: who, Action: []string{"s3:GetBucketAcl", "s3:ListBucket"}, Resource: []ARN{bucket}, Condition: from},
		{Sid: "FlowLogsWrite", Effect: Allow, Principal: who, Action: []string{"s3:PutObject"}, Resource: []ARN{bucket.Below("/AWSLogs/aws-account-id=" + p.Account + "/*")}, Condition: from},
	}
}

// Secret returns the policy of a secret: only readers get its value, and only from their places.
func Secret(secret ARN, readers []ARN, from From) Policy {
	get := []string{"secretsmanager:BatchGetSecretValue", "secretsmanager:GetSecretValue"}
	p := NewPolicy(Statement{
		Sid: "OnlyReaders", Effect: Deny, Principal: Anybody, Action: get, Resource: []ARN{secret},
		Condition: Condition{"ArnNotEquals": {"aws:PrincipalArn": strs(readers)}},
	})
	for _, s := range from.elsewhere() {
		s.Principal, s.Action, s.Resource = Anybody, get, []ARN{secret}
		p.Statement = append(p.Statement, s)
	}
	return p
}

// Topic lets alarms of the account be published.
func Topic(p Place, topic ARN) Policy {
	return NewPolicy(Statement{
		Sid: "Alarms", Effect: Allow, Principal: &Principal{Service: []string{"cloudwatch.amazonaws.com"}}, Action: []string{"sns:Publish"}, Resource: []ARN{topic},
		Condition: Condition{"StringEquals": {"aws:SourceAccount": {p.Account}}},
	})
}

// ResolverLogs lets the resolver of the place write its queries to log groups.
func ResolverLogs(p Place, groups ...string) Policy {
	var streams []ARN
	for _, g := range groups {
		streams = append(streams, p.LogStreams(g))
	}
	return NewPolicy(Statement{
		Sid: "ResolverQueries", Effect: Allow, Principal: &Principal{Service: []string{"route53.amazonaws.com", "delivery.logs.amazonaws.com"}}, Action: ship,
		Resource:  streams,
		Condition: Condition{"StringEquals": {"aws:SourceAccount": {p.Account}}},
	})
}

// Masked is a policy of a log group by which CloudWatch masks keys: who may read the log sees that
// there was one.
func Masked() string {
	var keys []string
	for _, kind := range []string{
		"AwsSecretKey", "OpenSshPrivateKey", "PgpPrivateKey", "PkcsPrivateKey", "PuttyPrivateKey",
	} {
		keys = append(keys, "arn:aws:dataprotection::aws:data-identifier/"+kind)
	}
	type operation map[string]map[string]struct{}
	statement := func(sid string, o operation) map[string]any {
		return map[string]any{"Sid": sid, "DataIdentifier": keys, "Operation": o}
	}
	text, _ := json.Marshal(map[string]any{ // of texts only
		"Name": "postern", "Description": "", "Version": "2021-06-01",
		"Statement": []any{
			statement("audit", operation{"Audit": {"FindingsDestination": {}}}),
			statement("mask", operation{"Deidentify": {"MaskConfig": {}}}),
		},
	})
	return string(text)
}
