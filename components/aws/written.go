package aws

import (
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/components/aws/document"
)

// written is a document that is built when everything that it names is known.
// build gets the values of in, in that order.
func written(build func(v []string) string, in ...pulumi.StringInput) pulumi.StringOutput {
	return pulumi.StringArray(in).ToStringArrayOutput().ApplyT(build).(pulumi.StringOutput)
}

// arns are the names as such.
func arns(names []string) []document.ARN {
	out := make([]document.ARN, 0, len(names))
	for _, n := range names {
		out = append(out, document.ARN(n))
	}
	return out
}

// place returns the place of the stack.
func (a *EnvironmentArgs) place() document.Place {
	return document.Place{Partition: a.AWS.Partition(), Region: a.AWS.Region, Account: a.AWS.Account}
}
