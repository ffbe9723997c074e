// Package aws reads secrets from AWS Secrets Manager and AWS Systems Manager Parameter Store. A
// program that imports it has both as sources of package secret.
package aws

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/smithy-go"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/secret/service"
)

func init() {
	service.Register(plan.SourceAWSSecretsManager, func(c *http.Client) service.Service { return NewSecretsManager(c, load) })
	service.Register(plan.SourceAWSParamStore, func(c *http.Client) service.Service { return NewParamStore(c, load) })
}

// load finds the identity where AWS's own tools do.
func load(ctx context.Context, region string) (aws.Config, error) {
	return config.LoadDefaultConfig(ctx, config.WithRegion(region))
}

// regions has one client for each region. After any trouble it makes another client, so that
// nothing stays broken.
type regions[Client any] struct {
	load func(ctx context.Context, region string) (aws.Config, error)
	make func(aws.Config) Client

	mu      sync.Mutex
	clients map[string]Client
}

func (r *regions[Client]) client(ctx context.Context, region string) (Client, error) {
	r.mu.Lock()
	client, known := r.clients[region]
	r.mu.Unlock()
	if known {
		return client, nil
	}
	cfg, err := r.load(ctx, region)
	if err != nil {
		return client, service.NoIdentity("AWS")
	}
	client = r.make(cfg)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.clients == nil {
		r.clients = map[string]Client{}
	}
	r.clients[region] = client
	return client, nil
}

func (r *regions[Client]) forget(region string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.clients, region)
}

// Close implements [service.Service].
func (r *regions[Client]) Close() {}

// Format implements [fmt.Formatter]: what a client holds, e.g. an answer, is not printed.
func (r *regions[Client]) Format(f fmt.State, _ rune) { fmt.Fprint(f, "a service of AWS") }

type secretsManager struct {
	regions[*secretsmanager.Client]
}

// NewSecretsManager returns AWS Secrets Manager, asked with the client as who load says.
func NewSecretsManager(client *http.Client, load func(ctx context.Context, region string) (aws.Config, error)) service.Service {
	return &secretsManager{regions[*secretsmanager.Client]{load: load, make: func(cfg aws.Config) *secretsmanager.Client {
		return secretsmanager.NewFromConfig(cfg, func(o *secretsmanager.Options) {
			o.HTTPClient, o.RetryMaxAttempts = client, 1 // package secret tries again
		})
	}}}
}

// Fetch implements [service.Service].
func (s *secretsManager) Fetch(ctx context.Context, ref plan.Reference) (value []byte, version string, err error) {
	name := "AWS Secrets Manager in " + ref.Region
	client, err := s.client(ctx, ref.Region)
	if err != nil {
		return nil, "", err
	}
	out, err := client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &ref.Name})
	if err != nil {
		s.forget(ref.Region)
		return nil, "", explain(err, name)
	}
	if value = out.SecretBinary; out.SecretString != nil {
		value = []byte(*out.SecretString)
	}
	if len(value) == 0 || len(out.SecretBinary) > 0 && out.SecretString != nil {
		return nil, "", &service.Trouble{Text: name + " answered without a secret"}
	}
	return value, aws.ToString(out.VersionId), nil
}

type paramStore struct {
	regions[*ssm.Client]
}

// NewParamStore returns AWS Systems Manager Parameter Store, asked with the client as who load
// says.
func NewParamStore(client *http.Client, load func(ctx context.Context, region string) (aws.Config, error)) service.Service {
	return &paramStore{regions[*ssm.Client]{load: load, make: func(cfg aws.Config) *ssm.Client {
		return ssm.NewFromConfig(cfg, func(o *ssm.Options) { o.HTTPClient, o.RetryMaxAttempts = client, 1 })
	}}}
}

// Fetch implements [service.Service].
func (s *paramStore) Fetch(ctx context.Context, ref plan.Reference) (value []byte, version string, err error) {
	name := "AWS Parameter Store in " + ref.Region
	client, err := s.client(ctx, ref.Region)
	if err != nil {
		return nil, "", err
	}
	out, err := client.GetParameter(ctx, &ssm.GetParameterInput{Name: &ref.Name, WithDecryption: aws.Bool(true)})
	if err != nil {
		s.forget(ref.Region)
		return nil, "", explain(err, name)
	}
	if out.Parameter == nil || out.Parameter.Value == nil {
		return nil, "", &service.Trouble{Text: name + " answered without a secret"}
	}
	return []byte(*out.Parameter.Value), strconv.FormatInt(out.Parameter.Version, 10), nil
}

// refusals are the answers of AWS that are about the secret, and final: it does not exist, or the
// control plane may not read it. All other answers are about the service, or about the caller.
var refusals = map[string]string{
	"ResourceNotFoundException": "has no such secret",
	"ParameterNotFound":         "has no such parameter",
	"ParameterVersionNotFound":  "has no such parameter",
	"InvalidRequestException":   "does not give the secret out: it is about to be deleted, or has no current version",
	"InvalidParameterException": "does not take this name",
	"ValidationException":       "does not take this name",
	"AccessDeniedException":     "refuses the control plane this secret: see docs/credentials.md for the policy it needs",
	"DecryptionFailure":         "cannot decrypt the secret: check its key in KMS",
	"InvalidKeyId":              "cannot decrypt the secret: check its key in KMS",
}

// outages are known answers that are not about the secret. Messages do not repeat unknown answers.
var outages = map[string]bool{
	"ThrottlingException": true, "ExpiredTokenException": true, "UnrecognizedClientException": true, "InvalidSignatureException": true,
	"InternalServiceError": true, "InternalServerError": true, "InternalFailure": true, "ServiceUnavailable": true, "RequestLimitExceeded": true,
}

func explain(err error, name string) *service.Trouble {
	var answered smithy.APIError
	var operation *smithy.OperationError
	switch {
	case errors.As(err, &answered):
		code := answered.ErrorCode()
		if refusal, ok := refusals[code]; ok {
			return &service.Trouble{Text: name + " " + refusal}
		}
		if outages[code] {
			return &service.Trouble{Text: name + " answered " + code, Down: true}
		}
		return &service.Trouble{Text: name + " answered with an error", Down: true}
	case errors.As(err, &operation) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
		return &service.Trouble{Text: name + " cannot be asked: check the network, and the control plane's identity in AWS", Down: true, Name: name, Cause: err}
	}
	// The message repeats nothing of the answer.
	return &service.Trouble{Text: name + " answered without a secret"}
}
