package provider_test

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"github.com/blang/semver"
	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/integration"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/provider"
)

func server(t *testing.T) integration.Server {
	t.Helper()
	impl, err := provider.New(nil)
	require.NoError(t, err)
	s, err := integration.NewServer(t.Context(), provider.Name, semver.MustParse(provider.Version), integration.WithProvider(impl))
	require.NoError(t, err)
	return s
}

func urn(kind string) resource.URN {
	return resource.NewURN("local", "postern", "", "postern:local:"+tokens.Type(kind), "x")
}

func TestSchemaHasEveryResource(t *testing.T) {
	t.Parallel()
	got, err := server(t).GetSchema(p.GetSchemaRequest{})
	require.NoError(t, err)
	for _, kind := range []string{"CertificateAuthority", "ControlPlane", "Node", "Bundle"} {
		require.Contains(t, got.Schema, `"postern:local:`+kind+`"`)
	}
}

// TestCertificateAuthority: C8. An authority stays what it is; one that is damaged is not replaced.
func TestCertificateAuthority(t *testing.T) {
	t.Parallel()
	s := server(t)
	dir := filepath.Join(t.TempDir(), "ca")
	inputs := property.NewMap(map[string]property.Value{"dir": property.New(dir), "stack": property.New("local")})
	name := urn("CertificateAuthority")

	_, err := s.Create(p.CreateRequest{Urn: name, Properties: inputs, DryRun: true})
	require.NoError(t, err)
	require.NoDirExists(t, dir, "a preview makes nothing")

	made, err := s.Create(p.CreateRequest{Urn: name, Properties: inputs})
	require.NoError(t, err)
	require.Equal(t, made.ID, made.Properties.Get("fingerprint").AsString())
	key, err := os.ReadFile(filepath.Join(dir, "ca.key"))
	require.NoError(t, err)
	info, err := os.Stat(filepath.Join(dir, "ca.key"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	for name, value := range made.Properties.All {
		require.NotContains(t, value.GoString(), string(key), "the key is not in the state, not as %s either", name)
		require.NotContains(t, value.GoString(), "PRIVATE KEY")
	}
	block, _ := pem.Decode([]byte(made.Properties.Get("certificate").AsString()))
	cert, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	require.True(t, cert.IsCA)
	require.Equal(t, 1, cert.MaxPathLen, "it signs intermediates, and they sign leaves only")
	require.NoError(t, cert.CheckSignatureFrom(cert))

	read := func() string {
		got, err := s.Read(p.ReadRequest{ID: made.ID, Urn: name, Properties: made.Properties, Inputs: inputs})
		require.NoError(t, err)
		return got.ID
	}
	require.Equal(t, made.ID, read(), "intact")

	diff, err := s.Diff(p.DiffRequest{ID: made.ID, Urn: name, State: made.Properties, OldInputs: inputs, Inputs: inputs})
	require.NoError(t, err)
	require.False(t, diff.HasChanges)
	diff, err = s.Diff(p.DiffRequest{ID: made.ID, Urn: name, State: made.Properties, OldInputs: inputs, Inputs: inputs.Set("stack", property.New("dev"))})
	require.NoError(t, err)
	require.Equal(t, map[string]p.PropertyDiff{"stack": {Kind: p.UpdateReplace}}, diff.DetailedDiff)
	require.True(t, diff.DeleteBeforeReplace)

	// C8: one that is damaged is not replaced without a word, by refresh nor by create.
	before, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	require.NoError(t, err)
	damaged := func(what string) {
		t.Helper()
		_, err := s.Read(p.ReadRequest{ID: made.ID, Urn: name, Properties: made.Properties, Inputs: inputs})
		require.ErrorContains(t, err, "is damaged, and nothing was changed: ")
		require.ErrorContains(t, err, what)
		require.ErrorContains(t, err, "`rm -f "+filepath.Join(dir, "ca.key")+" "+filepath.Join(dir, "ca.pem")+"`")
		require.NotContains(t, err.Error(), "PRIVATE KEY")
	}
	require.NoError(t, os.Chmod(filepath.Join(dir, "ca.key"), 0o640))
	damaged("others may have read")
	require.NoError(t, os.Chmod(filepath.Join(dir, "ca.key"), 0o600))
	require.Equal(t, made.ID, read())
	other := filepath.Join(t.TempDir(), "ca")
	_, err = s.Create(p.CreateRequest{Urn: name, Properties: inputs.Set("dir", property.New(other))})
	require.NoError(t, err)
	for _, file := range []string{"ca.key", "ca.pem"} {
		mine, err := os.ReadFile(filepath.Join(dir, file))
		require.NoError(t, err)
		theirs, err := os.ReadFile(filepath.Join(other, file))
		require.NoError(t, err)
		for _, content := range [][]byte{theirs, []byte("garbage"), nil} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, file), content, 0o600))
			damaged(" is not ")
			_, err := s.Create(p.CreateRequest{Urn: name, Properties: inputs})
			require.ErrorContains(t, err, "is damaged, and nothing was changed: ")
			now, err := os.ReadFile(filepath.Join(dir, file))
			require.NoError(t, err)
			require.Equal(t, string(content), string(now))
		}
		require.NoError(t, os.Remove(filepath.Join(dir, file)))
		damaged(file + " is missing")
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), mine, 0o600))
		require.Equal(t, made.ID, read())
	}

	// An engine that has lost its state takes the authority that agents trust.
	again, err := s.Create(p.CreateRequest{Urn: name, Properties: inputs})
	require.NoError(t, err)
	require.Equal(t, made.ID, again.ID)
	now, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	require.NoError(t, err)
	require.Equal(t, string(before), string(now))

	require.NoError(t, s.Delete(p.DeleteRequest{ID: made.ID, Urn: name, Properties: made.Properties}))
	require.NoDirExists(t, dir)
	require.NoError(t, s.Delete(p.DeleteRequest{ID: made.ID, Urn: name, Properties: made.Properties}), "again")
}
