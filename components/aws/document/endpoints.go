package document

import "slices"

// An endpoint's policy says who may do what through it. Each policy here requires that the caller
// is of the account and, where the resource is ours, that the resource is too. So a stranger's
// credentials and a stranger's bucket are useless behind it.

func endpoint(p Place, statements ...Statement) Policy {
	for i := range statements {
		statements[i].Effect, statements[i].Principal = Allow, Anybody
		if statements[i].Condition == nil {
			statements[i].Condition = within(p)
		}
	}
	return NewPolicy(statements...)
}

// SecretsEndpoint returns the policy of the endpoint for Secrets Manager.
func SecretsEndpoint(p Place, secrets []ARN) Policy {
	return endpoint(p, Statement{Sid: "Secrets", Action: read, Resource: secrets})
}

// LogsEndpoint returns the policy of the endpoint for CloudWatch Logs.
func LogsEndpoint(p Place, groups ...string) Policy {
	var streams []ARN
	for _, g := range groups {
		streams = append(streams, p.LogStreams(g))
	}
	return endpoint(p, Statement{Sid: "Logs", Action: ship, Resource: streams})
}

// RegistryEndpoint returns the policy of both endpoints for ECR.
func RegistryEndpoint(p Place, images ...string) Policy {
	var repositories []ARN
	for _, i := range images {
		if r := p.Repository(i); !slices.Contains(repositories, r) {
			repositories = append(repositories, r)
		}
	}
	return endpoint(p,
		Statement{Sid: "Registry", Action: []string{"ecr:GetAuthorizationToken"}, Resource: Everything, Condition: Condition{"StringEquals": {"aws:PrincipalAccount": {p.Account}}}},
		Statement{Sid: "Images", Action: pull, Resource: repositories})
}

// StorageEndpoint returns the policy of the endpoint for S3. It allows the bundles and the layers
// of images. The layers are in a bucket of AWS's own, and are requested with URLs that ECR has
// signed.
func StorageEndpoint(p Place, bundles ...ARN) Policy {
	layers := Statement{
		Sid: "Layers", Action: []string{"s3:GetObject"}, Resource: []ARN{p.LayerBucket().Below("/*")},
		// The caller is ECR, so no account of ours can be required.
		Condition: Condition{"Bool": {"aws:SecureTransport": {"true"}}},
	}
	out := []Statement{layers}
	if len(bundles) > 0 {
		out = append(out,
			Statement{Sid: "Find", Action: []string{"s3:ListBucket"}, Resource: bundles},
			Statement{Sid: "Bundles", Action: []string{"s3:GetObject", "s3:PutObject"}, Resource: below(bundles)})
	}
	return endpoint(p, out...)
}

func below(buckets []ARN) []ARN {
	var out []ARN
	for _, b := range buckets {
		out = append(out, b.Below("/*"))
	}
	return out
}
