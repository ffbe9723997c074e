package aws

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/postern/postern/graph"
)

// value says what AWS accepts for one input. Source: the service's API reference, page of the
// action that creates the resource.
type value struct {
	kind, path string
	// oneOf lists all values. Otherwise low and high bound a number, or form matches a text, such
	// as example.
	oneOf     []string
	low, high float64
	form      *regexp.Regexp
	example   string
}

func enum(kind, path string, values ...string) value {
	return value{kind: kind, path: path, oneOf: values}
}

func between(kind, path string, low, high float64) value {
	return value{kind: kind, path: path, low: low, high: high}
}

var (
	instanceType = regexp.MustCompile(`^[a-z][a-z0-9-]*[0-9][a-z0-9-]*\.(nano|micro|small|medium|large|xlarge|[0-9]+xlarge|metal|metal-[0-9]+xl)$`)
	zone         = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-[0-9][a-z]$`)
	serviceName  = regexp.MustCompile(`^(com\.amazonaws|aws\.api)(\.[a-z0-9-]+)+$`)
	principalARN = regexp.MustCompile(`^(arn:aws[a-z-]*:iam::[0-9]{12}:(root|user/.+|role/.+)|\*)$`)
	image        = regexp.MustCompile(`^(ami-([0-9a-f]{8}|[0-9a-f]{17})|resolve:ssm:/?[A-Za-z0-9_./-]+(:[A-Za-z0-9_.-]+)?)$`)
)

// retention are the days that CloudWatch Logs takes (PutRetentionPolicy); 0 is for good.
var retention = []string{"0", "1", "3", "5", "7", "14", "30", "60", "90", "120", "150", "180", "365", "400", "545", "731", "1096", "1827", "2192", "2557", "2922", "3288", "3653"}

var (
	onOff       = []string{"enabled", "disabled"}
	nlbProtocol = []string{"TCP", "UDP", "TCP_UDP", "TLS", "HTTP", "HTTPS", "GENEVE", "QUIC", "TCP_QUIC"}
)

var values = []value{
	enum("ec2/vpc", "instanceTenancy", "default", "dedicated"),
	enum("ec2/vpcEndpoint", "vpcEndpointType", "Interface", "Gateway", "GatewayLoadBalancer", "Resource", "ServiceNetwork"),
	{kind: "ec2/vpcEndpoint", path: "serviceName", form: serviceName, example: "com.amazonaws.us-east-1.logs"},
	{kind: "ec2/vpcEndpointService", path: "allowedPrincipals.*", form: principalARN, example: "arn:aws:iam::123456789012:root"},
	{kind: "ec2/subnet", path: "availabilityZone", form: zone, example: "us-east-1a"},
	enum("ec2/natGateway", "connectivityType", "public", "private"),
	enum("ec2/eip", "domain", "vpc", "standard"),
	enum("ec2/networkAclRule", "ruleAction", "allow", "deny"),
	between("ec2/networkAclRule", "ruleNumber", 1, 32766),
	enum("ec2/flowLog", "trafficType", "ALL", "ACCEPT", "REJECT"),
	enum("ec2/flowLog", "logDestinationType", "cloud-watch-logs", "s3", "kinesis-data-firehose"),
	enum("ec2/flowLog", "maxAggregationInterval", "60", "600"),
	enum("ec2/vpcBlockPublicAccessOptions", "internetGatewayBlockMode", "off", "block-bidirectional", "block-ingress"),
	enum("ec2/vpcBlockPublicAccessExclusion", "internetGatewayExclusionMode", "allow-bidirectional", "allow-egress"),
	{kind: "ec2/launchTemplate", path: "instanceType", form: instanceType, example: "m7g.large"},
	{kind: "ec2/launchTemplate", path: "imageId", form: image, example: "ami-0abcdef1234567890"},
	enum("ec2/launchTemplate", "metadataOptions.httpEndpoint", onOff...),
	enum("ec2/launchTemplate", "metadataOptions.httpTokens", "required", "optional"),
	enum("ec2/launchTemplate", "metadataOptions.httpProtocolIpv6", onOff...),
	enum("ec2/launchTemplate", "metadataOptions.instanceMetadataTags", onOff...),
	between("ec2/launchTemplate", "metadataOptions.httpPutResponseHopLimit", 1, 64),
	enum("ec2/launchTemplate", "instanceInitiatedShutdownBehavior", "stop", "terminate"),
	enum("ec2/launchTemplate", "blockDeviceMappings.*.ebs.volumeType", "standard", "io1", "io2", "gp2", "gp3", "sc1", "st1"),
	between("ec2/launchTemplate", "blockDeviceMappings.*.ebs.volumeSize", 1, 65536),
	enum("ec2/launchTemplate", "blockDeviceMappings.*.ebs.encrypted", "true", "false"),
	enum("lb/loadBalancer", "loadBalancerType", "application", "network", "gateway"),
	enum("lb/loadBalancer", "ipAddressType", "ipv4", "dualstack", "dualstack-without-public-ipv4"),
	enum("lb/loadBalancer", "enforceSecurityGroupInboundRulesOnPrivateLinkTraffic", "on", "off"),
	enum("lb/loadBalancer", "dnsRecordClientRoutingPolicy", "any_availability_zone", "availability_zone_affinity", "partial_availability_zone_affinity"),
	enum("lb/targetGroup", "targetType", "instance", "ip", "lambda", "alb"),
	enum("lb/targetGroup", "protocol", nlbProtocol...),
	enum("lb/targetGroup", "healthCheck.protocol", "TCP", "HTTP", "HTTPS"),
	between("lb/targetGroup", "healthCheck.interval", 5, 300),
	between("lb/targetGroup", "healthCheck.timeout", 2, 120),
	between("lb/targetGroup", "healthCheck.healthyThreshold", 2, 10),
	between("lb/targetGroup", "healthCheck.unhealthyThreshold", 2, 10),
	between("lb/targetGroup", "deregistrationDelay", 0, 3600),
	enum("lb/listener", "protocol", nlbProtocol...),
	between("lb/listener", "tcpIdleTimeoutSeconds", 60, 6000),
	enum("lb/listener", "defaultActions.*.type", "forward", "redirect", "fixed-response", "authenticate-cognito", "authenticate-oidc"),
	enum("autoscaling/group", "healthCheckType", "EC2", "ELB", "EBS", "VPC_LATTICE"),
	between("autoscaling/group", "maxInstanceLifetime", 86400, 31536000),
	enum("autoscaling/group", "instanceRefresh.strategy", "Rolling"),
	enum("autoscaling/policy", "policyType", "SimpleScaling", "StepScaling", "TargetTrackingScaling", "PredictiveScaling"),
	enum("ecs/service", "launchType", "EC2", "FARGATE", "EXTERNAL"),
	enum("ecs/service", "schedulingStrategy", "REPLICA", "DAEMON"),
	enum("ecs/service", "availabilityZoneRebalancing", "ENABLED", "DISABLED"),
	enum("ecs/taskDefinition", "networkMode", "awsvpc", "bridge", "host", "none"),
	enum("ecs/taskDefinition", "requiresCompatibilities.*", "EC2", "FARGATE", "EXTERNAL"),
	enum("ecs/taskDefinition", "runtimePlatform.cpuArchitecture", "X86_64", "ARM64"),
	enum("ecs/taskDefinition", "runtimePlatform.operatingSystemFamily", "LINUX"),
	enum("ecs/cluster", "settings.*.value", "enabled", "disabled", "enhanced"),
	between("kms/key", "deletionWindowInDays", 7, 30),
	between("kms/key", "rotationPeriodInDays", 90, 2560),
	enum("kms/key", "keyUsage", "ENCRYPT_DECRYPT", "SIGN_VERIFY", "GENERATE_VERIFY_MAC", "KEY_AGREEMENT"),
	enum("cloudwatch/logGroup", "retentionInDays", retention...),
	enum("cloudwatch/logGroup", "logGroupClass", "STANDARD", "INFREQUENT_ACCESS", "DELIVERY"),
	enum("cloudwatch/logSubscriptionFilter", "distribution", "Random", "ByLogStream"),
	enum("cloudwatch/metricAlarm", "comparisonOperator", "GreaterThanOrEqualToThreshold", "GreaterThanThreshold", "LessThanThreshold", "LessThanOrEqualToThreshold",
		"LessThanLowerOrGreaterThanUpperThreshold", "LessThanLowerThreshold", "GreaterThanUpperThreshold"),
	enum("cloudwatch/metricAlarm", "statistic", "SampleCount", "Average", "Sum", "Minimum", "Maximum"),
	enum("cloudwatch/metricAlarm", "treatMissingData", "breaching", "notBreaching", "ignore", "missing"),
	enum("secretsmanager/secret", "recoveryWindowInDays", append([]string{"0"}, days(7, 30)...)...),
	enum("s3/bucketVersioningV2", "versioningConfiguration.status", "Enabled", "Suspended", "Disabled"),
	enum("s3/bucketObjectLockConfigurationV2", "objectLockEnabled", "Enabled"),
	enum("s3/bucketObjectLockConfigurationV2", "rule.defaultRetention.mode", "COMPLIANCE", "GOVERNANCE"),
	between("s3/bucketObjectLockConfigurationV2", "rule.defaultRetention.days", 1, 36500),
	between("s3/bucketObjectLockConfigurationV2", "rule.defaultRetention.years", 1, 100),
	enum("s3/bucketServerSideEncryptionConfigurationV2", "rules.*.applyServerSideEncryptionByDefault.sseAlgorithm", "AES256", "aws:kms", "aws:kms:dsse"),
	enum("s3/bucketOwnershipControls", "rule.objectOwnership", "BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter"),
	enum("s3/bucketLifecycleConfigurationV2", "rules.*.status", "Enabled", "Disabled"),
	enum("kinesis/firehoseDeliveryStream", "destination", "extended_s3", "redshift", "elasticsearch", "opensearch", "opensearchserverless", "splunk", "http_endpoint", "snowflake", "iceberg"),
	between("kinesis/firehoseDeliveryStream", "extendedS3Configuration.bufferingInterval", 0, 900),
	between("kinesis/firehoseDeliveryStream", "extendedS3Configuration.bufferingSize", 1, 128),
	enum("kinesis/firehoseDeliveryStream", "extendedS3Configuration.compressionFormat", "UNCOMPRESSED", "GZIP", "ZIP", "Snappy", "HADOOP_SNAPPY"),
	enum("route53/resolverFirewallRule", "action", "ALLOW", "BLOCK", "ALERT"),
	enum("route53/resolverFirewallRule", "blockResponse", "NODATA", "NXDOMAIN", "OVERRIDE"),
	enum("route53/resolverFirewallRule", "firewallDomainRedirectionAction", "INSPECT_REDIRECTION_DOMAIN", "TRUST_REDIRECTION_DOMAIN"),
	enum("route53/resolverFirewallConfig", "firewallFailOpen", "ENABLED", "DISABLED", "USE_LOCAL_RESOURCE_SETTING"),
	enum("route53/resolverFirewallRuleGroupAssociation", "mutationProtection", "ENABLED", "DISABLED"),
	between("route53/resolverFirewallRuleGroupAssociation", "priority", 101, 8999),
	between("iam/role", "maxSessionDuration", 3600, 43200),
}

func days(low, high int) []string {
	var all []string
	for d := low; d <= high; d++ {
		all = append(all, fmt.Sprint(d))
	}
	return all
}

func (c *checker) values(r *graph.Resource) {
	for _, val := range values {
		if !is(r, val.kind) {
			continue
		}
		each(r, val.path, func(path string, v any) {
			text := fmt.Sprint(v)
			if text == "" {
				return // as good as left out
			}
			switch {
			case val.oneOf != nil:
				if !slices.Contains(val.oneOf, text) {
					c.report(r, path, "write "+list(val.oneOf), "%q is not one of its values", text)
				}
			case val.form != nil:
				if !val.form.MatchString(text) {
					c.report(r, path, "write it like "+val.example, "%q does not look like one", text)
				}
			default:
				if n, ok := v.(float64); ok && (n < val.low || n > val.high) {
					c.report(r, path, fmt.Sprintf("write a number from %v to %v", val.low, val.high), "%v is out of range", n)
				}
			}
		})
	}
	switch {
	case is(r, "autoscaling/group"):
		c.sizes(r)
	case is(r, "ecs/taskDefinition"):
		c.fargate(r)
	case is(r, "lb/targetGroup"), is(r, "lb/listener"):
		c.port(r, "port")
	}
}

func (c *checker) sizes(r *graph.Resource) {
	low, okLow := r.Number("minSize")
	high, okHigh := r.Number("maxSize")
	want, okWant := r.Number("desiredCapacity")
	switch {
	case okLow && okHigh && low > high:
		c.report(r, "minSize", "make maxSize as large", "it is %v, and maxSize %v", low, high)
	case okWant && okLow && want < low, okWant && okHigh && want > high:
		c.report(r, "desiredCapacity", "choose one from minSize to maxSize", "%v is not between %v and %v", want, low, high)
	}
}

// fargateMemory are the MiB that go with the CPU units of a Fargate task:
// lowest, highest, step ("Task CPU and memory", ECS developer guide).
var fargateMemory = map[string][3]int{
	"256": {512, 2048, 512}, "512": {1024, 4096, 1024}, "1024": {2048, 8192, 1024}, "2048": {4096, 16384, 1024},
	"4096": {8192, 30720, 1024}, "8192": {16384, 61440, 4096}, "16384": {32768, 122880, 8192},
}

func (c *checker) fargate(r *graph.Resource) {
	launch, _ := r.Inputs["requiresCompatibilities"].([]any)
	if !slices.Contains(launch, any("FARGATE")) {
		return
	}
	if mode := r.String("networkMode"); mode != "awsvpc" {
		c.report(r, "networkMode", "write awsvpc", "Fargate takes only awsvpc, and this is %q", mode)
	}
	cpu, memory := r.String("cpu"), r.String("memory")
	if cpu == "" || memory == "" {
		c.report(r, "cpu", "set both cpu and memory", "Fargate needs cpu and memory of the task")
		return
	}
	sizes, ok := fargateMemory[cpu]
	if !ok {
		c.report(r, "cpu", "write 256, 512, 1024, 2048, 4096, 8192 or 16384", "%q is not a size of a Fargate task", cpu)
		return
	}
	n := 0
	if _, err := fmt.Sscanf(memory, "%d", &n); err != nil || fmt.Sprint(n) != memory || n < sizes[0] || n > sizes[1] || n%sizes[2] != 0 {
		c.report(r, "memory", fmt.Sprintf("write a multiple of %d from %d to %d", sizes[2], sizes[0], sizes[1]), "%q does not go with cpu %s", memory, cpu)
	}
}

func (c *checker) port(r *graph.Resource, property string) {
	if n, ok := r.Number(property); ok && (n < 1 || n > 65535) {
		c.report(r, property, "write a port from 1 to 65535", "%v is not a valid port", n)
	}
}
