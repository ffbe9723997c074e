package stacks

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/stacks/yaml"
	"github.com/postern/postern/tests/golden"
)

// TestLoad has one archive for each case: stack.yaml and the files next to it go in, and plan.json
// with warnings.txt and aws.json, or errors.txt, must come out.
func TestLoad(t *testing.T) {
	t.Parallel()
	golden.Each(t, "testdata/load", []string{"aws.json", "plan.json", "warnings.txt", "errors.txt"}, func(t *testing.T, c *golden.Case) map[string]string {
		return outcome(t, filepath.Join(c.Dir, "stack.yaml"))
	})
}

// outcome is what loading gives, as files.
func outcome(t *testing.T, path string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	stack, err := (&File{Path: path, Real: path, Ask: fakeClients}).Parse(data)
	if err != nil {
		require.Nil(t, stack)
		var problem *yaml.Problem
		require.ErrorAs(t, err, &problem)
		return map[string]string{"errors.txt": strings.ReplaceAll(err.Error(), filepath.Dir(path)+"/stack.yaml:", "stack.yaml:") + "\n"}
	}
	stack.warn(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC))
	data, err = json.MarshalIndent(stack.Plan, "", "  ")
	require.NoError(t, err)
	out := map[string]string{"plan.json": string(data) + "\n"}
	if stack.AWS != nil {
		data, err = json.MarshalIndent(stack.AWS, "", "  ")
		require.NoError(t, err)
		out["aws.json"] = string(data) + "\n"
	}
	for _, w := range stack.Warnings {
		out["warnings.txt"] += strings.TrimPrefix(w.Error(), filepath.Dir(path)+"/") + "\n"
	}
	return out
}

func TestTheStackOfThisRepositoryLoads(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("local.yaml")
	require.NoError(t, err)
	dir := t.TempDir()
	path := filepath.Join(dir, "stacks", "local.yaml")
	write(t, path, string(data))
	_, err = Load(path)
	// Without lines: the file is the user's, who may have allowed something.
	require.ErrorContains(t, err, dir+"/.cache/demo/ca.pem does not exist; create it, or for the demo run `bin/postern demo --prepare`")

	write(t, filepath.Join(dir, ".cache/demo/ca.pem"), testCA)
	stack, err := Load(path)
	require.NoError(t, err)
	require.Equal(t, "local", stack.Name)
	require.Equal(t, "local", stack.Plan.Stack)
	require.Equal(t, path, stack.Path)
	require.Equal(t, "local", stack.Target)
	require.Equal(t, "unix:"+dir+"/.cache/demo/echo.sock", stack.Plan.Agents[0].Rules[0].Upstream.Address)
	require.Equal(t, "file://"+dir+"/.cache/demo/key", stack.Plan.Credentials[0].Secret)
	require.Regexp(t, regexp.QuoteMeta(path)+`:\d+$`, stack.Source("demo/echo"))
	require.Regexp(t, regexp.QuoteMeta(path)+`:\d+$`, stack.Source("demo/default"))
	require.Equal(t, path, stack.Source("demo/none"))
}

func TestLoadWithoutFile(t *testing.T) {
	t.Parallel()
	_, err := Load(filepath.Join(t.TempDir(), "none.yaml"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestLoadHugeFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "huge.yaml")
	write(t, path, "version: 1\ntarget: local\n#"+strings.Repeat("x", maxFile))
	_, err := Load(path)
	require.ErrorContains(t, err, path+" is larger than 1024 KiB")
}

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

// testCA is a certificate of nobody.
const testCA = `-----BEGIN CERTIFICATE-----
MIIBdjCCARugAwIBAgIUGxC/ZHczkLU4iUsE4uh1BegrW78wCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjMwNzA4NDZaGA8yMTI2MTAzMDA3MDg0
NlowDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABK+p
2fvjPmiMIbHfglbG55IoFo84VPNafxMOiVSxPlQrCTBnGejth6evJOkGCJwEZ1M7
1fOhUT891cCH9ulz7fOjUzBRMB0GA1UdDgQWBBQbUHJFPR1fNVFUt2cWqRwfJtJO
7jAfBgNVHSMEGDAWgBQbUHJFPR1fNVFUt2cWqRwfJtJO7jAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0kAMEYCIQDYcRpRKnVGmu0KZkEVE2lpXMQPmAdYbJE7
3jW6nBi9kQIhAJaaPt8tQzmOjQENvx+bmG1XshenUxnoyQlcpJNk87YM
-----END CERTIFICATE-----
`

const minimal = "version: 1\ntarget: local\nagents:\n  a: {allow: []}\n"

func opened(t require.TestingT, path string) *File {
	f, err := Open(path)
	require.NoError(t, err)
	return f
}

// fakeClients knows hosts of pip and of nobody else, and starts nothing.
func fakeClients(_ context.Context, client string) ([]HostPort, error) {
	if client != "pip" {
		return nil, errors.New(client + " is not installed here")
	}
	return []HostPort{{"index.test", 443}, {"files.test", 8443}}, nil
}
