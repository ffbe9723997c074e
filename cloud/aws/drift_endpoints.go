package aws

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/postern/postern/cloud"
)

// endpoints compares the VPC endpoints, and what each lets through.
func (d *differ) endpoints() {
	for _, e := range d.live.endpoints {
		id := aws.ToString(e.VpcEndpointId)
		r := d.planned[id]
		if r == nil {
			closed := d.closedVPC(aws.ToString(e.VpcId))
			d.report(worst(closed), id, "delete it", "an endpoint to %s in %s is not planned%s", aws.ToString(e.ServiceName), d.called(aws.ToString(e.VpcId)), wayOut(closed))
			continue
		}
		if want := r.String("serviceName"); want != "" && want != aws.ToString(e.ServiceName) {
			d.report(cloud.Critical, id, again, "it leads to %s, planned is %s", aws.ToString(e.ServiceName), want)
		}
		if want, ok := r.Value("policy").(string); ok && want != "" && !samePolicy(want, aws.ToString(e.PolicyDocument)) {
			d.report(cloud.High, id, again, "its policy is not the planned one: %s", aws.ToString(e.PolicyDocument))
		}
		var want []string
		for _, urn := range r.PropertyDependencies["securityGroupIds"] {
			want = append(want, d.ids[urn])
		}
		for _, g := range e.Groups {
			if got := aws.ToString(g.GroupId); len(want) > 0 && !slices.Contains(want, got) {
				d.report(cloud.High, id, again, "it has security group %s, which is not planned", d.called(got))
			}
		}
		var tables []string
		for _, t := range d.live.tables {
			if table := d.planned[aws.ToString(t.RouteTableId)]; table != nil && slices.Contains(d.gateways(table), id) {
				tables = append(tables, aws.ToString(t.RouteTableId))
			}
		}
		for _, t := range e.RouteTableIds {
			if !slices.Contains(tables, t) {
				d.report(worst(d.closedTable(t)), id, again, "it is in route table %s, which is not planned", d.called(t))
			}
		}
	}
}

// strangers finds what leads out of a VPC, or is in it, and is never planned.
func (d *differ) strangers() {
	ours := func(vpc string) bool { return d.planned[vpc] != nil }
	for _, g := range d.live.gateways {
		id := aws.ToString(g.InternetGatewayId)
		for _, a := range g.Attachments {
			if vpc := aws.ToString(a.VpcId); d.planned[id] == nil && ours(vpc) {
				d.report(worst(d.closedVPC(vpc)), id, "detach it", "an internet gateway that is not planned is attached to %s%s", d.called(vpc), wayOut(d.closedVPC(vpc)))
			}
		}
	}
	for _, n := range d.live.nats {
		if id, vpc := aws.ToString(n.NatGatewayId), aws.ToString(n.VpcId); d.planned[id] == nil {
			d.report(worst(d.closedVPC(vpc)), id, "delete it", "a NAT gateway in %s is not planned", d.called(vpc))
		}
	}
	const out = "to another network that is not planned"
	for _, p := range d.live.peerings {
		for _, side := range []*types.VpcPeeringConnectionVpcInfo{p.RequesterVpcInfo, p.AccepterVpcInfo} {
			if side != nil && ours(aws.ToString(side.VpcId)) {
				d.report(worst(d.closedVPC(aws.ToString(side.VpcId))), aws.ToString(p.VpcPeeringConnectionId), "delete it", "a peering connects %s %s", d.called(aws.ToString(side.VpcId)), out)
			}
		}
	}
	for _, t := range d.live.transits {
		d.report(worst(d.closedVPC(aws.ToString(t.VpcId))), aws.ToString(t.TransitGatewayAttachmentId), "delete it", "a transit gateway connects %s %s", d.called(aws.ToString(t.VpcId)), out)
	}
	for _, v := range d.live.vpns {
		for _, a := range v.VpcAttachments {
			if ours(aws.ToString(a.VpcId)) && a.State != types.AttachmentStatusDetached {
				d.report(worst(d.closedVPC(aws.ToString(a.VpcId))), aws.ToString(v.VpnGatewayId), "detach it", "a VPN gateway connects %s %s", d.called(aws.ToString(a.VpcId)), out)
			}
		}
	}
	for _, e := range d.live.egressOnly {
		for _, a := range e.Attachments {
			if ours(aws.ToString(a.VpcId)) {
				d.report(worst(d.closedVPC(aws.ToString(a.VpcId))), aws.ToString(e.EgressOnlyInternetGatewayId), "delete it", "an egress-only internet gateway that is not planned is attached to %s", d.called(aws.ToString(a.VpcId)))
			}
		}
	}
	for _, i := range d.live.interfaces {
		subnet := aws.ToString(i.SubnetId)
		if i.Association != nil && d.closed(subnet) {
			d.report(cloud.Critical, aws.ToString(i.NetworkInterfaceId), "disassociate it", "a network interface in %s has the public address %s", d.called(subnet), aws.ToString(i.Association.PublicIp))
		}
		if !aws.ToBool(i.SourceDestCheck) && d.closed(subnet) && i.InterfaceType == types.NetworkInterfaceTypeInterface {
			d.report(cloud.High, aws.ToString(i.NetworkInterfaceId), "turn the check on again", "a network interface in %s may forward others' packets (source/destination check off)", d.called(subnet))
		}
	}
	d.machines()
}

// machines compares each agent's machines with the plan.
func (d *differ) machines() {
	for _, i := range d.live.instances {
		id, subnet := aws.ToString(i.InstanceId), aws.ToString(i.SubnetId)
		if !d.closed(subnet) {
			continue
		}
		if i.IamInstanceProfile != nil {
			d.report(cloud.Critical, id, "disassociate it", "a machine in %s has the instance profile %s: agents have no identity in AWS", d.called(subnet), aws.ToString(i.IamInstanceProfile.Arn))
		}
		if o := i.MetadataOptions; o != nil && o.HttpEndpoint == types.InstanceMetadataEndpointStateEnabled &&
			(o.HttpTokens != types.HttpTokensStateRequired || aws.ToInt32(o.HttpPutResponseHopLimit) > 1) {
			d.report(cloud.High, id, "terminate it: another one takes its place", "a machine in %s has a metadata service with tokens %s and hop limit %d", d.called(subnet), o.HttpTokens, aws.ToInt32(o.HttpPutResponseHopLimit))
		}
		if len(i.NetworkInterfaces) > 1 {
			d.report(cloud.Critical, id, "detach it", "a machine in %s has %d network interfaces", d.called(subnet), len(i.NetworkInterfaces))
		}
		if tag(i.Tags, "aws:autoscaling:groupName") == "" {
			d.report(cloud.High, id, "find out who started it, and terminate it", "a machine in %s belongs to no Auto Scaling group", d.called(subnet))
		}
	}
}

// madeUp matches the parts of IDs and ARNs that the plan's examples make up.
var madeUp = regexp.MustCompile(`\b([a-z]+)-[0-9a-f]{8,17}\b|\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b|-[A-Za-z0-9?]{6,7}("|$|:|/)`)

// samePolicy reports whether two policy documents are equal, whatever the order of their parts,
// apart from what AWS makes up: IDs, and the random ends of names.
func samePolicy(a, b string) bool {
	x, errX := canonical(a)
	y, errY := canonical(b)
	return errX == nil && errY == nil && x == y
}

func canonical(doc string) (string, error) {
	if strings.HasPrefix(doc, "%7B") { // IAM escapes it
		var err error
		if doc, err = url.QueryUnescape(doc); err != nil {
			return "", fmt.Errorf("read policy: %w", err)
		}
	}
	var v any
	if err := json.Unmarshal([]byte(doc), &v); err != nil {
		return "", fmt.Errorf("read policy: %w", err)
	}
	b, err := json.Marshal(sortedValue(v))
	if err != nil {
		return "", fmt.Errorf("read policy: %w", err)
	}
	return string(b), nil
}

// sortedValue returns v with every list sorted, single items as lists, and made-up parts replaced.
func sortedValue(v any) any {
	switch v := v.(type) {
	case string:
		return madeUp.ReplaceAllString(v, "$1-#$2")
	case []any:
		items := make([]any, 0, len(v))
		for _, item := range v {
			items = append(items, sortedValue(item))
		}
		slices.SortFunc(items, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		if len(items) == 1 {
			return items[0]
		}
		return items
	case map[string]any:
		for k := range v {
			v[k] = sortedValue(v[k])
		}
	}
	return v
}
