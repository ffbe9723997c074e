package aws

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
)

// Secret is what Secrets Manager says about a secret, without its value.
type Secret struct {
	Name string
	// Version is the ID of the current version, or "" if the secret is empty.
	Version string
	// Versions is the number of versions, the current one included.
	Versions int
	// Changed is the time of the last change of its value or settings.
	Changed time.Time
	// Deleting is set while the secret waits for its deletion.
	Deleting bool
}

// ErrNoSecret says that no secret has that name.
var ErrNoSecret = errors.New("there is no such secret")

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
func (a *Account) Secret(ctx context.Context, name string) (*Secret, error) {
	out, err := secretsmanager.NewFromConfig(a.cfg).DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: aws.String(name)})
	if err != nil {
		return nil, secretError("look at secret "+name, err)
	}
	s := &Secret{Name: name, Versions: len(out.VersionIdsToStages), Changed: aws.ToTime(out.LastChangedDate), Deleting: out.DeletedDate != nil}
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
		return fmt.Errorf("%s: %w: bring the stack up first, it creates it empty", doing, ErrNoSecret)
	case is(err, "InvalidRequestException"):
		return fmt.Errorf("%s: it waits for its deletion: restore it, or bring the stack up again", doing)
	}
	return explain(doing, err)
}
