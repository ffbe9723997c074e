package aws

import (
	"regexp"
	"slices"
	"strings"

	"github.com/postern/postern/graph"
)

// target describes the resource to which an input refers, by the input's name: its possible types
// ("ec2/vpc" for aws:ec2/vpc:Vpc), and the form of their IDs.
type target struct {
	kinds []string
	id    *regexp.Regexp
}

func id(prefix string) *regexp.Regexp {
	return regexp.MustCompile(`^` + prefix + `-([0-9a-f]{8}|[0-9a-f]{17})$`)
}

var targets = map[string]target{
	"vpcId":                     {[]string{"ec2/vpc"}, id("vpc")},
	"subnetId":                  {[]string{"ec2/subnet"}, id("subnet")},
	"subnetIds":                 {[]string{"ec2/subnet"}, id("subnet")},
	"vpcZoneIdentifiers":        {[]string{"ec2/subnet"}, id("subnet")},
	"securityGroupId":           {[]string{"ec2/securityGroup", "ec2/defaultSecurityGroup"}, id("sg")},
	"securityGroupIds":          {[]string{"ec2/securityGroup", "ec2/defaultSecurityGroup"}, id("sg")},
	"referencedSecurityGroupId": {[]string{"ec2/securityGroup", "ec2/defaultSecurityGroup"}, id("sg")},
	"sourceSecurityGroupId":     {[]string{"ec2/securityGroup", "ec2/defaultSecurityGroup"}, id("sg")},
	"routeTableId":              {[]string{"ec2/routeTable", "ec2/defaultRouteTable", "ec2/vpc"}, id("rtb")},
	"routeTableIds":             {[]string{"ec2/routeTable", "ec2/defaultRouteTable"}, id("rtb")},
	"defaultRouteTableId":       {[]string{"ec2/vpc"}, id("rtb")},
	"defaultNetworkAclId":       {[]string{"ec2/vpc"}, id("acl")},
	"networkAclId":              {[]string{"ec2/networkAcl", "ec2/defaultNetworkAcl"}, id("acl")},
	"natGatewayId":              {[]string{"ec2/natGateway"}, regexp.MustCompile(`^nat-[0-9a-f]+$`)},
	"internetGatewayId":         {[]string{"ec2/internetGateway"}, id("igw")},
	"gatewayId":                 {[]string{"ec2/internetGateway", "ec2/vpcEndpoint"}, regexp.MustCompile(`^(igw|vgw|vpce)-[0-9a-f]+$|^local$`)},
	"allocationId":              {[]string{"ec2/eip"}, regexp.MustCompile(`^eipalloc-[0-9a-f]+$`)},
	"loadBalancerArn":           {[]string{"lb/loadBalancer"}, arn},
	"networkLoadBalancerArns":   {[]string{"lb/loadBalancer"}, arn},
	"targetGroupArn":            {[]string{"lb/targetGroup"}, arn},
	"targetGroupArns":           {[]string{"lb/targetGroup"}, arn},
	"cluster":                   {[]string{"ecs/cluster"}, nil},
	"taskDefinition":            {[]string{"ecs/taskDefinition"}, nil},
	"taskRoleArn":               {[]string{"iam/role"}, arn},
	"executionRoleArn":          {[]string{"iam/role"}, arn},
	"roleArn":                   {[]string{"iam/role"}, arn},
	"iamRoleArn":                {[]string{"iam/role"}, arn},
	"permissionsBoundary":       {[]string{"iam/policy"}, arn},
	"policyArn":                 {[]string{"iam/policy"}, arn},
	"kmsKeyArn":                 {[]string{"kms/key"}, arn},
	"kmsKeyId":                  {[]string{"kms/key", "kms/alias"}, nil},
	"targetKeyId":               {[]string{"kms/key"}, nil},
	"secretId":                  {[]string{"secretsmanager/secret"}, nil},
	"secretArn":                 {[]string{"secretsmanager/secret"}, arn},
	"logGroupName":              {[]string{"cloudwatch/logGroup"}, nil},
	"firewallRuleGroupId":       {[]string{"route53/resolverFirewallRuleGroup"}, nil},
	"firewallDomainListId":      {[]string{"route53/resolverFirewallDomainList"}, nil},
	"bucketArn":                 {[]string{"s3/bucketV2"}, arn},
}

// named are inputs whose name means something else in most types.
var named = map[string]map[string]target{
	"s3/bucketPolicy":                              {"bucket": {[]string{"s3/bucketV2"}, nil}},
	"s3/bucketVersioningV2":                        {"bucket": {[]string{"s3/bucketV2"}, nil}},
	"s3/bucketObjectLockConfigurationV2":           {"bucket": {[]string{"s3/bucketV2"}, nil}},
	"s3/bucketPublicAccessBlock":                   {"bucket": {[]string{"s3/bucketV2"}, nil}},
	"s3/bucketServerSideEncryptionConfigurationV2": {"bucket": {[]string{"s3/bucketV2"}, nil}},
	"s3/bucketLifecycleConfigurationV2":            {"bucket": {[]string{"s3/bucketV2"}, nil}},
	"s3/bucketOwnershipControls":                   {"bucket": {[]string{"s3/bucketV2"}, nil}},
	"iam/rolePolicy":                               {"role": {[]string{"iam/role"}, nil}},
	"iam/instanceProfile":                          {"role": {[]string{"iam/role"}, nil}},
	"lb/loadBalancer":                              {"subnets": {[]string{"ec2/subnet"}, id("subnet")}, "securityGroups": {[]string{"ec2/securityGroup"}, id("sg")}},
}

// references checks that the resource from which an input was computed exists and has the right
// type, and that a literal ID is one.
func (c *checker) references(r *graph.Resource) {
	for _, urn := range r.Dependencies {
		if c.g.ByURN(urn) == nil {
			c.report(r, "", "declare it, or remove the reference", "it refers to %s, which is not declared", urn)
		}
	}
	for _, property := range sortedKeys(r.Inputs) {
		t, ok := targets[property]
		for kind, of := range named {
			if is(r, kind) && of[property].kinds != nil {
				t, ok = of[property], true
			}
		}
		if !ok || !strings.HasPrefix(r.Type, "aws:") {
			continue
		}
		if deps := r.PropertyDependencies[property]; len(deps) > 0 {
			c.referred(r, property, deps, t)
			continue
		}
		if t.id == nil {
			continue
		}
		for _, path := range []string{property, property + ".*"} {
			each(r, path, func(path string, v any) {
				if text, isText := v.(string); isText && text != "" && !t.id.MatchString(text) {
					c.report(r, path, "refer to the resource itself, or write its ID", "%q is not an ID of %s", text, kinds(t.kinds))
				}
			})
		}
	}
}

func (c *checker) referred(r *graph.Resource, property string, deps []string, t target) {
	var wrong []string
	for _, urn := range deps {
		to := c.g.ByURN(urn)
		if to == nil || !to.Custom || !strings.HasPrefix(to.Type, "aws:") {
			return // reported already, or a component or provider of somebody else
		}
		if slices.ContainsFunc(t.kinds, func(kind string) bool { return is(to, kind) }) {
			return
		}
		wrong = append(wrong, to.Name+" ("+short(to.Type)+")")
	}
	c.report(r, property, "refer to "+kinds(t.kinds), "it refers to %s", strings.Join(wrong, ", "))
}

// kinds is types for people: "a routeTable or defaultRouteTable".
func kinds(kinds []string) string {
	var names []string
	for _, k := range kinds {
		names = append(names, k[strings.IndexByte(k, '/')+1:])
	}
	return "a " + list(names)
}
