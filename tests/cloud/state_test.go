package cloud_test

import (
	"os"
	"path/filepath"
	"testing"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"
)

// another returns the same checkout on another machine: the account is the same, and nothing else.
func (c *checkout) another(stack string, change ...string) *checkout {
	c.t.Helper()
	o := newCheckout(c.t, stack, true, change...).savesAtTheEnd()
	o.file = c.file
	o.env = append(o.env, "STANDIN="+c.file)
	return o
}

// TestStateOfATeam: with a backend that the stack file names, every command on another machine
// continues the same stack.
func TestStateOfATeam(t *testing.T) {
	t.Parallel()
	const region, bucket = "eu-west-1", "states-of-the-team"
	cfg, err := config.LoadDefaultConfig(t.Context(), config.WithRegion(region))
	require.NoError(t, err)
	_, err = s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true }).CreateBucket(t.Context(), &s3.CreateBucketInput{
		Bucket:                    awssdk.String(bucket),
		CreateBucketConfiguration: &s3types.CreateBucketConfiguration{LocationConstraint: region},
	})
	require.NoError(t, err)
	state := []string{"region: eu-west-1\n", "region: eu-west-1\n  state: s3://" + bucket + "?region=" + region + "&use_path_style=true\n"}
	one := newCheckout(t, "dev-aws", true, state...).savesAtTheEnd()
	out, status := one.run("up", "dev-aws")
	require.Equal(t, 0, status, out)
	require.NotContains(t, out, "only this machine")
	made := one.state().Made
	require.NotEmpty(t, made)
	homes, err := filepath.Glob(filepath.Join(one.dir, "home", "dev-aws-*", "pulumi", ".pulumi"))
	require.NoError(t, err)
	require.Empty(t, homes, "no state stays on the machine")

	two := one.another("dev-aws", state...)
	for _, command := range []string{"preview", "refresh", "up"} {
		out, status = two.run(command, "dev-aws")
		require.Equal(t, 0, status, out)
		require.NotRegexp(t, `\d+ (created|updated|replaced|deleted|to create|to update)`, out, command)
		require.Equal(t, made, two.state().Made)
	}
	out, status = two.run("destroy", "dev-aws")
	require.Equal(t, 0, status, out)
	out, status = one.run("refresh", "dev-aws")
	require.Equal(t, 0, status, out)
}

// TestWithoutItsState: where the state is not, no command takes a stack of the account for one that
// does not exist, and none removes the key with which an operator signs.
func TestWithoutItsState(t *testing.T) {
	t.Parallel()
	one := newCheckout(t, "dev-aws", true).savesAtTheEnd()
	out, status := one.run("up", "dev-aws")
	require.Equal(t, 0, status, out)
	require.Contains(t, out, "only this machine will have the state")
	made := one.state().Made

	two := one.another("dev-aws")
	var key string
	for _, command := range []string{"preview", "up", "refresh", "destroy"} {
		out, status = two.run(command, "dev-aws")
		if command == "up" { // the folder is there by now
			homes, err := filepath.Glob(filepath.Join(two.dir, "home", "dev-aws-*"))
			require.NoError(t, err)
			require.Len(t, homes, 1)
			key = filepath.Join(homes[0], "operator", "ed25519")
			require.NoError(t, os.MkdirAll(filepath.Dir(key), 0o700))
			require.NoError(t, os.WriteFile(key, []byte("key"), 0o600))
		}
		require.Equal(t, 1, status, out)
		require.Regexp(t, `account \d+ has the stack dev-aws in eu-west-1 already \(Vpc-[a-z0-9]+`, out, command)
		require.Contains(t, out, "PULUMI_BACKEND_URL", command)
		require.Equal(t, made, two.state().Made, command)
	}
	require.FileExists(t, key)

	// The backend that the variable names counts for both.
	states, err := filepath.Glob(filepath.Join(one.dir, "home", "dev-aws-*", "pulumi"))
	require.NoError(t, err)
	require.Len(t, states, 1)
	two.env = append(two.env, "PULUMI_BACKEND_URL=file://"+states[0])
	out, status = two.run("refresh", "dev-aws")
	require.Equal(t, 0, status, out)
	out, status = two.run("destroy", "dev-aws")
	require.Equal(t, 0, status, out)
	require.FileExists(t, key, "an operator's key outlives the stack")
	require.NotEqual(t, made, two.state().Made)
}
