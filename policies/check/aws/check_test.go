package aws_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
	check "github.com/postern/postern/policies/check/aws"
)

// build makes a graph from lines "name type {inputs}"; in inputs, "@name" is a
// reference to the resource of that name, whose ID is not known yet.
func build(t *testing.T, lines string) *graph.Graph {
	t.Helper()
	g := &graph.Graph{Format: graph.Format, Stack: "prod"}
	urns := map[string]string{}
	for line := range strings.Lines(strings.TrimSpace(lines)) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		kind, inputs, _ := strings.Cut(rest, " ")
		slash := strings.IndexByte(kind, '/') + 1
		r := graph.Resource{Name: name, Type: "aws:" + kind + ":" + strings.ToUpper(kind[slash:slash+1]) + kind[slash+1:], Custom: true, PropertyDependencies: map[string][]string{}}
		r.URN = "urn:pulumi:prod::postern::" + r.Type + "::" + name
		require.NoError(t, json.Unmarshal([]byte(inputs), &r.Inputs), line)
		urns[name] = r.URN
		for property, v := range r.Inputs {
			r.Inputs[property] = resolve(v, func(to string) {
				require.Contains(t, urns, to, "declare it before")
				r.PropertyDependencies[property] = append(r.PropertyDependencies[property], urns[to])
			})
		}
		g.Resources = append(g.Resources, r)
	}
	slices.SortFunc(g.Resources, func(a, b graph.Resource) int { return strings.Compare(a.URN, b.URN) })
	return g
}

func resolve(v any, refer func(string)) any {
	switch v := v.(type) {
	case string:
		if name, ok := strings.CutPrefix(v, "@"); ok {
			refer(name)
			return graph.Unknown
		}
	case []any:
		for i := range v {
			v[i] = resolve(v[i], refer)
		}
	case map[string]any:
		for k := range v {
			v[k] = resolve(v[k], refer)
		}
	}
	return v
}

func policy(statement string) string {
	b, _ := json.Marshal(`{"Version":"2012-10-17","Statement":[` + statement + `]}`)
	return string(b)
}

func TestProblems(t *testing.T) {
	t.Parallel()
	const network = `
		net ec2/vpc {"cidrBlock":"10.64.0.0/20"}
		a ec2/subnet {"vpcId":"@net","cidrBlock":"10.64.0.0/24"}
		agent ec2/securityGroup {"vpcId":"@net","description":"one agent"}
	`
	many := ""
	for i := range 22 {
		many += fmt.Sprintf("\n\t\tr%02d ec2/networkAclRule "+`{"networkAclId":"@acl","egress":true,"ruleNumber":%d,"ruleAction":"allow","protocol":"-1","cidrBlock":"10.0.0.0/8"}`, i, 100+i)
	}
	const rule = `r vpc/securityGroupEgressRule {"securityGroupId":"@agent","referencedSecurityGroupId":"@agent",`
	for name, c := range map[string]struct {
		resources string
		want      []string // "property: what" of each problem
	}{
		"all is well": {network + rule + `"ipProtocol":"tcp","fromPort":3128,"toPort":3128}`, nil},
		"networks": {
			`v ec2/vpc {"cidrBlock":"10.64.0.1/20"}
			w ec2/vpc {"cidrBlock":"10.0.0.0/8"}
			x ec2/vpc {"cidrBlock":"ten"}`,
			[]string{"cidrBlock: 10.64.0.1/20 has bits behind its mask, which AWS refuses or drops", "cidrBlock: 10.0.0.0/8 is a /8, which AWS refuses", `cidrBlock: "ten" is not a valid network`},
		},
		"networks that overlap": {
			network + `b ec2/subnet {"vpcId":"@net","cidrBlock":"10.64.0.128/25"}
			c ec2/subnet {"vpcId":"@net","cidrBlock":"10.65.0.0/24"}
			second ec2/vpc {"cidrBlock":"10.64.8.0/24"}`,
			[]string{
				"cidrBlock: 10.64.0.128/25 overlaps a (10.64.0.0/24)", "cidrBlock: 10.65.0.0/24 is not within its VPC net (10.64.0.0/20)",
				"cidrBlock: 10.64.8.0/24 overlaps net (10.64.0.0/20): addresses in logs and rules would be ambiguous",
			},
		},
		"an address that AWS keeps": {
			network + `e ec2/vpcEndpoint {"vpcId":"@net","vpcEndpointType":"Interface","serviceName":"com.amazonaws.us-east-1.logs","subnetIds":["@a"],"subnetConfigurations":[{"subnetId":"@a","ipv4":"10.64.0.3"}]}
			f ec2/vpcEndpoint {"vpcId":"@net","vpcEndpointType":"Interface","serviceName":"com.amazonaws.us-east-1.logs","subnetConfigurations":[{"subnetId":"@a","ipv4":"10.64.1.9"}]}`,
			[]string{
				"subnetConfigurations.0.ipv4: AWS keeps 10.64.0.3 for itself: the first four addresses and the last one of 10.64.0.0/24",
				"subnetConfigurations.0.ipv4: 10.64.1.9 is in none of its subnets",
			},
		},
		"an address twice": {
			network + `e ec2/vpcEndpoint {"vpcId":"@net","vpcEndpointType":"Interface","serviceName":"com.amazonaws.us-east-1.logs","subnetConfigurations":[{"subnetId":"@a","ipv4":"10.64.0.9"}]}
			f ec2/vpcEndpoint {"vpcId":"@net","vpcEndpointType":"Interface","serviceName":"com.amazonaws.us-east-1.ecr.api","subnetConfigurations":[{"subnetId":"@a","ipv4":"10.64.0.9"}]}`,
			[]string{"subnetConfigurations.0.ipv4: e has 10.64.0.9 too"},
		},
		"a number twice, the other way is another number": {
			network + `acl ec2/networkAcl {"vpcId":"@net"}
			r ec2/networkAclRule {"networkAclId":"@acl","egress":true,"ruleNumber":100,"ruleAction":"allow","protocol":"-1","cidrBlock":"10.0.0.0/8"}
			s ec2/networkAclRule {"networkAclId":"@acl","egress":true,"ruleNumber":100,"ruleAction":"allow","protocol":"-1","cidrBlock":"10.0.0.0/8"}
			t ec2/networkAclRule {"networkAclId":"@acl","egress":false,"ruleNumber":100,"ruleAction":"allow","protocol":"-1","cidrBlock":"10.0.0.0/8"}`,
			[]string{"ruleNumber: r has the number 100 too"},
		},
		"more rules than an ACL has": {
			network + `acl ec2/networkAcl {"vpcId":"@net"}` + many, []string{"networkAclId: acl has more than 20 rules for a direction"},
		},
		"a protocol":           {network + rule + `"ipProtocol":"tpc","fromPort":1,"toPort":1}`, []string{`ipProtocol: "tpc" is not a valid protocol`}},
		"a port":               {network + rule + `"ipProtocol":"tcp","fromPort":70000,"toPort":70000}`, []string{"fromPort: 70000 is not a valid port"}},
		"ports the wrong way":  {network + rule + `"ipProtocol":"tcp","fromPort":443,"toPort":80}`, []string{"fromPort: it is 443, behind toPort 80"}},
		"no ports":             {network + rule + `"ipProtocol":"udp"}`, []string{"fromPort: protocol udp needs ports"}},
		"all, and yet a port":  {network + rule + `"ipProtocol":"-1","fromPort":443,"toPort":443}`, []string{"fromPort: with all protocols, ports mean nothing"}},
		"two ends of one rule": {network + rule + `"ipProtocol":"tcp","fromPort":1,"toPort":1,"cidrIpv4":"10.0.0.0/8"}`, []string{"referencedSecurityGroupId: cidrIpv4 and referencedSecurityGroupId exclude each other"}},
		"no end at all": {
			network + `r vpc/securityGroupIngressRule {"securityGroupId":"@agent","ipProtocol":"tcp","fromPort":1,"toPort":1}`,
			[]string{": none of cidrIpv4, cidrIpv6, prefixListId or referencedSecurityGroupId is set"},
		},
		"values": {
			network + `v ec2/vpc {"instanceTenancy":"shared"}
			lt ec2/launchTemplate {"instanceType":"m7g","imageId":"debian","metadataOptions":{"httpTokens":"yes","httpPutResponseHopLimit":65}}
			lg cloudwatch/logGroup {"name":"/postern/prod","retentionInDays":401}
			fl ec2/flowLog {"vpcId":"@net","trafficType":"EVERYTHING","logDestinationType":"s3","maxAggregationInterval":30}
			k kms/key {"deletionWindowInDays":3}
			s secretsmanager/secret {"name":"prod/github","recoveryWindowInDays":3}`,
			[]string{
				`instanceTenancy: "shared" is not one of its values`, `imageId: "debian" does not look like one`, `instanceType: "m7g" does not look like one`,
				"metadataOptions.httpPutResponseHopLimit: 65 is out of range", `metadataOptions.httpTokens: "yes" is not one of its values`,
				`retentionInDays: "401" is not one of its values`, `maxAggregationInterval: "30" is not one of its values`, `trafficType: "EVERYTHING" is not one of its values`,
				"deletionWindowInDays: 3 is out of range", `recoveryWindowInDays: "3" is not one of its values`,
			},
		},
		"names": {
			network + `lb lb/loadBalancer {"name":"a-name-that-is-far-too-long-for-a-balancer","subnets":["@a"]}
			tg lb/targetGroup {"name":"-x","port":3128}
			a-resource-name-that-is-too-long lb/targetGroup {"port":3128}
			sg2 ec2/securityGroup {"vpcId":"@net","description":"the agent's own"}
			role iam/role {"name":"a role"}
			b s3/bucketV2 {"bucket":"Audit"}
			tagged ec2/vpc {"tags":{"aws:x":"y"}}`,
			[]string{
				`name: "a-name-that-is-far-too-long-for-a-balancer" has 42 characters; it may have from 1 to 32`, `name: "-x" has other characters than AWS takes`,
				`its generated name: "a-resource-name-that-is-too-long-1234567" has 40 characters; it may have from 1 to 32`,
				`description: "the agent's own" has other characters than AWS takes`, `name: "a role" has other characters than AWS takes`,
				`bucket: "Audit" has other characters than AWS takes`, `tags: "aws:x" cannot name a tag: 1 to 128 characters, not beginning with aws:`,
			},
		},
		"references": {
			network + `t ec2/routeTable {"vpcId":"@agent"}
			x ec2/subnet {"vpcId":"my-vpc","cidrBlock":"10.64.1.0/24"}
			y ec2/routeTableAssociation {"subnetId":"@a","routeTableId":"@a"}`,
			[]string{"vpcId: it refers to agent (SecurityGroup)", `vpcId: "my-vpc" is not an ID of a vpc`, "routeTableId: it refers to a (Subnet)"},
		},
		"ARNs": {
			network + `s ec2/vpcEndpointService {"networkLoadBalancerArns":["arn:aws:elasticloadbalancing:prod"],"allowedPrincipals":["everybody"]}`,
			[]string{
				`allowedPrincipals.0: "everybody" does not look like one`, `networkLoadBalancerArns.0: "arn:aws:elasticloadbalancing:prod" is not a valid ARN`,
				`networkLoadBalancerArns.0: "arn:aws:elasticloadbalancing:prod" is not an ID of a loadBalancer`,
			},
		},
		"Object Lock": {
			`b s3/bucketV2 {"bucket":"audit"}
			l s3/bucketObjectLockConfigurationV2 {"bucket":"@b","rule":{"defaultRetention":{"mode":"COMPLIANCE","days":400,"years":1}}}
			c s3/bucketV2 {"bucket":"audit2","objectLockEnabled":true}
			v s3/bucketVersioningV2 {"bucket":"@c","versioningConfiguration":{"status":"Suspended"}}`,
			[]string{
				"bucket: b keeps no versions, and Object Lock locks versions", "bucket: b was not created for Object Lock, and cannot be given it by this resource",
				"rule.defaultRetention: a retention needs exactly one of days and years", "versioningConfiguration.status: c has Object Lock: its versioning cannot be suspended",
			},
		},
		"endpoints": {
			network + `s3 ec2/vpcEndpoint {"vpcId":"@net","serviceName":"com.amazonaws.us-east-1.s3","subnetIds":["@a"]}
			logs ec2/vpcEndpoint {"vpcId":"@net","serviceName":"com.amazonaws.us-east-1.logs"}
			nowhere ec2/vpcEndpoint {"vpcId":"@net","serviceName":"logs","vpcEndpointType":"Interface"}`,
			[]string{
				"vpcEndpointType: only s3 and dynamodb have Gateway endpoints, not com.amazonaws.us-east-1.logs", `serviceName: "logs" does not look like one`,
				"subnetIds: an Interface endpoint without a subnet has no address", "subnetIds: a Gateway endpoint has none",
			},
		},
		"Fargate": {
			`t ecs/taskDefinition {"family":"proxy","requiresCompatibilities":["FARGATE"],"networkMode":"bridge","cpu":"512","memory":"512","containerDefinitions":"["}`,
			[]string{"containerDefinitions: it is not valid JSON", `memory: "512" does not go with cpu 512`, `networkMode: Fargate takes only awsvpc, and this is "bridge"`},
		},
		"sizes": {`g autoscaling/group {"minSize":2,"maxSize":1}`, []string{"launchTemplate: an Auto Scaling group needs to know what to launch", "minSize: it is 2, and maxSize 1"}},
		"no JSON": {
			`p iam/policy {"policy":"{\"Version\":"}`,
			[]string{"policy: the document is not valid JSON: unexpected end of JSON input"},
		},
		"documents": {
			`p iam/policy {"policy":` + policy(`{"Effect":"Permit","Action":"s3.GetObject","Resource":"bucket","Principal":"*","Condition":{"Equals":{"SourceIp":[]}}},{"Sid":"x y","Effect":"Allow","NotAction":"s3:*","Comment":1}`) + `}`,
			[]string{
				`policy.Statement.0.Action: s3.GetObject is not a valid action`, `policy.Statement.0.Condition: "Equals" is not a valid operator`, `policy.Statement.0.Condition.Equals: "SourceIp" is not a valid condition key`,
				"policy.Statement.0.Condition.Equals.SourceIp: it has no value, so it never holds", "policy.Statement.0.Effect: Permit is not a valid effect", "policy.Statement.0.Principal: a policy of an identity has no principal: it is the identity",
				"policy.Statement.0.Resource: bucket is not a valid ARN", `policy.Statement.1.Comment: a statement has no element "Comment"`,
				"policy.Statement.1.Resource: a statement needs exactly one", `policy.Statement.1.Sid: "x y" is not a Sid that every service accepts`,
			},
		},
		"an old document": {
			`p iam/policy {"policy":"{\"Version\":\"2008-10-17\",\"Statement\":[]}"}`,
			[]string{"policy: its version is 2008-10-17: variables are not replaced in it", "policy: the document has no statement"},
		},
		"trust": {
			`r iam/role {"assumeRolePolicy":` + policy(`{"Effect":"Allow","Principal":{"Service":"ecs-tasks"},"Action":"sts:AssumeRole","Resource":"*"}`) + `}`,
			[]string{"assumeRolePolicy.Statement.0.Principal.Service: ecs-tasks is not a valid service", "assumeRolePolicy.Statement.0.Resource: a trust policy has no resource: it is the role's own"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, p := range check.Run(build(t, strings.ReplaceAll(c.resources, "\n\t\t\t\t{", "{")), nil) {
				require.NotEmpty(t, p.Do)
				got = append(got, p.Property+": "+p.What)
			}
			slices.Sort(got)
			slices.Sort(c.want)
			require.Equal(t, c.want, got)
		})
	}
}

// A reference to something that is not declared cannot be created.
func TestReferencesExist(t *testing.T) {
	t.Parallel()
	g := build(t, `v ec2/vpc {"cidrBlock":"10.64.0.0/20"}`)
	g.Resources[0].Dependencies = []string{"urn:pulumi:prod::postern::aws:ec2/vpc:Vpc::gone"}
	found := check.Run(g, nil)
	require.Len(t, found, 1)
	require.Contains(t, found[0].Error(), "v (Vpc): it refers to urn:pulumi:prod::postern::aws:ec2/vpc:Vpc::gone, which is not declared")
}
