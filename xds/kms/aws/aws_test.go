package aws_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	awskms "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/pki"
	"github.com/postern/postern/tests/moto"
	"github.com/postern/postern/xds/kms"
	_ "github.com/postern/postern/xds/kms/aws"
)

// The tests are not parallel: where AWS is, the environment says.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

func TestKey(t *testing.T) {
	server, stop, err := moto.StartWithKMS()
	t.Cleanup(stop)
	require.NoError(t, err)
	t.Setenv("AWS_ENDPOINT_URL", server)
	cfg, err := config.LoadDefaultConfig(t.Context(), config.WithRegion("eu-west-1"))
	require.NoError(t, err)
	client := awskms.NewFromConfig(cfg)
	create := func(spec types.KeySpec, usage types.KeyUsageType) *types.KeyMetadata {
		out, err := client.CreateKey(t.Context(), &awskms.CreateKeyInput{KeySpec: spec, KeyUsage: usage})
		require.NoError(t, err)
		return out.KeyMetadata
	}
	good := create(types.KeySpecEccNistP256, types.KeyUsageTypeSignVerify)
	_, err = client.CreateAlias(t.Context(), &awskms.CreateAliasInput{AliasName: aws.String("alias/postern-ca"), TargetKeyId: good.KeyId})
	require.NoError(t, err)

	var authority *x509.Certificate
	for _, place := range []string{"awskms://" + *good.KeyId + "?region=eu-west-1", "awskms://alias/postern-ca?region=eu-west-1", "awskms:///" + *good.Arn + "?region=eu-west-1"} {
		k, err := kms.Open(place)
		require.NoError(t, err, place)
		cert, err := pki.AgentsAuthority("prod", k, time.Now())
		require.NoError(t, err)
		block, _ := pem.Decode(cert)
		c, err := x509.ParseCertificate(block.Bytes)
		require.NoError(t, err)
		require.NoError(t, c.CheckSignatureFrom(c))
		require.True(t, c.IsCA)
		require.Equal(t, 1, c.MaxPathLen)
		if authority != nil {
			require.True(t, authority.Equal(c) || string(authority.RawSubjectPublicKeyInfo) == string(c.RawSubjectPublicKeyInfo), "it is one key")
		}
		authority = c
	}

	for name, place := range map[string]string{
		"is of another kind: make one with key spec ECC_NIST_P256": "awskms://" + *create(types.KeySpecRsa2048, types.KeyUsageTypeSignVerify).KeyId + "?region=eu-west-1",
		"is of another kind: make one with key spec":               "awskms://" + *create(types.KeySpecEccNistP384, types.KeyUsageTypeSignVerify).KeyId + "?region=eu-west-1",
		"is of another kind: make one":                             "awskms://" + *create(types.KeySpecSymmetricDefault, types.KeyUsageTypeEncryptDecrypt).KeyId + "?region=eu-west-1",
		"does not exist in that region and account":                "awskms://" + *good.KeyId + "?region=us-east-1",
		"does not exist in that region and":                        "awskms://alias/other?region=eu-west-1",
	} {
		_, err := kms.Open(place)
		require.ErrorContains(t, err, name, place)
	}
}

func TestPlaces(t *testing.T) {
	t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
	for _, place := range []string{
		"awskms://", "awskms://key", "awskms://?region=eu-west-1", "awskms://key?region=", "awskms://key?region=eu-west-1&endpoint=http://agent.test",
		"awskms://key?region=eu-west-1&region=us-east-1", "awskms://user@key?region=eu-west-1", "awskms://key?region=EU/..", "awskms://a%20b?region=eu-west-1", "awskms://%zz",
	} {
		_, err := kms.Open(place)
		require.ErrorContains(t, err, "is not a valid key: write awskms://KEY-ID?region=REGION", place)
	}
	require.True(t, kms.Is("awskms://key?region=eu-west-1"))
	for _, place := range []string{"ca.key", "env://CA_KEY", "/awskms://x", ""} {
		require.False(t, kms.Is(place))
	}
	_, err := kms.Open("awskms://key?region=eu-west-1")
	require.ErrorContains(t, err, "the key awskms://key?region=eu-west-1 cannot be used now: AWS KMS in eu-west-1 cannot be asked; check the network")
}

// TestAnswers: moto knows no policies and no disabled keys. What KMS says then
// (https://docs.aws.amazon.com/kms/latest/APIReference/API_Sign.html#API_Sign_Errors)
// is answered by hand here.
func TestAnswers(t *testing.T) {
	for code, says := range map[string]string{
		"AccessDeniedException":         "is refused to the control plane: allow its role kms:GetPublicKey and kms:Sign",
		"DisabledException":             "is disabled: enable it",
		"KMSInvalidStateException":      "cannot be used in its state: if it is about to be deleted, cancel that",
		"InvalidKeyUsageException":      "is of another kind",
		"UnsupportedOperationException": "is of another kind",
		"KMSInternalException":          `cannot be used now: AWS KMS answered "KMSInternalException"`,
	} {
		t.Run(code, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/x-amz-json-1.1")
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprintf(w, `{"__type":%q,"message":"arn:aws:iam::123456789012:user/x"}`, code)
			}))
			defer server.Close()
			t.Setenv("AWS_ENDPOINT_URL", server.URL)
			_, err := kms.Open("awskms://key?region=eu-west-1")
			require.ErrorContains(t, err, says)
			require.NotContains(t, err.Error(), "123456789012", "in words of ours")
		})
	}
}

// TestSilent: a service that takes connections and does not answer is not
// waited for longer than was promised.
func TestSilent(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-ctx.Done() }))
	defer server.Close()
	defer stop()
	t.Setenv("AWS_ENDPOINT_URL", server.URL)
	_, err := kms.Open("awskms://key?region=eu-west-1")
	require.ErrorContains(t, err, "cannot be used now: AWS KMS in eu-west-1")
}
