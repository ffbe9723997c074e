package document

import "strings"

// ARN names a resource (AWS General Reference, "Amazon Resource Names"). In a policy it may have
// wildcards.
type ARN string

// Below returns the ARN of every resource whose name continues with that suffix.
func (a ARN) Below(suffix string) ARN { return a + ARN(suffix) }

// Place is the account and region of a stack.
type Place struct{ Partition, Region, Account string }

// ARN returns the ARN of a service's resource in the place.
func (p Place) ARN(service, resource string) ARN {
	return ARN(strings.Join([]string{"arn", p.Partition, service, p.Region, p.Account, resource}, ":"))
}

// Root returns the account itself as a principal: everybody whom its administrators allow.
func (p Place) Root() ARN {
	return ARN(strings.Join([]string{"arn", p.Partition, "iam", "", p.Account, "root"}, ":"))
}

// Bucket returns the ARN of a bucket by its name. Buckets' ARNs have no account and no region.
func (p Place) Bucket(name string) ARN {
	return ARN(strings.Join([]string{"arn", p.Partition, "s3", "", "", name}, ":"))
}

// LayerBucket returns the bucket in which the region's ECR keeps the layers of images (Amazon ECR
// User Guide, "Minimum Amazon S3 bucket permissions").
func (p Place) LayerBucket() ARN { return p.Bucket("prod-" + p.Region + "-starport-layer-bucket") }

// Repository returns the ARN of an image's repository in the account's own registry.
func (p Place) Repository(image string) ARN {
	_, name, _ := strings.Cut(image, "/")
	name, _, _ = strings.Cut(name, "@")
	return p.ARN("ecr", "repository/"+name)
}

// LogGroup returns the ARN of a log group by its name.
func (p Place) LogGroup(name string) ARN { return p.ARN("logs", "log-group:"+name) }

// LogStreams returns the ARN of all streams of a log group.
func (p Place) LogStreams(name string) ARN { return p.LogGroup(name).Below(":*") }

// Policy returns the ARN of a policy. A path that ends with an asterisk means all policies below
// it.
func (p Place) Policy(name string) ARN {
	return ARN(strings.Join([]string{"arn", p.Partition, "iam", "", p.Account, "policy/" + name}, ":"))
}

// Profile returns the ARN of an instance profile. A path that ends with an asterisk means all below
// it.
func (p Place) Profile(name string) ARN {
	return ARN(strings.Join([]string{"arn", p.Partition, "iam", "", p.Account, "instance-profile/" + name}, ":"))
}

// Role returns the ARN of a role. A path that ends with an asterisk means all roles below it.
func (p Place) Role(name string) ARN {
	return ARN(strings.Join([]string{"arn", p.Partition, "iam", "", p.Account, "role/" + name}, ":"))
}
