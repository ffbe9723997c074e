package aws

import (
	"slices"

	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/iam"
	"github.com/pulumi/pulumi-aws/sdk/v6/go/aws/secretsmanager"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/postern/postern/components/aws/document"
	"github.com/postern/postern/plan"
)

// vault are the stack's secrets. They are declared empty: a value that Pulumi
// knows is in its state. `postern secret put` fills them.
type vault struct {
	s   *scope
	key key
	// credentials are the secrets that the policy's credentials name, sorted.
	credentials []*secretsmanager.Secret
	// caKey and fleetKey are the private keys of the two authorities. tokens has the hashes of join
	// tokens, and token is one such token.
	caKey, fleetKey, tokens, token *secretsmanager.Secret
}

func newVault(parent *scope) *vault {
	s := parent.component("Secrets", "secrets")
	protect := pulumi.Protect(s.args.AWS.Protect)
	v := &vault{s: s}
	v.key = newKey(s, "key", "The secrets of stack "+s.stack, document.Key(s.args.place()), s.args.SecretsKey, protect)
	own := "postern/" + s.stack + "/"
	v.caKey = v.secret(own+"ca-key", "Private key of the authority that agents trust, PEM", protect)
	v.fleetKey = v.secret(own+"fleet-ca-key", "Private key of the fleet's authority, PEM", protect)
	v.tokens = v.secret(own+"join-tokens", "Hashes of the tokens that nodes join with")
	v.token = v.secret(own+"join-token", "The token that new nodes join with")
	for _, name := range s.args.secretNames() {
		v.credentials = append(v.credentials, v.secret(name, "A credential of the policy: the agents never see it"))
	}
	s.outputs(pulumi.Map{"key": v.key.arn})
	return v
}

func (v *vault) secret(name, description string, opts ...pulumi.ResourceOption) *secretsmanager.Secret {
	return add(v.s, secretsmanager.NewSecret, name, &secretsmanager.SecretArgs{
		Name: pulumi.String(name), Description: pulumi.String(description), KmsKeyId: v.key.arn.ToStringOutput(),
		RecoveryWindowInDays: pulumi.Int(30), Tags: v.s.tagsOf(name),
	}, opts...)
}

// all are the secrets of the stack.
func (v *vault) all() []*secretsmanager.Secret {
	return append([]*secretsmanager.Secret{v.caKey, v.fleetKey, v.tokens, v.token}, v.credentials...)
}

// arns returns the ARNs of all secrets.
func (v *vault) arns() []pulumi.StringInput { return arnsOf(v.all()) }

func arnsOf(secrets []*secretsmanager.Secret) []pulumi.StringInput {
	var out []pulumi.StringInput
	for _, x := range secrets {
		out = append(out, x.Arn)
	}
	return out
}

// readers determines who may read a secret's value, whatever other policies allow. If the network
// has an endpoint for secrets, reading is possible only through it, and otherwise only from the
// network.
func (v *vault) readers(name string, secret *secretsmanager.Secret, n *network, e *endpoints, reader *iam.Role) {
	in := []pulumi.StringInput{secret.Arn, reader.Arn}
	if e.secrets != nil {
		in = append(in, e.secrets.ID().ToStringOutput())
	} else {
		in = append(in, n.egress)
		in = append(in, n.addresses...)
	}
	add(v.s, secretsmanager.NewSecretPolicy, name, &secretsmanager.SecretPolicyArgs{
		SecretArn: secret.Arn, BlockPublicPolicy: pulumi.Bool(true),
		Policy: written(func(x []string) string {
			from := document.From{Endpoint: x[2]}
			if e.secrets == nil {
				from = document.From{VPC: x[2], Addresses: x[3:]}
			}
			return document.Secret(document.ARN(x[0]), arns(x[1:2]), from).Text()
		}, in...),
	})
}

// restrict gives every secret its one reader.
func (v *vault) restrict(n *network, e *endpoints, control, controlExecution, proxies *iam.Role) {
	v.readers("ca-key", v.caKey, n, e, controlExecution)
	v.readers("fleet-ca-key", v.fleetKey, n, e, controlExecution)
	v.readers("join-tokens", v.tokens, n, e, controlExecution)
	v.readers("join-token", v.token, n, e, proxies)
	for i, name := range v.s.args.secretNames() {
		v.readers("credential-"+name, v.credentials[i], n, e, control)
	}
}

// secretNames are the secrets of Secrets Manager that the policy's credentials
// name. The loader has refused other names.
func (a *EnvironmentArgs) secretNames() []string {
	var names []string
	for _, c := range a.Plan.Credentials {
		if ref, err := plan.ParseReference(c.Secret); err == nil && ref.Source == plan.SourceAWSSecretsManager {
			names = append(names, ref.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
