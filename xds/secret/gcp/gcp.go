// Package gcp reads secrets from GCP Secret Manager. A program that imports it has it as a source
// of package secret.
package gcp

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"

	secretmanager "cloud.google.com/go/secretmanager/apiv1"
	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	grpccodes "google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/secret/service"
)

func init() {
	service.Register(plan.SourceGCPSecretManager, func(*http.Client) service.Service {
		return New(func(ctx context.Context) (*secretmanager.Client, error) { return secretmanager.NewClient(ctx) })
	})
}

// secrets is the service. Its one client finds who asks where GCP's own tools do.
type secrets struct {
	dial func(ctx context.Context) (*secretmanager.Client, error)

	mu   sync.Mutex
	made *secretmanager.Client
}

// Format implements [fmt.Formatter]: what a client holds, e.g. an answer, is not printed.
func (s *secrets) Format(f fmt.State, _ rune) { fmt.Fprint(f, "a service of GCP") }

// New returns GCP Secret Manager, asked with the client that dial makes.
func New(dial func(ctx context.Context) (*secretmanager.Client, error)) service.Service {
	return &secrets{dial: dial}
}

func (s *secrets) client(ctx context.Context) (*secretmanager.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.made != nil {
		return s.made, nil
	}
	client, err := s.dial(context.WithoutCancel(ctx))
	if err != nil {
		return nil, service.NoIdentity("GCP")
	}
	s.made = client
	return client, nil
}

// Close implements [service.Service].
func (s *secrets) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.made != nil {
		_ = s.made.Close()
		s.made = nil
	}
}

const name = "GCP Secret Manager"

// Fetch implements [service.Service].
func (s *secrets) Fetch(ctx context.Context, ref plan.Reference) (value []byte, version string, err error) {
	client, err := s.client(ctx)
	if err != nil {
		return nil, "", err
	}
	out, err := client.AccessSecretVersion(ctx, &secretmanagerpb.AccessSecretVersionRequest{Name: ref.Name + "/versions/latest"})
	if err != nil {
		return nil, "", explain(err)
	}
	if value = out.GetPayload().GetData(); value == nil {
		return nil, "", &service.Trouble{Text: name + " answered without a secret"}
	}
	// projects/P/secrets/S/versions/N
	return value, out.GetName()[strings.LastIndexByte(out.GetName(), '/')+1:], nil
}

func explain(err error) *service.Trouble {
	said, ok := grpcstatus.FromError(err)
	if !ok {
		return &service.Trouble{Text: name + " cannot be asked: check the network, and the control plane's identity in GCP", Down: true, Name: name, Cause: err}
	}
	switch said.Code() {
	case grpccodes.NotFound:
		return &service.Trouble{Text: name + " has no such secret, or no version of it"}
	case grpccodes.PermissionDenied:
		return &service.Trouble{Text: name + " refuses the control plane this secret: see docs/credentials.md for the role it needs"}
	case grpccodes.FailedPrecondition:
		return &service.Trouble{Text: name + " does not give the secret out: its newest version is disabled or destroyed"}
	case grpccodes.InvalidArgument:
		return &service.Trouble{Text: name + " does not take this name"}
	default:
		return &service.Trouble{Text: name + " answered " + said.Code().String(), Down: true}
	}
}
