package document

import "strings"

// ARN names a resource (AWS General Reference, "Amazon Resource Names"). In a
// policy it may have wildcards.
type ARN string

// Below is every resource whose name continues with that suffix.
func (a ARN) Below(suffix string) ARN { return a + ARN(suffix) }

// Place is where a stack is.
type Place struct{ Partition, Region, Account string }

// ARN is a resource of a service in the place.
func (p Place) ARN(service, resource string) ARN {
	return ARN(strings.Join([]string{"arn", p.Partition, service, p.Region, p.Account, resource}, ":"))
}

// Root is the account itself as a principal: whoever its administrators let.
func (p Place) Root() ARN {
	return ARN(strings.Join([]string{"arn", p.Partition, "iam", "", p.Account, "root"}, ":"))
}

// Bucket is a bucket by its name; buckets' ARNs have no place.
func (p Place) Bucket(name string) ARN {
	return ARN(strings.Join([]string{"arn", p.Partition, "s3", "", "", name}, ":"))
}

// LayerBucket is where ECR of the region keeps the layers of images (Amazon ECR
// User Guide, "Minimum Amazon S3 bucket permissions").
func (p Place) LayerBucket() ARN { return p.Bucket("prod-" + p.Region + "-starport-layer-bucket") }

// Repository is that of an image of the place's own registry.
func (p Place) Repository(image string) ARN {
	_, name, _ := strings.Cut(image, "/")
	name, _, _ = strings.Cut(name, "@")
	return p.ARN("ecr", "repository/"+name)
}

// LogGroup is a log group by its name, LogStreams its streams.
func (p Place) LogGroup(name string) ARN { return p.ARN("logs", "log-group:"+name) }

// LogStreams are all streams of a log group.
func (p Place) LogStreams(name string) ARN { return p.LogGroup(name).Below(":*") }

// Policy is a policy, or all policies below a path that ends with an asterisk.
func (p Place) Policy(name string) ARN {
	return ARN(strings.Join([]string{"arn", p.Partition, "iam", "", p.Account, "policy/" + name}, ":"))
}

// Role is a role, or all roles below a path that ends with an asterisk.
func (p Place) Role(name string) ARN {
	return ARN(strings.Join([]string{"arn", p.Partition, "iam", "", p.Account, "role/" + name}, ":"))
}
