package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/home"
)

func TestFromEnvironment(t *testing.T) { // not parallel: the environment is everybody's
	home := home.Folder{Root: t.TempDir() + "/prod"}
	values := map[string]string{
		"POSTERN_CA": "certificate", "POSTERN_CA_KEY": "key", "POSTERN_OPERATORS": "keys", "POSTERN_STORE": "s3://bundles?region=eu-west-1",
	}
	for name, value := range values {
		t.Setenv(name, value)
	}
	require.NoError(t, fromEnvironment(home, &remoteNodes{}))
	require.Equal(t, "s3://bundles?region=eu-west-1", home.BundleURL())
	b, err := os.ReadFile(home.CAKey())
	require.NoError(t, err)
	require.Equal(t, "key", string(b))
	info, err := os.Stat(home.CAKey())
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	for name := range values {
		require.Empty(t, os.Getenv(name))
	}
	require.ErrorContains(t, fromEnvironment(home, &remoteNodes{}), "is empty", "without them nothing starts")
}
