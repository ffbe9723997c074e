package aws

import (
	"context"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/postern/postern/cloud"
	"github.com/postern/postern/graph"
)

const (
	tokenKey   = "aws:kms/key:Key"
	tokenAlias = "aws:kms/alias:Alias"
	tokenBlock = "aws:ec2/vpcBlockPublicAccessOptions:VpcBlockPublicAccessOptions"
)

// key describes a live key of the stack, by the alias under which it was found.
type key struct {
	id, policy       string
	enabled, rotates bool
}

// readKeys reads the keys to which the plan's aliases lead. A missing alias has none.
func (a *Account) readKeys(ctx context.Context, g *graph.Graph, l *live) error {
	aliases := map[string]bool{}
	for _, r := range g.OfType(tokenAlias) {
		aliases[r.String("name")] = true
	}
	if len(aliases) == 0 {
		return nil
	}
	client := kms.NewFromConfig(a.cfg)
	for p := kms.NewListAliasesPaginator(client, &kms.ListAliasesInput{}); p.HasMorePages(); {
		page, err := p.NextPage(ctx)
		if err != nil {
			return explain("list the aliases of keys", err)
		}
		for _, x := range page.Aliases {
			name := aws.ToString(x.AliasName)
			if !aliases[name] || x.TargetKeyId == nil {
				continue
			}
			k := key{id: *x.TargetKeyId}
			policy, err := client.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: x.TargetKeyId, PolicyName: aws.String("default")})
			if err != nil {
				return explain("read the policy of key "+name, err)
			}
			about, err := client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: x.TargetKeyId})
			if err != nil {
				return explain("read key "+name, err)
			}
			rotation, err := client.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: x.TargetKeyId})
			if err != nil {
				return explain("read the rotation of key "+name, err)
			}
			k.policy, k.enabled, k.rotates = aws.ToString(policy.Policy), about.KeyMetadata.KeyState == kmstypes.KeyStateEnabled, rotation.KeyRotationEnabled
			l.keys[name] = k
		}
	}
	return nil
}

// keys compares who may use the keys of the secrets and the audit log, and whether the keys can
// still be used.
func (d *differ) keys() {
	for _, alias := range d.g.OfType(tokenAlias) {
		r, name := d.g.Refers(alias, "targetKeyId", tokenKey), alias.String("name")
		if r == nil {
			continue
		}
		live, there := d.live.keys[name]
		found := func(risk, do, what string) {
			d.found = append(d.found, cloud.Difference{Risk: risk, Resource: r.Name, ID: live.id, What: what, Do: do})
		}
		if !there {
			found(cloud.High, again, "no key has the alias "+name)
			continue
		}
		if want, ok := r.Value("policy").(string); ok && !samePolicy(want, live.policy) {
			found(cloud.High, again, "its policy is not as planned: "+readable(live.policy))
		}
		if !live.enabled {
			found(cloud.High, "enable it, or cancel its deletion", "it cannot be used: data encrypted with it cannot be read")
		}
		if rotate, _ := r.Inputs["enableKeyRotation"].(bool); rotate && !live.rotates {
			found(cloud.Medium, again, "it is no longer renewed every year")
		}
	}
}

// readBlock reads the account's VPC Block Public Access, if the plan owns it.
func (a *Account) readBlock(ctx context.Context, g *graph.Graph, l *live) error {
	if len(g.OfType(tokenBlock)) == 0 {
		return nil
	}
	out, err := ec2.NewFromConfig(a.cfg).DescribeVpcBlockPublicAccessOptions(ctx, &ec2.DescribeVpcBlockPublicAccessOptionsInput{})
	if err != nil {
		return explain("read VPC Block Public Access", err)
	}
	if o := out.VpcBlockPublicAccessOptions; o != nil && o.State != types.VpcBlockPublicAccessStateDefaultState {
		l.block = string(o.InternetGatewayBlockMode)
	}
	return nil
}

// block compares VPC Block Public Access: the layer that holds whatever routes
// and gateways somebody adds.
func (d *differ) block() {
	for _, r := range d.g.OfType(tokenBlock) {
		if want := r.String("internetGatewayBlockMode"); want != d.live.block {
			mode := d.live.block
			if mode == "" || strings.EqualFold(mode, "off") {
				mode = "off"
			}
			d.found = append(d.found, cloud.Difference{Risk: cloud.High, Resource: r.Name, What: "VPC Block Public Access is " + mode + ", and " + want + " is planned", Do: again})
		}
	}
}
