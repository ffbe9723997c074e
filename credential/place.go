// Package credential is about the secrets of a stack's credentials as an operator sees them: where
// each is, whether there is a value, and how a new value gets there. It reads no value.
package credential

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/cloud"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/stacks"
)

// OpenAccount opens the account of a stack in a cloud.
type OpenAccount func(ctx context.Context, stack *stacks.Stack, region string) (cloud.Account, error)

// ownSecrets are the secrets of a stack on AWS besides its credentials'.
var ownSecrets = []string{"ca-key", "fleet-ca-key", "join-token", "join-tokens"}

// PlaceIsPublished keeps an agent from choosing the operator's file into which a value is written:
// if a proposal names the place of a secret, the place counts once it is published, in the plan
// that live returns.
func PlaceIsPublished(file *stacks.File, live func() (*plan.Plan, error), p *plan.Plan, name string) error {
	agents, err := publish.Proposal(file)
	if agents == nil {
		return err
	}
	named := func(p *plan.Plan) int {
		return slices.IndexFunc(p.Credentials, func(c plan.Credential) bool { return c.Name == name })
	}
	i := named(p)
	if i < 0 { // one of ownSecrets, whose name is ours
		return nil
	}
	if live, err := live(); err == nil {
		if j := named(live); j >= 0 && live.Credentials[j].Secret == p.Credentials[i].Secret {
			return nil
		}
	}
	return &publish.UnseenError{
		Why:    fmt.Sprintf("%v, so it is only a proposal, and it is not published that the secret of %s is %s", agents, name, p.Credentials[i].Secret),
		Remedy: "look at it, and publish it first: postern push --file " + hostpath.Quote(file.Path),
	}
}

// Named returns where the secret of that name is.
func Named(stack *stacks.Stack, name string) (plan.Reference, error) {
	var names []string
	for _, c := range stack.Plan.Credentials {
		if c.Name == name {
			return plan.ParseReference(c.Secret)
		}
		names = append(names, c.Name)
	}
	if stack.AWS != nil {
		if slices.Contains(ownSecrets, name) {
			return ownSecret(stack, name), nil
		}
		names = append(names, ownSecrets...)
	}
	return plan.Reference{}, fmt.Errorf("%s: no rule uses a credential %q; there is: %s", stack.Path, name, strings.Join(names, ", "))
}

func ownSecret(stack *stacks.Stack, name string) plan.Reference {
	return plan.Reference{Source: plan.SourceAWSSecretsManager, Name: "postern/" + stack.Name + "/" + name, Region: stack.AWS.Region}
}

// Holds refuses a value that has not the field that the stack file selects.
func Holds(value []byte, ref plan.Reference) error {
	if len(ref.Field) == 0 {
		return nil
	}
	var v any
	err := json.Unmarshal(value, &v)
	for _, key := range ref.Field {
		m, ok := v.(map[string]any)
		if !ok {
			err = errors.New("missing")
			break
		}
		v = m[key]
	}
	if err != nil || v == nil { // the JSON error would quote the value
		return fmt.Errorf("the stack file takes field %s of this secret: give the whole JSON object with that field; nothing was changed", strings.Join(ref.Field, "."))
	}
	return nil
}

// PlaceFor returns what puts a value where ref says, and then says where that was. The account is
// asked first: the value is on standard input, and a program can read that once.
func PlaceFor(
	ctx context.Context, stack *stacks.Stack, name string, ref plan.Reference, open OpenAccount,
) (put func(value []byte) (done string, err error), err error) {
	switch ref.Source {
	case plan.SourceFile:
		return func(value []byte) (string, error) {
			if err := os.MkdirAll(filepath.Dir(ref.Name), 0o700); err != nil {
				return "", err
			}
			return "written to " + ref.Name, atomicfile.Write(ref.Name, value, 0o600)
		}, nil
	case plan.SourceAWSSecretsManager:
		if stack.AWS == nil {
			return nil, fmt.Errorf("%s: its secret is in AWS, and this stack is not: set it there with the AWS CLI", name)
		}
		account, err := open(ctx, stack, ref.Region)
		if err != nil {
			return nil, err
		}
		return func(value []byte) (string, error) {
			version, err := account.PutSecret(ctx, ref.Name, value)
			return fmt.Sprintf("version %s of %s in %s", version, ref.Name, ref.Region), err
		}, nil
	}
	return nil, fmt.Errorf("%s: its secret comes from %s: set it there; this command sets files and AWS Secrets Manager", name, ref.Source)
}
