package secret

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	secretmanager "cloud.google.com/go/secretmanager/apiv1"
	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/smithy-go"
	"github.com/googleapis/gax-go/v2"
	"gocloud.dev/runtimevar"
	"gocloud.dev/runtimevar/awsparamstore"
	"gocloud.dev/runtimevar/awssecretsmanager"
	"gocloud.dev/runtimevar/gcpsecretmanager"
	grpccodes "google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/postern/postern/plan"
)

// clouds are the clients of the clouds' own stores. They find the control
// plane's identity where each cloud's tools do.
type clouds struct {
	// loadAWS and dialGCP make clients; tests have their own.
	loadAWS func(ctx context.Context, region string) (aws.Config, error)
	dialGCP func(ctx context.Context) (*secretmanager.Client, error)

	mu  sync.Mutex
	gcp *secretmanager.Client
}

func newClouds() *clouds {
	return &clouds{
		loadAWS: func(ctx context.Context, region string) (aws.Config, error) {
			return config.LoadDefaultConfig(ctx, config.WithRegion(region))
		},
		dialGCP: func(ctx context.Context) (*secretmanager.Client, error) { return secretmanager.NewClient(ctx) },
	}
}

// google returns the one client of GCP's.
func (c *clouds) google(ctx context.Context) (*secretmanager.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gcp != nil {
		return c.gcp, nil
	}
	client, err := c.dialGCP(context.WithoutCancel(ctx))
	if err != nil {
		return nil, err
	}
	// Without it a server that is down is asked for a minute before it is said to be.
	limit := []gax.CallOption{gax.WithTimeout(mintTimeout)}
	client.CallOptions.AccessSecretVersion, client.CallOptions.GetSecretVersion = limit, limit
	c.gcp = client
	return client, nil
}

func (c *clouds) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gcp != nil {
		_ = c.gcp.Close()
		c.gcp = nil
	}
}

// noIdentity is what is wrong if a cloud's library finds nobody to be.
func noIdentity(cloud string) *trouble {
	return &trouble{text: "the control plane has no identity in " + cloud + ": give it one as that cloud's own tools have it", down: true}
}

func (s *Store) openSecretsManager(ctx context.Context, ref plan.Reference, every time.Duration) (opened, *trouble) {
	cfg, err := s.clouds.loadAWS(ctx, ref.Region)
	if err != nil {
		return opened{}, noIdentity("AWS")
	}
	client := secretsmanager.NewFromConfig(cfg, func(o *secretsmanager.Options) {
		// We try again ourselves.
		o.HTTPClient, o.RetryMaxAttempts = s.services, 1
	})
	v, err := awssecretsmanager.OpenVariable(client, ref.Name, runtimevar.BytesDecoder, &awssecretsmanager.Options{WaitDuration: every})
	if err != nil {
		return opened{}, &trouble{text: "cannot watch AWS Secrets Manager"}
	}
	return opened{v, func(snap *runtimevar.Snapshot) string {
		var out *secretsmanager.GetSecretValueOutput
		if snap.As(&out) {
			return aws.ToString(out.VersionId)
		}
		return ""
	}, func(err error) *trouble { return explainAWS(err, "AWS Secrets Manager in "+ref.Region) }}, nil
}

func (s *Store) openParamStore(ctx context.Context, ref plan.Reference, every time.Duration) (opened, *trouble) {
	cfg, err := s.clouds.loadAWS(ctx, ref.Region)
	if err != nil {
		return opened{}, noIdentity("AWS")
	}
	client := ssm.NewFromConfig(cfg, func(o *ssm.Options) { o.HTTPClient, o.RetryMaxAttempts = s.services, 1 })
	v, err := awsparamstore.OpenVariable(client, ref.Name, runtimevar.BytesDecoder, &awsparamstore.Options{WaitDuration: every})
	if err != nil {
		return opened{}, &trouble{text: "cannot watch AWS Parameter Store"}
	}
	return opened{v, func(snap *runtimevar.Snapshot) string {
		var out *ssm.GetParameterOutput
		if snap.As(&out) && out.Parameter != nil {
			return strconv.FormatInt(out.Parameter.Version, 10)
		}
		return ""
	}, func(err error) *trouble { return explainAWS(err, "AWS Parameter Store in "+ref.Region) }}, nil
}

// refusals are the answers of AWS that are about the secret, and final: it is
// not there, or not for the control plane. All others are about the service, or
// about who asks.
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

// outages are known answers that are not about the secret. Others are not repeated.
var outages = map[string]bool{
	"ThrottlingException": true, "ExpiredTokenException": true, "UnrecognizedClientException": true, "InvalidSignatureException": true,
	"InternalServiceError": true, "InternalServerError": true, "InternalFailure": true, "ServiceUnavailable": true, "RequestLimitExceeded": true,
}

func explainAWS(err error, name string) *trouble {
	var answered smithy.APIError
	var operation *smithy.OperationError
	switch {
	case errors.As(err, &answered):
		code := answered.ErrorCode()
		if refusal, ok := refusals[code]; ok {
			return &trouble{text: name + " " + refusal}
		}
		if outages[code] {
			return &trouble{text: name + " answered " + code, down: true}
		}
		return &trouble{text: name + " answered with an error", down: true}
	case errors.As(err, &operation) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
		return &trouble{text: transport(err, name, name+" cannot be asked: check the network, and the control plane's identity in AWS"), down: true}
	}
	// The answer came, and has no value in it.
	return &trouble{text: name + " answered without a secret"}
}

func (s *Store) openSecretManager(ctx context.Context, ref plan.Reference, every time.Duration) (opened, *trouble) {
	client, err := s.clouds.google(ctx)
	if err != nil {
		return opened{}, noIdentity("GCP")
	}
	v, err := gcpsecretmanager.OpenVariable(client, ref.Name, runtimevar.BytesDecoder, &gcpsecretmanager.Options{WaitDuration: every})
	if err != nil {
		return opened{}, &trouble{text: "secret does not name a secret of GCP Secret Manager"}
	}
	return opened{v, func(snap *runtimevar.Snapshot) string {
		var out *secretmanagerpb.AccessSecretVersionResponse
		if snap.As(&out) {
			// projects/P/secrets/S/versions/N
			return lastSegment(out.GetName())
		}
		return ""
	}, explainGCP}, nil
}

func explainGCP(err error) *trouble {
	const name = "GCP Secret Manager"
	var said *grpcstatus.Status
	if s, ok := grpcstatus.FromError(err); ok {
		said = s
	}
	switch {
	case said == nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)):
		return &trouble{text: fmt.Sprintf("%s did not answer within %s", name, mintTimeout), down: true}
	case said == nil:
		return &trouble{text: name + " answered without a secret"}
	}
	switch said.Code() {
	case grpccodes.NotFound:
		return &trouble{text: name + " has no such secret, or no version of it"}
	case grpccodes.PermissionDenied:
		return &trouble{text: name + " refuses the control plane this secret: see docs/credentials.md for the roles it needs"}
	case grpccodes.FailedPrecondition:
		return &trouble{text: name + " does not give the secret out: its newest version is disabled or destroyed"}
	case grpccodes.InvalidArgument:
		return &trouble{text: name + " does not take this name"}
	default:
		return &trouble{text: fmt.Sprintf("%s answered %s", name, said.Code()), down: true}
	}
}

// newServiceClient is how AWS is asked: as [newClient] asks, but with the
// connection kept, as one service has many secrets.
func newServiceClient() *http.Client {
	c := newClient()
	c.Transport.(guarded).next.(*http.Transport).DisableKeepAlives = false
	return c
}

func lastSegment(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }
