package aws

import (
	"context"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/postern/postern/cloud"
	"github.com/postern/postern/graph"
)

const (
	tokenService      = "aws:ec2/vpcEndpointService:VpcEndpointService"
	tokenSecret       = "aws:secretsmanager/secret:Secret"
	tokenSecretPolicy = "aws:secretsmanager/secretPolicy:SecretPolicy"
)

// endpointService is a live endpoint service, with the principals that may ask for a connection.
type endpointService struct {
	id, name   string
	accepts    bool // only accepted callers are connected
	principals []string
}

// readEndpointServices reads the endpoint services that have the stack's tags.
func (a *Account) readEndpointServices(ctx context.Context, g *graph.Graph, l *live) error {
	if len(g.OfType(tokenService)) == 0 {
		return nil
	}
	client := ec2.NewFromConfig(a.cfg)
	services, err := all(ctx, ec2.NewDescribeVpcEndpointServiceConfigurationsPaginator(client, &ec2.DescribeVpcEndpointServiceConfigurationsInput{}),
		func(p *ec2.DescribeVpcEndpointServiceConfigurationsOutput) []types.ServiceConfiguration {
			return p.ServiceConfigurations
		})
	if err != nil {
		return explain("list endpoint services", err)
	}
	for _, s := range services {
		if tag(s.Tags, graph.TagStack) != g.Stack {
			continue
		}
		found := endpointService{id: aws.ToString(s.ServiceId), name: tag(s.Tags, graph.TagName), accepts: aws.ToBool(s.AcceptanceRequired)}
		principals, err := all(ctx, ec2.NewDescribeVpcEndpointServicePermissionsPaginator(client, &ec2.DescribeVpcEndpointServicePermissionsInput{ServiceId: s.ServiceId}),
			func(p *ec2.DescribeVpcEndpointServicePermissionsOutput) []types.AllowedPrincipal {
				return p.AllowedPrincipals
			})
		if err != nil {
			return explain("read who may connect to "+found.id, err)
		}
		for _, x := range principals {
			found.principals = append(found.principals, aws.ToString(x.Principal))
		}
		l.services = append(l.services, found)
	}
	return nil
}

// services compares who can connect to the proxies, because they add credentials to what they get.
func (d *differ) services() {
	for _, r := range d.g.OfType(tokenService) {
		i := slices.IndexFunc(d.live.services, func(s endpointService) bool { return s.name == r.Tag(graph.TagName) })
		if i < 0 {
			d.found = append(d.found, cloud.Difference{Risk: cloud.Medium, Resource: r.Name, What: "the endpoint service is not there", Do: again})
			continue
		}
		live := d.live.services[i]
		found := func(risk, what string) {
			d.found = append(d.found, cloud.Difference{Risk: risk, Resource: r.Name, ID: live.id, What: what, Do: again})
		}
		if required, _ := r.Inputs["acceptanceRequired"].(bool); required && !live.accepts {
			found(cloud.High, "everybody who asks is connected to the proxies: acceptance is no longer required")
		}
		planned, _ := r.Value("allowedPrincipals").([]any)
		for _, principal := range live.principals {
			if !slices.Contains(planned, any(principal)) {
				found(cloud.High, principal+" may ask to be connected to the proxies, which is not planned")
			}
		}
	}
}

// readSecretPolicies reads the policies of the plan's secrets: "" for a secret without one. A
// missing secret has none either.
func (a *Account) readSecretPolicies(ctx context.Context, g *graph.Graph, l *live) error {
	client := secretsmanager.NewFromConfig(a.cfg)
	for _, r := range g.OfType(tokenSecretPolicy) {
		secret := g.Refers(r, "secretArn", tokenSecret)
		if secret == nil {
			continue
		}
		name := secret.String("name")
		out, err := client.GetResourcePolicy(ctx, &secretsmanager.GetResourcePolicyInput{SecretId: aws.String(name)})
		if is(err, "ResourceNotFoundException") {
			continue
		}
		if err != nil {
			return explain("read the policy of secret "+name, err)
		}
		l.secrets[name] = aws.ToString(out.ResourcePolicy)
	}
	return nil
}

// secrets compares who may read the secrets.
func (d *differ) secrets() {
	for _, r := range d.g.OfType(tokenSecretPolicy) {
		secret := d.g.Refers(r, "secretArn", tokenSecret)
		if secret == nil {
			continue
		}
		found := func(risk, what string) {
			d.found = append(d.found, cloud.Difference{Risk: risk, Resource: secret.Name, ID: secret.String("name"), What: what, Do: again})
		}
		live, there := d.live.secrets[secret.String("name")]
		want, known := r.Value("policy").(string)
		switch {
		case !there:
			found(cloud.Medium, "the secret is not there")
		case live == "":
			found(cloud.High, "its policy was removed: whoever may read secrets in the account may read it")
		case known && !samePolicy(want, live):
			found(cloud.High, "its policy is not as planned: "+readable(live))
		}
	}
}

// readBoundary reads the document of a permissions boundary, once for all roles.
func (l *live) readBoundary(ctx context.Context, client *iam.Client, arn *string) error {
	if _, known := l.boundaries[*arn]; known {
		return nil
	}
	policy, err := client.GetPolicy(ctx, &iam.GetPolicyInput{PolicyArn: arn})
	if err != nil {
		return err
	}
	version, err := client.GetPolicyVersion(ctx, &iam.GetPolicyVersionInput{PolicyArn: arn, VersionId: policy.Policy.DefaultVersionId})
	if err != nil {
		return err
	}
	l.boundaries[*arn] = aws.ToString(version.PolicyVersion.Document)
	return nil
}

// boundary compares the most that a role may be allowed: whether there is a boundary, and its
// content.
func (d *differ) boundary(r *graph.Resource, live role) {
	if r.Inputs["permissionsBoundary"] == nil {
		return
	}
	if live.boundary == "" {
		d.report(cloud.High, live.name, again, "its permissions boundary was removed")
		return
	}
	planned := d.g.Refers(r, "permissionsBoundary", "aws:iam/policy:Policy")
	if planned == nil {
		return
	}
	got := d.live.boundaries[live.boundary]
	if want, ok := planned.Value("policy").(string); ok && !samePolicy(want, got) {
		d.report(cloud.High, live.name, again, "its permissions boundary %s is not as planned: %s", live.boundary[strings.LastIndexByte(live.boundary, '/')+1:], readable(got))
	}
}
