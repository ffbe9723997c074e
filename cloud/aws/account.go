// Package aws does what operators need in a real AWS account after an `up`: it compares the account
// with the plan, sets the values of secrets, and reads the audit log. It finds its identity where
// AWS's own tools do, and makes a client when one is first needed. It changes only the values of
// secrets.
package aws

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/postern/postern/cloud"
)

func init() {
	cloud.Register("aws", func(ctx context.Context, account, region string) (cloud.Account, error) {
		a, err := Open(ctx, account, region)
		if err != nil {
			return nil, err
		}
		return a, nil
	})
}

// attempts is the number of times that a call is tried: throttling passes within seconds.
const attempts = 5

// callTimeout bounds one attempt.
const callTimeout = 30 * time.Second

// Account is an account and region, with an identity in it.
type Account struct {
	ID, Region string
	cfg        aws.Config
}

// Open finds the caller's identity, and refuses an identity of another account than the given one.
// So no later call can reach a wrong account by mistake. An account or region that is "" is that of
// the caller's settings.
func Open(ctx context.Context, account, region string) (*Account, error) {
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(region), config.WithRetryMaxAttempts(attempts),
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(callTimeout)))
	if err != nil {
		return nil, fmt.Errorf("read the AWS settings of this machine: %w", err)
	}
	if cfg.Region == "" {
		return nil, errors.New("your AWS settings have no region: set AWS_REGION")
	}
	me, err := sts.NewFromConfig(cfg).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return nil, explain("ask AWS who we are", err)
	}
	got := aws.ToString(me.Account)
	if account != "" && got != account {
		return nil, fmt.Errorf("the stack is in account %s, and these credentials are %s of account %s: choose others, for example with AWS_PROFILE", account, aws.ToString(me.Arn), got)
	}
	return &Account{ID: got, Region: cfg.Region, cfg: cfg}, nil
}

// explain says what went wrong, and, if that is known, what to do. It keeps AWS's own text, which
// names the action and the resource, never a secret.
func explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	hint := ""
	api := smithy.APIError(nil)
	opError := (*net.OpError)(nil)
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
	case errors.As(err, &api):
		switch code := api.ErrorCode(); {
		case denied(code):
			return fmt.Errorf("%s: AWS refuses it: %s: %s; give this identity the operators' policy of the stack (docs/aws-operate.md)", doing, code, api.ErrorMessage())
		case strings.Contains(code, "Throttl"), code == "RequestLimitExceeded", code == "TooManyRequestsException":
			return fmt.Errorf("%s: AWS still throttles us after %d tries (%s): wait a minute and run this again", doing, attempts, code)
		case strings.Contains(code, "Expired"):
			return fmt.Errorf("%s: the credentials have expired (%s): sign in again", doing, code)
		case code == "InvalidClientTokenId", code == "SignatureDoesNotMatch", code == "AuthFailure", code == "UnrecognizedClientException":
			return fmt.Errorf("%s: AWS does not know these credentials (%s): check AWS_PROFILE, or sign in again", doing, code)
		}
		return fmt.Errorf("%s: %s: %s", doing, api.ErrorCode(), api.ErrorMessage())
	case strings.Contains(err.Error(), "get credentials"), strings.Contains(err.Error(), "no EC2 IMDS role found"):
		hint = "; set AWS_PROFILE, or sign in with the AWS CLI"
	case errors.As(err, &opError):
		hint = "; is there a network, and is the region right?"
	}
	return fmt.Errorf("%s: %w%s", doing, err, hint)
}

func denied(code string) bool {
	return strings.Contains(code, "AccessDenied") || code == "UnauthorizedOperation" || code == "NotAuthorized" || code == "AuthorizationError"
}

// is reports whether err is AWS's answer of that code.
func is(err error, code string) bool {
	api := smithy.APIError(nil)
	return errors.As(err, &api) && api.ErrorCode() == code
}
