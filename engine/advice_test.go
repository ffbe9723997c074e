package engine

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Messages as provider and engine write them (pulumi-aws 6.83, its upstream's
// "operation error" form).
func TestAdvised(t *testing.T) {
	t.Parallel()
	for message, does := range map[string]string{
		"no resource plugin 'pulumi-resource-aws' found in the workspace at version v6.83.0 or on your $PATH":                                                                                                                         "`pulumi plugin install resource aws v6.83.0`",
		"creating EC2 VPC: operation error EC2: CreateVpc, https response error StatusCode: 403, RequestID: x, api error UnauthorizedOperation: You are not authorized to perform this operation.":                                    `docs/aws.md, "Permissions"`,
		"creating IAM Role (a): operation error IAM: CreateRole, https response error StatusCode: 400, RequestID: x, api error Throttling: Rate exceeded":                                                                             "wait a minute and run this again",
		"creating Secrets Manager Secret (prod/a): operation error Secrets Manager: CreateSecret, api error InvalidRequestException: You can't create this secret because a secret with this name is already scheduled for deletion.": "restore-secret",
		"creating EC2 EIP: operation error EC2: AllocateAddress, api error AddressLimitExceeded: The maximum number of addresses has been reached.":                                                                                   "`nat: one`",
		"creating EC2 Subnet: operation error EC2: CreateSubnet, api error InvalidParameterValue: Value (eu-west-1d) for parameter availabilityZone is invalid.":                                                                      "the account has no zone eu-west-1d",
		"creating EC2 Subnet: operation error EC2: CreateSubnet, api error InvalidSubnet.Conflict: The CIDR '10.64.0.0/24' conflicts with another subnet":                                                                             "write others as network:",
		"unable to validate AWS credentials. Details: No valid credential sources found":                                                                                                                                              "set AWS_PROFILE",
		"AWS account ID not allowed: 111111111111": "of another account than the stack file's",
		"operation error STS: GetCallerIdentity, api error ExpiredToken: The security token included in the request is expired":                                           "sign in again",
		"creating IAM Policy: operation error IAM: CreatePolicy, api error EntityAlreadyExists: A policy called x already exists":                                         "name the stack differently",
		"operation error STS: GetCallerIdentity, exceeded maximum number of attempts, 3, request send failed: dial tcp: lookup sts.nowhere-1.amazonaws.com: no such host": "is the region right?",
	} {
		got := advised(message)
		require.Contains(t, got, does)
		require.Contains(t, got, message[:20], "the cloud's own words stay")
	}
	require.Equal(t, "node n1 rejected listeners", advised("node n1 rejected listeners"))
}
