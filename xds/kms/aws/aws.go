// Package aws is the driver of package kms for AWS KMS.
package aws

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"strings"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	awskms "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"github.com/postern/postern/xds/kms"
)

func init() {
	kms.Register(func(place string) (crypto.Signer, error) {
		k, err := open(place)
		if err != nil {
			return nil, err
		}
		return k, nil
	})
}

// patience bounds one question to the service, with all attempts. Each attempt may take a third of
// it.
const patience = 6 * time.Second

// form matches the names of a key,
// https://docs.aws.amazon.com/kms/latest/APIReference/API_Sign.html: a key's ID, alias/NAME, or the
// ARN of either.
var form = regexp.MustCompile(`^[a-zA-Z0-9:/_-]+$`)

var region = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

// key is a key for ECDSA on P-256 in AWS KMS. It is safe for concurrent use.
type key struct {
	place, id, region string
	client            *awskms.Client
	public            *ecdsa.PublicKey
}

var _ crypto.Signer = (*key)(nil)

// open is [kms.Open].
func open(place string) (*key, error) {
	k := &key{place: place}
	if err := k.parse(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(k.region), config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(patience/3)))
	if err != nil {
		return nil, fmt.Errorf("find out who the control plane is in AWS: %w", err)
	}
	k.client = awskms.NewFromConfig(cfg)
	out, err := k.client.GetPublicKey(ctx, &awskms.GetPublicKeyInput{KeyId: &k.id})
	if err != nil {
		return nil, k.explain(err)
	}
	if out.KeyUsage != types.KeyUsageTypeSignVerify {
		return nil, k.wrong()
	}
	public, err := x509.ParsePKIXPublicKey(out.PublicKey)
	if err != nil {
		return nil, k.wrong()
	}
	var ok bool
	if k.public, ok = public.(*ecdsa.PublicKey); !ok || k.public.Curve != elliptic.P256() {
		return nil, k.wrong()
	}
	// The right to read the public key does not include the right to sign.
	digest := sha256.Sum256([]byte("postern: does this key sign?"))
	signature, err := k.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	if !ecdsa.VerifyASN1(k.public, digest[:], signature) {
		return nil, fmt.Errorf("the key %s: its signature does not verify by its public key", k.place)
	}
	return k, nil
}

func (k *key) parse() error {
	u, err := url.Parse(k.place)
	if err != nil || u.User != nil || u.Fragment != "" {
		return fmt.Errorf("%.256q is not a valid key: write awskms://KEY-ID?region=REGION or awskms://alias/NAME?region=REGION", k.place)
	}
	k.id = strings.TrimPrefix(u.Host+u.Path, "/")
	q := u.Query()
	k.region = q.Get("region")
	if !form.MatchString(k.id) || !region.MatchString(k.region) || len(q) != 1 || len(q["region"]) != 1 {
		return fmt.Errorf("%.256q is not a valid key: write awskms://KEY-ID?region=REGION or awskms://alias/NAME?region=REGION", k.place)
	}
	return nil
}

// Public is the *[ecdsa.PublicKey].
func (k *key) Public() crypto.PublicKey { return k.public }

// String is the place.
func (k *key) String() string { return k.place }

// Sign asks the service to sign the SHA-256 digest. It takes 6 s at most. It
// does not use the random source: the service has its own.
func (k *key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != crypto.SHA256 || len(digest) != sha256.Size {
		return nil, fmt.Errorf("the key %s signs digests of SHA-256 only", k.place)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := k.client.Sign(ctx, &awskms.SignInput{
		KeyId: &k.id, Message: digest, MessageType: types.MessageTypeDigest, SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256,
	})
	if err != nil {
		return nil, k.explain(err)
	}
	return out.Signature, nil
}

func (k *key) wrong() error {
	return fmt.Errorf("the key %s is of another kind: make one with key spec ECC_NIST_P256 and usage SIGN_VERIFY, and a certificate of it", k.place)
}

// answers are the final ones, and what to do. All others may be others soon.
var answers = map[string]string{
	"NotFoundException":           "does not exist in that region and account: check its ID or alias, and the region",
	"InvalidArnException":         "does not exist in that region and account: check its ID or alias, and the region",
	"AccessDeniedException":       "is refused to the control plane: allow its role kms:GetPublicKey and kms:Sign, in its policy and in the key's",
	"DisabledException":           "is disabled: enable it, or name another key and its certificate",
	"KMSInvalidStateException":    "cannot be used in its state: if it is about to be deleted, cancel that and enable it",
	"ValidationException":         "is not taken by AWS KMS: see to its ID",
	"UnrecognizedClientException": "cannot be asked for: the control plane's identity in AWS is not known there; give it one as AWS's own tools have it",
	"ExpiredTokenException":       "cannot be asked for: the control plane's identity in AWS has expired; give it another one",
}

// explain describes an error in our own words, because the SDK's error has three lines, with the
// request's ID and address.
func (k *key) explain(err error) error {
	var answered smithy.APIError
	switch {
	case errors.As(err, &answered):
		code := answered.ErrorCode()
		if code == "UnsupportedOperationException" || code == "InvalidKeyUsageException" {
			return k.wrong()
		}
		if what, ok := answers[code]; ok {
			return fmt.Errorf("the key %s %s", k.place, what)
		}
		return fmt.Errorf("the key %s cannot be used now: AWS KMS answered %.64q", k.place, code)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the key %s cannot be used now: AWS KMS in %s did not answer within %s; check the network, and the endpoint of KMS", k.place, k.region, patience)
	}
	var sent *smithy.OperationError
	if !errors.As(err, &sent) {
		return fmt.Errorf("the key %s cannot be used now: %w", k.place, err)
	}
	return fmt.Errorf("the key %s cannot be used now: AWS KMS in %s cannot be asked; check the network, the endpoint of KMS, and the control plane's identity in AWS: %w", k.place, k.region, sent.Err)
}
