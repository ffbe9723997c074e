package mint

import (
	"crypto"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/pki"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/moto"
	cloudkey "github.com/postern/postern/xds/kms"
	_ "github.com/postern/postern/xds/kms/aws"
)

// outage is a key that cannot be used for a while.
type outage struct {
	crypto.Signer
	down bool
}

func (o *outage) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if o.down {
		return nil, errors.New("the key is away")
	}
	return o.Signer.Sign(r, digest, opts)
}

// TestKeyIsAway: without the CA's key what there is goes on until it ends, and
// then there are no leaves.
func TestKeyIsAway(t *testing.T) {
	t.Parallel()
	a, _ := rootFor(t)
	key := &outage{Signer: a.key}
	m, err := New(a.root, key, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "leaves"}, []string{"result"}),
		slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	allow := func(host string, now time.Time) error {
		return m.Also(&plan.Plan{Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{
			{ID: "a/1", Host: host, Port: 443, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath}},
		}}}}, now)
	}
	start := time.Now()
	require.NoError(t, allow("api.one.test", start))

	key.down = true
	require.NoError(t, m.Renew(start.Add(intermediateLifetime/3)), "it is not due")
	late := start.Add(intermediateLifetime - time.Hour)
	require.ErrorContains(t, m.Renew(late), "the agents' certificates cannot be renewed, and end at ")
	require.ErrorContains(t, m.Renew(late), "the key is away")
	require.NoError(t, allow("api.one.test", late), "a kill does not need the key")
	require.ErrorContains(t, allow("new.test", late), "the key is away")
	_, err = m.authority.mint("api.one.test", late)
	require.NoError(t, err)

	after := start.Add(intermediateLifetime + time.Minute)
	require.NoError(t, allow("api.one.test", after), "a kill does not need the key")
	_, err = m.authority.mint("api.one.test", after)
	require.ErrorContains(t, err, "has expired, and could not be renewed")

	key.down = false
	require.NoError(t, m.Renew(after))
	_, err = m.authority.mint("api.one.test", after)
	require.NoError(t, err)
}

// TestKeyInCloud: the CA's certificate must be of the key.
func TestKeyInCloud(t *testing.T) { // not parallel: where AWS is, the environment says
	server, stop, err := moto.StartWithKMS()
	t.Cleanup(stop)
	require.NoError(t, err)
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_ENDPOINT_URL": server,
	} {
		t.Setenv(name, value)
	}
	cfg, err := config.LoadDefaultConfig(t.Context(), config.WithRegion("eu-west-1"))
	require.NoError(t, err)
	out, err := kms.NewFromConfig(cfg).CreateKey(t.Context(),
		&kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify})
	require.NoError(t, err)
	place := "awskms://" + *out.KeyMetadata.KeyId + "?region=eu-west-1"

	key, err := cloudkey.Open(place)
	require.NoError(t, err)
	cert, err := pki.AgentsAuthority("test", key, time.Now())
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, cert, 0o600))
	a, err := load(file, place)
	require.NoError(t, err)
	require.NoError(t, a.cover([]string{"api.one.test"}, time.Now()))
	p := pair(t, a, "api.one.test")
	require.Len(t, p.Certificate, 2)

	_, other := rootFor(t)
	_, err = load(other, place)
	require.ErrorContains(t, err, "is not of the key awskms://")
	require.NoError(t, os.WriteFile(file, []byte("no PEM"), 0o600))
	_, err = load(file, place)
	require.ErrorContains(t, err, "does not begin with a certificate")
}
