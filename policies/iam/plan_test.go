package iam_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
	"github.com/postern/postern/policies/iam"
	"github.com/postern/postern/policies/reach"
)

// plan is a stack with an agent without a role, proxies with a role, a control plane that reads the
// one secret, and a policy of the secret that admits nobody else.
func plan() map[string]*graph.Resource {
	const (
		role   = "arn:aws:iam::123456789012:role/"
		secret = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/key-AbCdEf"
	)
	return map[string]*graph.Resource{
		"agent": {Type: "aws:ec2/launchTemplate:LaunchTemplate", Role: "agents", Inputs: map[string]any{}},
		"proxy": {Type: "aws:ecs/taskDefinition:TaskDefinition", Role: "proxies", Inputs: map[string]any{
			"taskRoleArn": ref{"proxyrole", role + "proxy"},
		}},
		"control": {Type: "aws:ecs/taskDefinition:TaskDefinition", Role: "control", Inputs: map[string]any{
			"taskRoleArn": ref{"controlrole", role + "control"},
		}},
		"proxyrole":   {Type: "aws:iam/role:Role", Inputs: map[string]any{"assumeRolePolicy": trust("ecs-tasks")}},
		"controlrole": {Type: "aws:iam/role:Role", Inputs: map[string]any{"assumeRolePolicy": trust("ecs-tasks")}},
		"proxypolicy": {Type: "aws:iam/rolePolicy:RolePolicy", Inputs: map[string]any{
			"role": ref{"proxyrole", "proxy"}, "policy": allow("logs:PutLogEvents", "*"),
		}},
		"controlpolicy": {Type: "aws:iam/rolePolicy:RolePolicy", Inputs: map[string]any{
			"role": ref{"controlrole", "control"}, "policy": allow("secretsmanager:GetSecretValue", secret),
		}},
		"secret": {Type: "aws:secretsmanager/secret:Secret", Inputs: map[string]any{
			"name": "prod/key", "kmsKeyId": ref{"key", "arn:aws:kms:eu-west-1:123456789012:key/x"},
		}},
		"key": {Type: "aws:kms/key:Key", Inputs: map[string]any{
			"policy": keyFor(`{"AWS":"arn:aws:iam::123456789012:root"}`),
		}},
		"fleet": {Type: "aws:secretsmanager/secret:Secret", Inputs: map[string]any{"name": "postern/prod/ca-key"}},
		"readers": {Type: "aws:secretsmanager/secretPolicy:SecretPolicy", Inputs: map[string]any{
			"secretArn": ref{"secret", secret},
			"policy":    denyBut(`"` + role + `control"`),
		}},
	}
}

// denyBut is the policy of a secret that refuses everybody but some.
func denyBut(readers string) string {
	return `{"Statement":[{"Effect":"Deny","Principal":"*","Action":"secretsmanager:GetSecretValue",` +
		`"Resource":"*","Condition":{"ArnNotEquals":{"aws:PrincipalArn":[` + readers + `]}}}]}`
}

// keyFor is the policy of a key that is somebody's.
func keyFor(who string) string {
	return `{"Statement":[{"Effect":"Allow","Principal":` + who + `,"Action":"kms:*","Resource":"*"}]}`
}

// ref is an input that is the ARN of another resource.
type ref struct{ to, arn string }

// trust lets a service of AWS take a role.
func trust(service string) string {
	return `{"Statement":[{"Effect":"Allow","Principal":{"Service":"` + service + `.amazonaws.com"},` +
		`"Action":"sts:AssumeRole"}]}`
}

// trustOf lets an identity of AWS take a role.
func trustOf(who string) string {
	return `{"Statement":{"Effect":"Allow","Principal":` + who + `,"Action":"sts:AssumeRole"}}`
}

func allow(action, resource string) string {
	return fmt.Sprintf(`{"Statement":[{"Effect":"Allow","Action":%q,"Resource":%q}]}`, action, resource)
}

// prove returns the verdicts that do not hold.
func prove(t *testing.T, of map[string]*graph.Resource) (out []string) {
	t.Helper()
	g := &graph.Graph{Stack: "prod"}
	for name, r := range of {
		r.Name, r.URN, r.PropertyDependencies = name, "urn:"+name, map[string][]string{}
		for k, v := range r.Inputs {
			if to, ok := v.(ref); ok {
				r.Inputs[k], r.PropertyDependencies[k] = to.arn, []string{"urn:" + to.to}
			}
		}
		r.Custom = true
		g.Resources = append(g.Resources, *r)
	}
	slices.SortFunc(g.Resources, func(a, b graph.Resource) int { return strings.Compare(a.URN, b.URN) })
	verdicts := iam.Prove(g)
	require.GreaterOrEqual(t, len(verdicts), 7)
	for _, v := range verdicts {
		if v.Result != reach.Holds {
			out = append(out, fmt.Sprintf("%s: %s: %s", v.Assertion, v.Result, v.Note))
		}
	}
	return out
}

// TestWhoMayDoWhat: each mistake is named by the assertion that it breaks.
func TestWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	require.Empty(t, prove(t, plan()))
	wide := plan()
	wide["proxypolicy"].Inputs["policy"] = allow("secretsmanager:GetSecretValue", "*")
	require.Empty(t, prove(t, wide), "the secret's own policy refuses everybody else")
	const ofAgent = "agent -> an action of the cloud, as itself: never: "
	agent := func(statements string) func(map[string]*graph.Resource) {
		return func(p map[string]*graph.Resource) {
			p["agent"].Inputs["iamInstanceProfile"] = ref{"agentrole", "x"}
			p["agentrole"] = &graph.Resource{Type: "aws:iam/role:Role", Inputs: map[string]any{}}
			p["agentpolicy"] = &graph.Resource{Type: "aws:iam/rolePolicy:RolePolicy", Inputs: map[string]any{
				"role": ref{"agentrole", "agent"}, "policy": `{"Statement":[` + statements + `]}`,
			}}
		}
	}
	// another says that a resource gives the agent's role a policy besides its own, which is empty.
	another := func(kind string, inputs map[string]any) func(map[string]*graph.Resource) {
		return func(p map[string]*graph.Resource) {
			agent("")(p)
			p["another"] = &graph.Resource{Type: "aws:iam/" + kind, Inputs: inputs}
		}
	}
	const admin = "arn:aws:iam::aws:policy/AdministratorAccess"
	const stranger = "a role besides the control plane's -> secret secret: never: "
	const proxy, control = "proxy -> the secret of a credential: never", "control -> the secrets of credentials: must"
	for what, c := range map[string]struct {
		change func(map[string]*graph.Resource)
		want   string
	}{
		"an agent with a role": {func(p map[string]*graph.Resource) {
			p["agent"].Inputs["iamInstanceProfile"] = ref{"proxyrole", "x"}
		}, "agent -> an action of the cloud, as itself: never: fails: its role proxyrole may logs:PutLogEvents at *"},
		"an agent with a role from elsewhere": {func(p map[string]*graph.Resource) {
			p["agent"].Inputs["iamInstanceProfile"] = "arn:aws:iam::123456789012:instance-profile/x"
		}, "agent -> an action of the cloud, as itself: never: indeterminate: not all policies"},
		"an agent that may do nearly everything": {
			agent(`{"Effect":"Allow","NotAction":["iam:*"],"Resource":"*"}`),
			ofAgent + "indeterminate: its role agentrole",
		},
		"an agent that may do everything elsewhere": {
			agent(`{"Effect":"Allow","Action":"s3:*","NotResource":"arn:aws:s3:::x"}`), ofAgent,
		},
		"an agent that is denied all but one bucket": {agent(`{"Effect":"Allow","Action":"s3:*","Resource":"*"},` +
			`{"Effect":"Deny","Action":"s3:*","NotResource":"arn:aws:s3:::evil/*"}`), ofAgent + "indeterminate: its"},
		"an agent that is denied all but one action": {agent(`{"Effect":"Allow","Action":"s3:*","Resource":"*"},` +
			`{"Effect":"Deny","NotAction":"s3:GetObject","Resource":"*"}`), ofAgent},
		"an agent within a boundary": {func(p map[string]*graph.Resource) {
			agent(`{"Effect":"Allow","Action":"s3:*","Resource":"*"}`)(p)
			p["boundary"] = &graph.Resource{Type: "aws:iam/policy:Policy", Inputs: map[string]any{
				"policy": allow("s3:GetObject", "*"),
			}}
			p["agentrole"].Inputs["permissionsBoundary"] = ref{"boundary", "x"}
		}, ofAgent},
		"an agent with a role without a policy": {
			agent(""), ofAgent + "indeterminate: the policy of a resource may grant",
		},
		"an attachment by a role's name": {another("rolePolicyAttachment:RolePolicyAttachment", map[string]any{
			"role": "agent", "policyArn": admin,
		}), ofAgent + "indeterminate: not all policies"},
		"an attachment to roles": {another("policyAttachment:PolicyAttachment", map[string]any{
			"roles": []any{"agent"}, "policyArn": admin,
		}), ofAgent + "indeterminate: not all policies"},
		"an attachment of another type": {another("rolePolicyAttachmentsExclusive:RolePolicyAttachmentsExclusive",
			map[string]any{"roleName": "agent", "policyArns": []any{admin}}), ofAgent + "indeterminate: not all"},
		"a role that exists": {func(p map[string]*graph.Resource) {
			agent("")(p)
			p["agentrole"].External = true
		}, ofAgent + "indeterminate: not all policies"},
		"an instance with a role": {func(p map[string]*graph.Resource) {
			p["agent"].Type = "aws:ec2/instance:Instance"
			p["agent"].Inputs["iamInstanceProfile"] = "x"
		}, ofAgent + "indeterminate: not all policies"},
		"proxies that become another": {func(p map[string]*graph.Resource) {
			p["proxypolicy"].Inputs["policy"] = allow("sts:Assume*", "*")
		}, proxy + ": indeterminate: its role may perhaps read secret"},
		"a session that reads": {func(p map[string]*graph.Resource) {
			p["readers"].Inputs["policy"] = `{"Statement":[{"Effect":"Allow","Principal":{"AWS":"` +
				`arn:aws:sts::123456789012:assumed-role/proxy/x"},` +
				`"Action":"secretsmanager:GetSecretValue","Resource":"*"}]}`
		}, proxy + ": indeterminate: its role may perhaps read secret"},
		"a key of a secret": {func(p map[string]*graph.Resource) {
			p["other"] = &graph.Resource{Type: "aws:ssm/parameter:Parameter", Inputs: map[string]any{
				"value": ref{"secret", "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/key-AbCdEf:k::"},
			}}
			p["readers"].Inputs["secretArn"] = ref{"secret", graph.Unknown}
			p["readers"].Inputs["policy"] = allow("x:Y", "*")
			p["proxypolicy"].Inputs["policy"] = allow("secretsmanager:GetSecretValue", "arn:*-AbCdEf")
		}, proxy + ": indeterminate: its role may perhaps read secret"},
		"proxies that read secrets": {func(p map[string]*graph.Resource) {
			p["proxypolicy"].Inputs["policy"] = allow("secretsmanager:*", "*")
			p["readers"].Inputs["policy"] = allow("x:Y", "*")
		}, proxy + ": fails: its role may read secret"},
		"proxies with a policy of AWS": {func(p map[string]*graph.Resource) {
			p["readers"].Inputs["policy"] = allow("x:Y", "*")
			p["attached"] = &graph.Resource{
				Type: "aws:iam/rolePolicyAttachment:RolePolicyAttachment", Inputs: map[string]any{
					"role": ref{"proxyrole", "proxy"}, "policyArn": "arn:aws:iam::aws:policy/SecretsManagerReadWrite",
				},
			}
		}, proxy + ": indeterminate: its role may perhaps read secret"},
		"a control plane that reads nothing": {func(p map[string]*graph.Resource) {
			p["controlpolicy"].Inputs["policy"] = allow("s3:GetObject", "*")
		}, control + ": fails: its role may not read secret"},
		"a control plane whose policy is lost": {func(p map[string]*graph.Resource) {
			delete(p, "controlpolicy")
			p["only"] = &graph.Resource{
				Type:   "aws:iam/rolePoliciesExclusive:RolePoliciesExclusive",
				Inputs: map[string]any{"roleName": ref{"controlrole", "control"}, "policyNames": []any{"lost"}},
			}
		}, control + ": indeterminate: no policy that is in the plan lets its role read secret"},
		"a control plane with a role from elsewhere": {func(p map[string]*graph.Resource) {
			p["control"].Inputs["taskRoleArn"] = "arn:aws:iam::123456789012:role/x"
		}, control + ": indeterminate: no policy that is in the plan lets its role read secret"},
		"a secret whose policies nobody has": {func(p map[string]*graph.Resource) {
			p["controlpolicy"].Inputs["policy"] = allow("s3:GetObject", "*")
			delete(p, "readers")
		}, control + ": indeterminate: no policy that is in the plan lets its role read secret"},
		"a boundary that refuses": {func(p map[string]*graph.Resource) {
			p["boundary"] = &graph.Resource{Type: "aws:iam/policy:Policy", Inputs: map[string]any{
				"policy": allow("s3:GetObject", "*"),
			}}
			p["controlrole"].Inputs["permissionsBoundary"] = ref{"boundary", "x"}
		}, control + ": fails: its role may not read secret"},
		"a secret for everybody": {func(p map[string]*graph.Resource) {
			p["readers"].Inputs["policy"] = `{"Statement":{"Effect":"Allow","Principal":"*",` +
				`"Action":"secretsmanager:GetSecretValue","Resource":"*"}}`
		}, "a role besides the control plane's -> secret secret: never: fails: " +
			"its own policy lets everybody read it\n" +
			"other accounts -> secret secret: never: fails: everybody in every account may read it"},
		"a secret for another account": {func(p map[string]*graph.Resource) {
			p["readers"].Inputs["policy"] = `{"Statement":{"Effect":"Allow","Principal":{"AWS":"210987654321"},` +
				`"Action":"secretsmanager:GetSecretValue","Resource":"*"}}`
		}, "other accounts -> secret secret: never: fails: arn:aws:iam::210987654321:root may read it"},
		"a secret for another account, by a policy of its own": {func(p map[string]*graph.Resource) {
			p["secret"].Inputs["policy"] = `{"Statement":{"Effect":"Allow",` +
				`"Principal":{"AWS":"arn:aws:iam::210987654321:role/x"},"Action":"*","Resource":"*"}}`
			p["readers"].Inputs["policy"] = allow("x:Y", "*")
		}, "other accounts -> secret secret: never: fails: arn:aws:iam::210987654321:role/x may read it"},
		"a secret for a role of another account, by a condition": {func(p map[string]*graph.Resource) {
			p["readers"].Inputs["policy"] = `{"Statement":{"Effect":"Allow","Principal":"*",` +
				`"Action":"secretsmanager:GetSecretValue","Resource":"*",` +
				`"Condition":{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::210987654321:role/*"}}}}`
		}, "other accounts -> secret secret: never: fails: arn:aws:iam::210987654321:role/* may read it"},
		"a secret for roles of the account, by a condition": {func(p map[string]*graph.Resource) {
			p["readers"].Inputs["policy"] = `{"Statement":{"Effect":"Allow","Principal":"*",` +
				`"Action":"secretsmanager:GetSecretValue","Resource":"*",` +
				`"Condition":{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::123456789012:role/*"}}}}`
		}, stranger + "fails: arn:aws:iam::123456789012:role/*, who is not in the plan, may read it"},
		"a secret for another account, by a condition": {func(p map[string]*graph.Resource) {
			p["readers"].Inputs["policy"] = `{"Statement":{"Effect":"Allow","Principal":"*",` +
				`"Action":"secretsmanager:GetSecretValue","Resource":"*",` +
				`"Condition":{"StringEquals":{"aws:PrincipalAccount":"210987654321"}}}}`
		}, "other accounts -> secret secret: never: fails: arn:aws:iam::210987654321:root may read it"},
		"a secret for a service": {func(p map[string]*graph.Resource) {
			p["readers"].Inputs["policy"] = `{"Statement":{"Effect":"Allow",` +
				`"Principal":{"Service":"lambda.amazonaws.com"},` +
				`"Action":"secretsmanager:GetSecretValue","Resource":"*"}}`
		}, stranger + "indeterminate: its own policy names lambda.amazonaws.com"},
		"a key for another account, by a condition": {func(p map[string]*graph.Resource) {
			p["key"].Inputs["policy"] = `{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt",` +
				`"Resource":"*","Condition":{"StringEquals":{"kms:CallerAccount":"210987654321"}}}}`
		}, stranger + "fails: its key key lets arn:aws:iam::210987654321:root decrypt it"},
		"a role that a service takes for everybody else": {func(p map[string]*graph.Resource) {
			p["controlrole"].Inputs["assumeRolePolicy"] = strings.Replace(trust("ecs-tasks"), `"Action"`,
				`"Condition":{"StringNotEquals":{"aws:SourceAccount":"123456789012"}},"Action"`, 1)
		}, "control -> anything else with its role: never: fails: ecs-tasks.amazonaws.com may take the role " +
			"controlrole for everybody but 123456789012"},
		"a secret that a user of the account reads": {func(p map[string]*graph.Resource) {
			p["readers"].Inputs["policy"] = denyBut(`"arn:aws:iam::123456789012:role/control",` +
				`"arn:aws:iam::123456789012:user/bob"`)
		}, stranger + "fails: its policy spares arn:aws:iam::123456789012:user/bob, who is not in the plan"},
		"a secret that a role reads that could not be read": {func(p map[string]*graph.Resource) {
			p["late"] = &graph.Resource{Type: "aws:iam/role:Role", External: true, Inputs: map[string]any{}}
			p["readers"].Inputs["policy"] = denyBut(`"arn:aws:iam::123456789012:role/control",` +
				`"arn:aws:iam::123456789012:role/late"`)
		}, stranger + "indeterminate: its policy spares arn:aws:iam::123456789012:role/late, who is not"},
		"a secret that every role of a path reads": {func(p map[string]*graph.Resource) {
			p["readers"].Inputs["policy"] = denyBut(`"arn:aws:iam::123456789012:role/*"`)
		}, stranger + "fails: its policy spares arn:aws:iam::123456789012:role/*, who is not in the plan"},
		"a secret that a user of the account is given": {func(p map[string]*graph.Resource) {
			p["readers"].Inputs["policy"] = `{"Statement":{"Effect":"Allow","Principal":{"AWS":` +
				`"arn:aws:iam::123456789012:user/bob"},"Action":"secretsmanager:*","Resource":"*"}}`
		}, stranger + "fails: arn:aws:iam::123456789012:user/bob, who is not in the plan, may read it"},
		"a secret with two policies": {func(p map[string]*graph.Resource) {
			p["secret"].Inputs["policy"] = allow("x:Y", "*")
		}, stranger + "indeterminate: it has several policies, and nobody knows which of them counts"},
		"a secret whose second policy names it by its ARN": {func(p map[string]*graph.Resource) {
			p["second"] = &graph.Resource{Type: "aws:secretsmanager/secretPolicy:SecretPolicy", Inputs: map[string]any{
				"secretArn": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/key-AbCdEf",
				"policy":    allow("x:Y", "*"),
			}}
		}, stranger + "indeterminate: it has several policies"},
		"a key for another account": {func(p map[string]*graph.Resource) {
			p["key"].Inputs["policy"] = keyFor(`{"AWS":"arn:aws:iam::210987654321:role/evil"}`)
		}, stranger + "fails: its key key lets arn:aws:iam::210987654321:role/evil decrypt it"},
		"a key for a user of the account": {func(p map[string]*graph.Resource) {
			p["key"].Inputs["policy"] = keyFor(`{"AWS":"arn:aws:iam::123456789012:user/bob"}`)
		}, stranger + "fails: its key key lets arn:aws:iam::123456789012:user/bob decrypt it"},
		"a key for everybody": {func(p map[string]*graph.Resource) {
			p["key"].Inputs["policy"] = keyFor(`"*"`)
		}, stranger + "fails: its key key lets everybody in every account decrypt it"},
		"a key for all but one": {func(p map[string]*graph.Resource) {
			p["key"].Inputs["policy"] = `{"Statement":{"Effect":"Allow","NotPrincipal":` +
				`{"AWS":"arn:aws:iam::210987654321:root"},"Action":"kms:*","Resource":"*"}}`
		}, stranger + "indeterminate: its key key lets everybody in every account perhaps decrypt it"},
		"a key with a second policy": {func(p map[string]*graph.Resource) {
			p["second"] = &graph.Resource{Type: "aws:kms/keyPolicy:KeyPolicy", Inputs: map[string]any{
				"keyId": ref{"key", "1b01d7a8-676c-fc3f-e28b-08fb906220fd"}, "policy": keyFor(`"*"`),
			}}
		}, stranger + "fails: its key key lets everybody in every account decrypt it"},
		"a key with two policies": {func(p map[string]*graph.Resource) {
			p["second"] = &graph.Resource{Type: "aws:kms/keyPolicy:KeyPolicy", Inputs: map[string]any{
				"keyId": ref{"key", "x"}, "policy": p["key"].Inputs["policy"],
			}}
		}, stranger + "indeterminate: its key key has several policies"},
		"a grant of the key": {func(p map[string]*graph.Resource) {
			p["grant"] = &graph.Resource{Type: "aws:kms/grant:Grant", Inputs: map[string]any{
				"keyId": ref{"key", "x"}, "granteePrincipal": "arn:aws:iam::210987654321:root",
			}}
		}, stranger + "fails: grant lets arn:aws:iam::210987654321:root use its key key"},
		"a grant of a key that nobody knows": {func(p map[string]*graph.Resource) {
			p["grant"] = &graph.Resource{Type: "aws:kms/grant:Grant", Inputs: map[string]any{
				"keyId": "1b01d7a8-676c-fc3f-e28b-08fb906220fd", "granteePrincipal": "arn:aws:iam::210987654321:root",
			}}
		}, stranger + "indeterminate: grant may be about its key"},
		"a role that a service takes for another account": {func(p map[string]*graph.Resource) {
			p["controlrole"].Inputs["assumeRolePolicy"] = strings.Replace(trust("ecs-tasks"), `"Action"`,
				`"Condition":{"StringEquals":{"aws:SourceAccount":"210987654321"}},"Action"`, 1)
		}, "control -> anything else with its role: never: fails: ecs-tasks.amazonaws.com may take the role " +
			"controlrole for 210987654321"},
		"a role that a service takes for a resource of another account": {func(p map[string]*graph.Resource) {
			p["controlrole"].Inputs["assumeRolePolicy"] = strings.Replace(trust("ecs-tasks"), `"Action"`,
				`"Condition":{"ArnLike":{"aws:SourceArn":"arn:aws:ecs:*:210987654321:*"}},"Action"`, 1)
		}, "control -> anything else with its role: never: fails: ecs-tasks.amazonaws.com may take the role " +
			"controlrole for arn:aws:ecs:*:210987654321:*"},
		"a role that another service takes, too": {func(p map[string]*graph.Resource) {
			p["controlrole"].Inputs["assumeRolePolicy"] = trust("ec2")
		}, "control -> anything else with its role: never: indeterminate: ec2.amazonaws.com may perhaps take the role"},
		"a role that another account takes": {func(p map[string]*graph.Resource) {
			p["controlrole"].Inputs["assumeRolePolicy"] = trustOf(`{"AWS":"arn:aws:iam::210987654321:root"}`)
		}, "control -> anything else with its role: never: fails: arn:aws:iam::210987654321:root may take the role"},
		"a role that everybody takes": {func(p map[string]*graph.Resource) {
			p["controlrole"].Inputs["assumeRolePolicy"] = trustOf(`"*"`)
		}, "control -> anything else with its role: never: fails: * may take the role controlrole"},
		"a role that somebody of the account takes": {func(p map[string]*graph.Resource) {
			p["controlrole"].Inputs["assumeRolePolicy"] = trustOf(`{"AWS":"arn:aws:iam::123456789012:root"}`)
		}, "control -> anything else with its role: never: indeterminate: somebody may perhaps take the role"},
		"a role that others who log in elsewhere take": {func(p map[string]*graph.Resource) {
			p["controlrole"].Inputs["assumeRolePolicy"] = trustOf(`{"Federated":"accounts.example.com"}`)
		}, "control -> anything else with its role: never: indeterminate: somebody may perhaps take the role"},
		"a role that trusts nobody knows whom": {func(p map[string]*graph.Resource) {
			p["controlrole"].Inputs["assumeRolePolicy"] = graph.Unknown
		}, "control -> anything else with its role: never: indeterminate: somebody may perhaps take the role"},
		"something else with the control plane's role": {func(p map[string]*graph.Resource) {
			in := map[string]any{"taskRoleArn": ref{"controlrole", "arn:aws:iam::123456789012:role/control"}}
			p["stranger"] = &graph.Resource{Type: "aws:ecs/taskDefinition:TaskDefinition", Role: "other", Inputs: in}
		}, "control -> anything else with its role: never: fails: stranger has the role controlrole too"},
		"a function with the control plane's role": {func(p map[string]*graph.Resource) {
			p["stranger"] = &graph.Resource{Type: "aws:lambda/function:Function", Role: "other", Inputs: map[string]any{
				"role": ref{"controlrole", "arn:aws:iam::123456789012:role/control"},
			}}
		}, "control -> anything else with its role: never: fails: stranger has the role controlrole too"},
		"a machine with the control plane's role": {func(p map[string]*graph.Resource) {
			p["profile"] = &graph.Resource{Type: "aws:iam/instanceProfile:InstanceProfile", Inputs: map[string]any{
				"role": ref{"controlrole", "control"},
			}}
			p["stranger"] = &graph.Resource{Type: "aws:ec2/instance:Instance", Role: "other", Inputs: map[string]any{
				"iamInstanceProfile": ref{"profile", "arn:aws:iam::123456789012:instance-profile/x"},
			}}
		}, "control -> anything else with its role: never: fails: stranger has the role controlrole too"},
		"a policy that nobody can read": {func(p map[string]*graph.Resource) {
			p["readers"].Inputs["policy"] = allow("x:Y", "*")
			p["proxypolicy"].Inputs["policy"] = graph.Unknown
		}, proxy + ": indeterminate: its role may perhaps read secret"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			p := plan()
			c.change(p)
			require.Contains(t, strings.Join(prove(t, p), "\n"), c.want)
		})
	}
}
