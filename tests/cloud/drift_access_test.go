package cloud_test

import (
	"fmt"
	"strings"
	"testing"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/cloud"
	"github.com/postern/postern/cloud/aws"
)

// What runs in the stack's cluster, and as whom: a new revision of a task
// definition is enough.
func driftOfTasks(t *testing.T, b *builder, a *aws.Account) {
	t.Helper()
	cluster := b.first("aws:ecs/cluster:Cluster", "")
	service := b.first("aws:ecs/service:Service", "proxies-service")
	control := b.first("aws:iam/role:Role", "control-task")
	image := awssdk.String("210987654321.dkr.ecr.us-east-2.amazonaws.com/other@sha256:00")
	out, err := b.ecs.RegisterTaskDefinition(t.Context(), &ecs.RegisterTaskDefinitionInput{
		Family: awssdk.String("by-hand"), NetworkMode: ecstypes.NetworkModeAwsvpc, RequiresCompatibilities: []ecstypes.Compatibility{ecstypes.CompatibilityFargate}, Cpu: awssdk.String("1024"), Memory: awssdk.String("2048"),
		TaskRoleArn: awssdk.String("arn:aws:iam::" + account + ":role/postern/" + control), ContainerDefinitions: []ecstypes.ContainerDefinition{{Name: awssdk.String("proxy"), Image: image}},
	})
	require.NoError(t, err)
	_, err = b.ecs.UpdateService(t.Context(), &ecs.UpdateServiceInput{Cluster: &cluster, Service: &service, TaskDefinition: out.TaskDefinition.TaskDefinitionArn})
	require.NoError(t, err)
	_, err = b.ecs.CreateService(t.Context(), &ecs.CreateServiceInput{
		Cluster: &cluster, ServiceName: awssdk.String("by-hand"), TaskDefinition: out.TaskDefinition.TaskDefinitionArn, LaunchType: ecstypes.LaunchTypeFargate, EnableExecuteCommand: true,
		NetworkConfiguration: b.network("agents"),
	})
	require.NoError(t, err)
	found, err := a.Drift(t.Context(), b.g)
	require.NoError(t, err)
	var said []string
	for _, f := range found {
		require.Equal(t, cloud.High, f.Risk)
		said = append(said, f.Resource+": "+f.What)
	}
	require.ElementsMatch(t, []string{
		"us-east-2-proxies-service: its tasks have the role " + control + ", planned is none",
		"us-east-2-proxies-service: ECS starts its tasks with the role none, planned is " + b.first("aws:iam/role:Role", "proxies-execution"),
		"us-east-2-proxies-service: its tasks run the image " + *image + ", which is not planned",
		"by-hand: a service in the stack's cluster is not in the plan",
	}, said)
}

// Who may be connected to the proxies, who may read a secret, and what the most
// is that roles may be allowed: all of it is said by policies that somebody can
// change without making anything.
func driftOfAccess(t *testing.T, b *builder, a *aws.Account) {
	t.Helper()
	const wide = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`
	service := b.first("aws:ec2/vpcEndpointService:VpcEndpointService", "")
	boundary := b.first("aws:iam/policy:Policy", "-boundary")
	secret := b.first("aws:secretsmanager/secret:Secret", "fleet-ca-key")
	// What drift found last, before the next change.
	before, err := a.Drift(t.Context(), b.g)
	require.NoError(t, err)
	for _, change := range []struct {
		risk, what, resource string
		do                   func() error
	}{
		{cloud.High, "arn:aws:iam::210987654321:root may ask to be connected to the proxies", "us-east-2-gate-service", func() error {
			_, err := b.ec2.ModifyVpcEndpointServicePermissions(t.Context(), &ec2.ModifyVpcEndpointServicePermissionsInput{ServiceId: &service, AddAllowedPrincipals: []string{"arn:aws:iam::210987654321:root"}})
			return err
		}},
		{cloud.High, "acceptance is no longer required", "us-east-2-gate-service", func() error {
			_, err := b.ec2.ModifyVpcEndpointServiceConfiguration(t.Context(), &ec2.ModifyVpcEndpointServiceConfigurationInput{ServiceId: &service, AcceptanceRequired: awssdk.Bool(false)})
			return err
		}},
		{cloud.High, "its permissions boundary us-east-2-boundary-1234567 is not as planned", "us-east-2-control-task", func() error {
			_, err := b.iam.CreatePolicyVersion(t.Context(), &iam.CreatePolicyVersionInput{PolicyArn: &boundary, PolicyDocument: awssdk.String(wide), SetAsDefault: true})
			return err
		}},
		{cloud.High, "its policy is not as planned", "us-east-2-secrets-postern/us-east-2/fleet-ca-key", func() error {
			_, err := b.secrets.PutResourcePolicy(t.Context(), &secretsmanager.PutResourcePolicyInput{SecretId: &secret, ResourcePolicy: awssdk.String(
				`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::210987654321:root"},"Action":"secretsmanager:GetSecretValue","Resource":"*"}]}`,
			)})
			return err
		}},
		{cloud.High, "its policy was removed", "us-east-2-secrets-postern/us-east-2/fleet-ca-key", func() error {
			_, err := b.secrets.DeleteResourcePolicy(t.Context(), &secretsmanager.DeleteResourcePolicyInput{SecretId: &secret})
			return err
		}},
		{cloud.Medium, "the secret is not there", "us-east-2-secrets-postern/us-east-2/fleet-ca-key", func() error {
			_, err := b.secrets.DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{SecretId: &secret, ForceDeleteWithoutRecovery: awssdk.Bool(true)})
			return err
		}},
	} {
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
		before = found
	}
}
