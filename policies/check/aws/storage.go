package aws

import "github.com/postern/postern/graph"

// storage checks what only several resources together say about a bucket.
func (c *checker) storage() {
	const bucketType = "aws:s3/bucketV2:BucketV2"
	versioned := map[*graph.Resource]bool{}
	for _, v := range c.g.OfType("aws:s3/bucketVersioningV2:BucketVersioningV2") {
		each(v, "versioningConfiguration.status", func(_ string, status any) {
			if status == "Enabled" {
				versioned[c.g.Refers(v, "bucket", bucketType)] = true
			}
		})
	}
	locked := map[*graph.Resource]bool{}
	for _, l := range c.g.OfType("aws:s3/bucketObjectLockConfigurationV2:BucketObjectLockConfigurationV2") {
		b := c.g.Refers(l, "bucket", bucketType)
		if b == nil {
			continue
		}
		locked[b] = true
		if b.Inputs["objectLockEnabled"] != true {
			c.report(l, "bucket", "set objectLockEnabled on the bucket", "%s was not created for Object Lock, and cannot be given it by this resource", b.Name)
		}
		if !versioned[b] && b.Inputs["objectLockEnabled"] != true {
			c.report(l, "bucket", "enable its versioning", "%s keeps no versions, and Object Lock locks versions", b.Name)
		}
		rule, _ := l.Inputs["rule"].(map[string]any)
		retention, _ := rule["defaultRetention"].(map[string]any)
		if retention != nil && (retention["days"] != nil) == (retention["years"] != nil) {
			c.report(l, "rule.defaultRetention", "write one of days and years", "a retention needs exactly one of days and years")
		}
	}
	for _, v := range c.g.OfType("aws:s3/bucketVersioningV2:BucketVersioningV2") {
		b := c.g.Refers(v, "bucket", bucketType)
		if b == nil || versioned[b] {
			continue
		}
		if locked[b] || b.Inputs["objectLockEnabled"] == true {
			c.report(v, "versioningConfiguration.status", "write Enabled", "%s has Object Lock: its versioning cannot be suspended", b.Name)
		}
	}
	for _, group := range c.g.OfType("aws:autoscaling/group:Group") {
		if !set(group, "launchTemplate") && !set(group, "launchConfiguration") && !set(group, "mixedInstancesPolicy") {
			c.report(group, "launchTemplate", "refer to a launch template", "an Auto Scaling group needs to know what to launch")
		}
	}
	for _, flow := range c.g.OfType("aws:ec2/flowLog:FlowLog") {
		c.exactlyOne(flow, "vpcId", "subnetId", "eniId", "transitGatewayId", "transitGatewayAttachmentId")
		if kind := flow.String("logDestinationType"); kind == "cloud-watch-logs" && !set(flow, "iamRoleArn") {
			c.report(flow, "iamRoleArn", "give it a role", "a flow log to CloudWatch Logs needs one")
		}
	}
}
