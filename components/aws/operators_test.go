package aws

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/components/aws/document"
	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/iam"
)

// The operators' policy is about the stack: whoever has it, loses no right elsewhere in the
// account.
func TestOperatorsLoseNothingElsewhere(t *testing.T) {
	t.Parallel()
	everyVariant(t, func(t *testing.T, _ *EnvironmentArgs, g *declarations) {
		denied := 0
		for _, s := range g.policies(t)["aws:iam/policy:Policy|prod-operators|policy"].Statement {
			if s.Effect != document.Deny {
				continue
			}
			denied++
			require.NotEmpty(t, s.Resource, s.Sid)
			if tags := s.Condition["StringEquals"]["aws:ResourceTag/"+graph.TagStack]; tags != nil {
				require.Equal(t, []string{"prod"}, tags, s.Sid)
				continue
			}
			for _, r := range s.Resource {
				require.Regexp(t, `/prod/|postern-prod-|Secret/prod-secrets-`, r, s.Sid)
			}
		}
		require.Equal(t, 3, denied)
	})
}

// Operators fill every secret of the stack and read none, whatever else they may; secrets of
// others they do not fill. They read the groups of events, by both names that AWS asks about.
func TestOperatorsMay(t *testing.T) {
	t.Parallel()
	doc, err := iam.Parse(document.Operators{
		Place: here, Stack: "prod", Bundles: "arn:aws:s3:::b", Audit: "arn:aws:s3:::a", Groups: []string{"/postern/prod/proxies"},
	}.Policy().Text())
	require.NoError(t, err)
	admin, err := iam.Parse(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["*"],"Resource":["*"]}]}`)
	require.NoError(t, err)
	ask := func(action, resource string, tags ...string) *iam.Request {
		return &iam.Request{
			Action: action, Resource: resource, Principal: "arn:aws:iam::123456789012:user/ann",
			Keys: map[string][]string{"aws:resourcetag/" + graph.TagStack: tags},
		}
	}
	alone, also := &iam.Policies{Identity: []*iam.Document{doc}}, &iam.Policies{Identity: []*iam.Document{doc, admin}}
	const secret = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:any/name-AbCdEf"
	require.Equal(t, iam.Allowed, alone.Decide(ask("secretsmanager:PutSecretValue", secret, "prod")))
	require.Equal(t, iam.Denied, alone.Decide(ask("secretsmanager:PutSecretValue", secret, "other")))
	require.Equal(t, iam.Denied, alone.Decide(ask("secretsmanager:PutSecretValue", secret)))
	require.Equal(t, iam.Denied, also.Decide(ask("secretsmanager:GetSecretValue", secret, "prod")))
	require.Equal(t, iam.Allowed, also.Decide(ask("secretsmanager:GetSecretValue", secret, "other")))
	const group = "arn:aws:logs:eu-west-1:123456789012:log-group:/postern/prod/proxies"
	for _, name := range []string{group, group + ":*", group + ":log-stream:one"} {
		require.Equal(t, iam.Allowed, alone.Decide(ask("logs:GetLogEvents", name)), name)
		require.Equal(t, iam.Denied, also.Decide(ask("logs:DeleteLogStream", name)), name)
	}
	require.Equal(t, iam.Denied, alone.Decide(ask("logs:GetLogEvents", "arn:aws:logs:eu-west-1:123456789012:log-group:/postern/prod/agents:*")))
}

// Operators start the proxies and the control plane again, as docs/aws.md tells them to, and change
// nothing else of a service: not its tasks, nor where they run, nor who may enter them. Agents are not
// theirs to start.
func TestOperatorsRedeploy(t *testing.T) {
	t.Parallel()
	doc, err := iam.Parse(document.Operators{Place: here, Stack: "prod"}.Policy().Text())
	require.NoError(t, err)
	policies := &iam.Policies{Identity: []*iam.Document{doc}}
	const name = "ecs:UpdateService"
	table := readActions(t)[name]
	require.Equal(t, []string{"service!+owner"}, table.on, "the tags of the service decide")
	require.Empty(t, table.needs)
	ask := func(stack, role string, more map[string][]string) iam.Answer {
		r := asked(name, table, stack, false)[0]
		r.Keys["aws:resourcetag/"+graph.TagRole] = []string{role}
		for _, key := range []string{"ecs:enable-execute-command", "ecs:subnet", "ecs:task-definition"} {
			r.Keys[key] = more[key]
		}
		return policies.Decide(r)
	}
	for _, role := range []string{"control", "proxies"} {
		require.Equal(t, iam.Allowed, ask("prod", role, nil), role)
		require.Equal(t, iam.Denied, ask("other", role, nil), role)
		for key, value := range map[string]string{
			"ecs:enable-execute-command": "true", "ecs:subnet": "subnet-1",
			"ecs:task-definition": "arn:aws:ecs:eu-west-1:123456789012:task-definition/mine:1",
		} {
			require.Equal(t, iam.Denied, ask("prod", role, map[string][]string{key: {value}}), key)
		}
	}
	require.Equal(t, iam.Denied, ask("prod", "agents", nil))
	everyVariant(t, func(t *testing.T, _ *EnvironmentArgs, g *declarations) {
		for _, r := range g.of("aws:ecs/service:Service") {
			role := r.inputs["tags"].ObjectValue()[graph.TagRole].StringValue()
			require.Contains(t, []string{"control", "proxies", "agents"}, role, r.name)
		}
	})
}
