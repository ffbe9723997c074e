package cloud_test

import (
	"fmt"
	"strings"
	"testing"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/cloud/aws"
)

// Who may be connected to the proxies, who may read a secret, and what the most
// is that roles may be allowed: all of it is said by policies that somebody can
// change without making anything.
func TestDriftOfAccess(t *testing.T) {
	t.Parallel()
	b, a := built(t, "prod-aws", "ap-northeast-2")
	const wide = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`
	service := b.first("aws:ec2/vpcEndpointService:VpcEndpointService", "")
	boundary := b.first("aws:iam/policy:Policy", "-boundary")
	secret := b.first("aws:secretsmanager/secret:Secret", "fleet-ca-key")
	for _, change := range []struct {
		risk, what, resource string
		do                   func() error
	}{
		{aws.High, "arn:aws:iam::210987654321:root may ask to be connected to the proxies", "ap-northeast-2-gate-service", func() error {
			_, err := b.ec2.ModifyVpcEndpointServicePermissions(t.Context(), &ec2.ModifyVpcEndpointServicePermissionsInput{ServiceId: &service, AddAllowedPrincipals: []string{"arn:aws:iam::210987654321:root"}})
			return err
		}},
		{aws.High, "acceptance is not required any more", "ap-northeast-2-gate-service", func() error {
			_, err := b.ec2.ModifyVpcEndpointServiceConfiguration(t.Context(), &ec2.ModifyVpcEndpointServiceConfigurationInput{ServiceId: &service, AcceptanceRequired: awssdk.Bool(false)})
			return err
		}},
		{aws.High, "its permissions boundary ap-northeast-2-boundary-1234567 is not as planned", "ap-northeast-2-control-task", func() error {
			_, err := b.iam.CreatePolicyVersion(t.Context(), &iam.CreatePolicyVersionInput{PolicyArn: &boundary, PolicyDocument: awssdk.String(wide), SetAsDefault: true})
			return err
		}},
		{aws.High, "its policy is not as planned", "ap-northeast-2-secrets-postern/ap-northeast-2/fleet-ca-key", func() error {
			_, err := b.secrets.PutResourcePolicy(t.Context(), &secretsmanager.PutResourcePolicyInput{SecretId: &secret, ResourcePolicy: awssdk.String(
				`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::210987654321:root"},"Action":"secretsmanager:GetSecretValue","Resource":"*"}]}`,
			)})
			return err
		}},
		{aws.High, "its policy was removed", "ap-northeast-2-secrets-postern/ap-northeast-2/fleet-ca-key", func() error {
			_, err := b.secrets.DeleteResourcePolicy(t.Context(), &secretsmanager.DeleteResourcePolicyInput{SecretId: &secret})
			return err
		}},
		{aws.Medium, "the secret is not there", "ap-northeast-2-secrets-postern/ap-northeast-2/fleet-ca-key", func() error {
			_, err := b.secrets.DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{SecretId: &secret, ForceDeleteWithoutRecovery: awssdk.Bool(true)})
			return err
		}},
	} {
		before, err := a.Drift(t.Context(), b.g)
		require.NoError(t, err)
		require.NotContains(t, fmt.Sprint(before), change.what)
		require.NoError(t, change.do())
		found, err := a.Drift(t.Context(), b.g)
		require.NoError(t, err)
		seen := false
		for _, f := range found {
			if strings.Contains(f.What, change.what) && f.Resource == change.resource {
				seen = true
				require.Equal(t, change.risk, f.Risk)
				require.NotEmpty(t, f.Do)
			}
		}
		require.True(t, seen, "%s: %+v", change.what, found)
	}
}
