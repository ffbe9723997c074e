package capture

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"

	"github.com/postern/postern/graph"
)

// idPrefix is the beginning of a type's IDs, if documents or other inputs show them. The other IDs
// are the resource's name.
var idPrefix = map[string]string{
	"vpc": "vpc", "subnet": "subnet", "securityGroup": "sg", "securityGroupEgressRule": "sgr", "securityGroupIngressRule": "sgr",
	"routeTable": "rtb", "defaultRouteTable": "rtb", "networkAcl": "acl", "defaultNetworkAcl": "acl", "defaultSecurityGroup": "sg",
	"internetGateway": "igw", "natGateway": "nat", "eip": "eipalloc", "vpcEndpoint": "vpce", "vpcEndpointService": "vpce-svc",
	"launchTemplate": "lt", "flowLog": "fl", "networkInterface": "eni",
}

// exampleID returns a plausible ID, always the same for the same resource.
func exampleID(r *graph.Resource) string {
	sum := sha256.Sum256([]byte(r.URN))
	kind := r.Type[:max(0, strings.LastIndexByte(r.Type, ':'))]
	kind = kind[strings.LastIndexByte(kind, '/')+1:]
	if prefix := idPrefix[kind]; prefix != "" {
		return prefix + "-" + hex.EncodeToString(sum[:])[:17]
	}
	if strings.HasPrefix(r.Type, "aws:kms/key:") {
		h := hex.EncodeToString(sum[:])
		return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:32]
	}
	for _, given := range []string{"name", "bucket", "family"} {
		if s := r.String(given); s != "" {
			return s
		}
	}
	return r.Name + "-" + hex.EncodeToString(sum[:])[:7] // like names that Pulumi makes up
}

// arnOf is the form of a type's ARNs; %[1]s is the region, %[2]s the account, %[3]s the ID.
var arnOf = map[string]string{
	"aws:s3/": "arn:aws:s3:::%[3]s", "aws:iam/role:": "arn:aws:iam::%[2]s:role/%[3]s", "aws:iam/policy:": "arn:aws:iam::%[2]s:policy/%[3]s",
	"aws:iam/instanceProfile:": "arn:aws:iam::%[2]s:instance-profile/%[3]s",
	"aws:kms/key:":             "arn:aws:kms:%[1]s:%[2]s:key/%[3]s", "aws:cloudwatch/logGroup:": "arn:aws:logs:%[1]s:%[2]s:log-group:%[3]s",
	"aws:secretsmanager/secret:": "arn:aws:secretsmanager:%[1]s:%[2]s:secret:%[3]s-AbCdEf", "aws:lb/loadBalancer:": "arn:aws:elasticloadbalancing:%[1]s:%[2]s:loadbalancer/net/%[3]s/50dc6c495c0c9188",
	"aws:lb/targetGroup:": "arn:aws:elasticloadbalancing:%[1]s:%[2]s:targetgroup/%[3]s/73e2d6bc24d8a067", "aws:kinesis/firehoseDeliveryStream:": "arn:aws:firehose:%[1]s:%[2]s:deliverystream/%[3]s",
	"aws:ecs/cluster:": "arn:aws:ecs:%[1]s:%[2]s:cluster/%[3]s", "aws:ecs/taskDefinition:": "arn:aws:ecs:%[1]s:%[2]s:task-definition/%[3]s:1", "aws:ecs/service:": "arn:aws:ecs:%[1]s:%[2]s:service/%[3]s",
	"aws:ecr/repository:": "arn:aws:ecr:%[1]s:%[2]s:repository/%[3]s", "aws:ec2/": "arn:aws:ec2:%[1]s:%[2]s:%[4]s/%[3]s",
	"aws:sns/topic:": "arn:aws:sns:%[1]s:%[2]s:%[3]s", "aws:autoscaling/group:": "arn:aws:autoscaling:%[1]s:%[2]s:autoScalingGroup:00000000:autoScalingGroupName/%[3]s",
	"aws:servicediscovery/service:": "arn:aws:servicediscovery:%[1]s:%[2]s:service/%[3]s",
	"aws:cloudwatch/metricAlarm:":   "arn:aws:cloudwatch:%[1]s:%[2]s:alarm:%[3]s", "aws:route53/": "arn:aws:route53resolver:%[1]s:%[2]s:%[4]s/%[3]s",
}

// exampleOutputs returns the outputs from which programs compute documents and names.
func exampleOutputs(r *graph.Resource, id string, opts Options) resource.PropertyMap {
	region, account := opts.Region, opts.Account
	out := resource.PropertyMap{}
	set := func(key, value string) { out[resource.PropertyKey(key)] = resource.NewProperty(value) }
	longest := ""
	for prefix := range arnOf {
		if strings.HasPrefix(r.Type, prefix) && len(prefix) > len(longest) {
			longest = prefix
		}
	}
	if longest != "" {
		kind := r.Type[strings.LastIndexByte(r.Type, '/')+1 : strings.LastIndexByte(r.Type, ':')]
		name := id
		if strings.HasPrefix(r.Type, "aws:iam/") {
			name = strings.TrimPrefix(r.String("path"), "/") + id
		}
		arn := fmt.Sprintf(arnOf[longest]+"%.0[1]s%.0[2]s%.0[3]s%.0[4]s", region, account, name, kind)
		set("arn", arn)
		switch longest {
		case "aws:kms/key:":
			set("keyId", id)
		case "aws:lb/loadBalancer:":
			set("dnsName", id+".elb."+region+".amazonaws.com")
			set("arnSuffix", "net/"+id+"/50dc6c495c0c9188")
		case "aws:lb/targetGroup:":
			set("arnSuffix", "targetgroup/"+id+"/73e2d6bc24d8a067")
		case "aws:ecr/repository:":
			set("repositoryUrl", account+".dkr.ecr."+region+".amazonaws.com/"+id)
		}
	}
	switch {
	case strings.HasPrefix(r.Type, "aws:ec2/vpc:"):
		digits := strings.TrimPrefix(id, "vpc-")
		set("defaultRouteTableId", "rtb-"+digits)
		set("mainRouteTableId", "rtb-"+digits)
		set("defaultNetworkAclId", "acl-"+digits)
		set("defaultSecurityGroupId", "sg-"+digits)
	case strings.HasPrefix(r.Type, "aws:ec2/vpcEndpointService:"):
		set("serviceName", "com.amazonaws.vpce."+region+"."+id)
	case strings.HasPrefix(r.Type, "aws:ec2/eip:"):
		set("publicIp", "198.51.100.10")
	case strings.HasPrefix(r.Type, "aws:iam/role:"):
		set("uniqueId", "AROAEXAMPLEEXAMPLE000")
	}
	for _, named := range []string{"name", "bucket"} {
		set(named, id)
	}
	if strings.HasPrefix(r.Type, "postern:") {
		set("certificate", "(made at up)")
	}
	return out
}

// answer returns a provider's answer to a question that has the same answer for every account, or
// whose answer documents only quote.
func answer(token string, opts Options) (resource.PropertyMap, error) {
	region, account := opts.Region, opts.Account
	text := func(kv ...string) resource.PropertyMap {
		m := resource.PropertyMap{}
		for i := 0; i+1 < len(kv); i += 2 {
			m[resource.PropertyKey(kv[i])] = resource.NewProperty(kv[i+1])
		}
		return m
	}
	switch token {
	case "aws:index/getCallerIdentity:getCallerIdentity":
		return text("accountId", account, "arn", "arn:aws:iam::"+account+":user/example", "userId", "AIDAEXAMPLEEXAMPLE000", "id", account), nil
	case "aws:index/getRegion:getRegion":
		return text("name", region, "id", region, "endpoint", "ec2."+region+".amazonaws.com", "description", region), nil
	case "aws:index/getPartition:getPartition":
		return text("partition", "aws", "id", "aws", "dnsSuffix", "amazonaws.com", "reverseDnsPrefix", "com.amazonaws"), nil
	case "aws:index/getAvailabilityZones:getAvailabilityZones":
		m := text("id", region)
		var names, ids []resource.PropertyValue
		for i, letter := range []string{"a", "b", "c"} {
			names = append(names, resource.NewProperty(region+letter))
			ids = append(ids, resource.NewProperty(fmt.Sprintf("%s-az%d", region, i+1)))
		}
		m["names"], m["zoneIds"] = resource.NewProperty(names), resource.NewProperty(ids)
		return m, nil
	}
	return nil, fmt.Errorf("preview offline: the program asks the provider %s, and only an account can tell: write the answer into the stack file", token)
}
