package cloud_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/cloud"
	"github.com/postern/postern/cloud/aws"
)

// What somebody does to a key does to everything that it encrypts.
func TestDriftOfKeys(t *testing.T) {
	t.Parallel()
	b, a := built(t, "dev-aws", "ca-central-1")
	key := b.first("aws:kms/key:Key", "audit-key")
	// What drift found last, before the next change.
	before, err := a.Drift(t.Context(), b.g)
	require.NoError(t, err)
	for _, change := range []struct {
		risk, what string
		do         func() error
	}{
		{cloud.High, "its policy is not as planned", func() error {
			_, err := b.kms.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: &key, PolicyName: awssdk.String("default"), Policy: awssdk.String(
				`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"}]}`,
			)})
			return err
		}},
		{cloud.Medium, "it is no longer renewed", func() error {
			_, err := b.kms.DisableKeyRotation(t.Context(), &kms.DisableKeyRotationInput{KeyId: &key})
			return err
		}},
		{cloud.High, "it cannot be used", func() error {
			_, err := b.kms.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &key})
			return err
		}},
		{cloud.High, "no key has the alias alias/postern/ca-central-1/audit", func() error {
			_, err := b.kms.DeleteAlias(t.Context(), &kms.DeleteAliasInput{AliasName: awssdk.String("alias/postern/ca-central-1/audit")})
			return err
		}},
	} {
		require.NotContains(t, fmt.Sprint(before), change.what)
		require.NoError(t, change.do())
		found, err := a.Drift(t.Context(), b.g)
		require.NoError(t, err)
		seen := false
		for _, f := range found {
			if strings.Contains(f.What, change.what) {
				seen = true
				require.Equal(t, change.risk, f.Risk)
				require.Equal(t, "ca-central-1-audit-key", f.Resource)
				require.NotEmpty(t, f.Do)
			}
		}
		require.True(t, seen, "%+v", found)
		before = found
	}
}

// The mode of VPC Block Public Access is answered by hand, since moto does not
// know it; everything else is moto's. Beside that: whatever drift asks, the
// operators' policy allows.
func TestDriftAsksWhatOperatorsMay(t *testing.T) {
	moto, err := url.Parse(os.Getenv("AWS_ENDPOINT_URL"))
	require.NoError(t, err)
	var mu sync.Mutex
	asked, mode := map[string]bool{}, "block-bidirectional"
	forward := httputil.NewSingleHostReverseProxy(moto) //nolint:gosec // the test's own moto
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		service := regexp.MustCompile(`Credential=[^/]+/[^/]+/[^/]+/([a-z0-9]+)/`).FindStringSubmatch(r.Header.Get("Authorization"))
		action := r.Header.Get("X-Amz-Target")
		action = action[strings.LastIndexByte(action, '.')+1:]
		if form, err := url.ParseQuery(string(body)); err == nil && form.Get("Action") != "" {
			action = form.Get("Action")
		}
		mu.Lock()
		defer mu.Unlock()
		if service != nil {
			asked[service[1]+":"+action] = true
		}
		if action == "DescribeVpcBlockPublicAccessOptions" {
			fmt.Fprintf(w, `<DescribeVpcBlockPublicAccessOptionsResponse><vpcBlockPublicAccessOptions><state>update-complete</state><internetGatewayBlockMode>%s</internetGatewayBlockMode></vpcBlockPublicAccessOptions></DescribeVpcBlockPublicAccessOptionsResponse>`, mode)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	defer server.Close()
	b, _ := built(t, "prod-aws", "ap-southeast-1", "protect: true", "singletons: true")
	t.Setenv("AWS_ENDPOINT_URL", server.URL)
	a, err := aws.Open(t.Context(), account, "ap-southeast-1")
	require.NoError(t, err)
	found, err := a.Drift(t.Context(), b.g)
	require.NoError(t, err)
	require.Empty(t, found)

	mu.Lock()
	mode = "off"
	mu.Unlock()
	found, err = a.Drift(t.Context(), b.g)
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, cloud.High, found[0].Risk)
	require.Equal(t, "VPC Block Public Access is off, and block-bidirectional is planned", found[0].What)

	policy, err := os.ReadFile(filepath.Join("..", "..", "components", "aws", "document", "testdata", "operators.json"))
	require.NoError(t, err)
	delete(asked, "sts:GetCallerIdentity") // needs no permission
	require.Greater(t, len(asked), 20)
	for action := range asked {
		require.Contains(t, string(policy), `"`+action+`"`, "operators may not ask it")
	}
}
