package engine

import (
	"regexp"
	"strings"
)

// advice says what to do about a message of a cloud's provider. The first match counts. The
// provider's own text stays, because it names the action and the resource.
var advice = []struct {
	message *regexp.Regexp
	do      string
}{
	{
		regexp.MustCompile(`no resource plugin 'pulumi-resource-([a-z]+)' found .*at version v([0-9.]+)`),
		"install the provider plugin $1 $2: `pulumi plugin install resource $1 v$2`; nothing was changed, and `preview --offline` needs no plugin",
	},
	{regexp.MustCompile(`NoCredentialProviders|No valid credential sources|failed to refresh cached credentials`), "set AWS_PROFILE, or sign in with the AWS CLI"},
	{regexp.MustCompile(`AWS account ID not allowed|AccountIDNotAllowed`), "these credentials are of another account than the stack file's: choose others, for example with AWS_PROFILE"},
	{regexp.MustCompile(`ExpiredToken|RequestExpired`), "the credentials have expired: sign in again, then run this again; it continues where it stopped"},
	{
		regexp.MustCompile(`AccessDenied|UnauthorizedOperation|is not authorized to perform|NotAuthorized`),
		"this identity lacks the permission: docs/aws.md, \"Permissions\"; then run this again; it continues where it stopped",
	},
	{regexp.MustCompile(`Throttling|RequestLimitExceeded|TooManyRequests|SlowDown`), "AWS has throttled us: wait a minute and run this again; it continues where it stopped"},
	{
		regexp.MustCompile(`(?i)secret.*(scheduled for deletion|marked (for|as) delet)`),
		"a secret of that name was deleted less than 30 days ago: `aws secretsmanager restore-secret`, then `pulumi import` it, or choose another name",
	},
	{regexp.MustCompile(`ResourceExistsException|EntityAlreadyExists|BucketAlreadyExists|ResourceAlreadyExists`), "somebody else made something of that name: remove it, import it, or name the stack differently"},
	{regexp.MustCompile(`LimitExceeded|QuotaExceeded`), "the account's quota is used up: ask AWS for more (Service Quotas), or use fewer zones or `nat: one`"},
	{
		regexp.MustCompile(`InvalidParameterValue: Value \(([a-z0-9-]+)\) for parameter availabilityZone`),
		"the account has no zone $1: write its letters as zones: [a, b]",
	},
	{regexp.MustCompile(`InvalidSubnet\.Conflict|InvalidVpcRange|CidrConflict`), "the range is taken, or not possible: write others as network: in the stack file"},
	{regexp.MustCompile(`dial tcp|no such host|could not connect to the endpoint`), "is there a network, and is the region right?"},
}

// advised returns the message, with advice if there is any.
func advised(message string) string {
	for _, a := range advice {
		if at := a.message.FindStringSubmatchIndex(message); at != nil {
			return strings.TrimRight(message, ".\n") + "; " + string(a.message.ExpandString(nil, a.do, message, at))
		}
	}
	return message
}
