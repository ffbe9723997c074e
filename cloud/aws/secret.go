package aws

import (
	"context"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/postern/postern/cloud"
)

// PutSecret makes value the current version of an existing secret, and returns the version's ID. No
// error contains the value.
func (a *Account) PutSecret(ctx context.Context, name string, value []byte) (version string, err error) {
	out, err := secretsmanager.NewFromConfig(a.cfg).PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{
		SecretId: aws.String(name), SecretString: aws.String(string(value)),
	})
	if err != nil {
		return "", secretError("put the value of secret "+name, err)
	}
	return aws.ToString(out.VersionId), nil
}

// Secret returns what Secrets Manager says about the secret.
func (a *Account) Secret(ctx context.Context, name string) (*cloud.Secret, error) {
	out, err := secretsmanager.NewFromConfig(a.cfg).DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: aws.String(name)})
	if err != nil {
		return nil, secretError("look at secret "+name, err)
	}
	s := &cloud.Secret{Name: name, Versions: len(out.VersionIdsToStages), Changed: aws.ToTime(out.LastChangedDate), Deleting: out.DeletedDate != nil}
	for id, stages := range out.VersionIdsToStages {
		if slices.Contains(stages, "AWSCURRENT") {
			s.Version = id
		}
	}
	return s, nil
}

func secretError(doing string, err error) error {
	switch {
	case is(err, "ResourceNotFoundException"):
		return fmt.Errorf("%s: %w: bring the stack up first, it creates it empty", doing, cloud.ErrNoSecret)
	case is(err, "InvalidRequestException"):
		return fmt.Errorf("%s: it waits for its deletion: restore it, or bring the stack up again", doing)
	}
	return explain(doing, err)
}
