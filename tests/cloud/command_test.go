package cloud_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	cwtypes "github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs/types"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/cloud"
	"github.com/postern/postern/cloud/aws"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// postern is the operators' command, the same file as in the tests above this folder.
var postern = fleet.Built("pair/postern-cloud", "./cmd/postern", "cloud")

// run runs the command with input and returns what it says and its status.
func run(t *testing.T, input string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	file, err := postern()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), file, args...)
	cmd.Env = append(os.Environ(), "POSTERN_HOME="+t.TempDir())
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	_ = cmd.Run() // the status says it
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestDriftCommand(t *testing.T) {
	t.Parallel()
	const region = "eu-west-3"
	b, _ := built(t, "dev-aws", region)
	stack, g := planned(t, "dev-aws", region)
	file := filepath.Join(t.TempDir(), "plan.json")
	f, err := os.Create(file)
	require.NoError(t, err)
	require.NoError(t, g.Encode(f))
	require.NoError(t, f.Close())

	out, errs, status := run(t, "", "drift", "--file", stack.Path, "--graph", file)
	require.Equal(t, 0, status, errs)
	require.Equal(t, "stack eu-west-3 in eu-west-3 of account 123456789012 is as planned\n", out)

	b.revokeAll(b.agentGroup())
	out, errs, status = run(t, "", "drift", "--file", stack.Path, "--graph", file, "--json")
	require.Equal(t, 1, status, errs)
	var said struct{ Differences []cloud.Difference }
	require.NoError(t, json.Unmarshal([]byte(out), &said))
	require.NotEmpty(t, said.Differences)

	out, errs, status = run(t, "", "drift", "--file", stack.Path)
	require.Equal(t, 2, status)
	require.Empty(t, out)
	require.Contains(t, errs, "write it with `postern preview eu-west-3 --offline --graph FILE`")
}

func TestSecretCommand(t *testing.T) {
	t.Parallel()
	const region, value = "eu-central-1", "hunter2-of-the-test"
	stack, _ := planned(t, "prod-aws", region)
	cfg, err := config.LoadDefaultConfig(t.Context(), config.WithRegion(region))
	require.NoError(t, err)
	client := secretsmanager.NewFromConfig(cfg)
	name := stack.Plan.Credentials[0].Name
	ref, err := plan.ParseReference(stack.Plan.Credentials[0].Secret)
	require.NoError(t, err)

	out, errs, status := run(t, value, "secret", "put", name, "--file", stack.Path)
	require.Equal(t, 1, status)
	require.Contains(t, errs, "there is no such secret: bring the stack up first, it creates it empty")
	require.NotContains(t, out+errs, value)

	// As Pulumi makes it: empty.
	_, err = client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: &ref.Name})
	require.NoError(t, err)
	out, errs, status = run(t, "", "secret", "list", "--file", stack.Path)
	require.Equal(t, 0, status, errs)
	require.Regexp(t, name+` .* empty `, out)
	require.Regexp(t, `fleet-ca-key .* does not exist`, out)

	for i := range 2 {
		out, errs, status = run(t, value+"\n", "secret", "put", name, "--file", stack.Path)
		require.Equal(t, 0, status, errs)
		require.Contains(t, out, name+": version ")
		require.NotContains(t, out+errs, value)
		out, _, _ = run(t, "", "secret", "list", "--file", stack.Path)
		require.Regexp(t, name+` .* set, [12] version`, out, i)
	}
	got, err := client.GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: &ref.Name})
	require.NoError(t, err)
	require.Equal(t, value, *got.SecretString)

	_, errs, status = run(t, "\n", "secret", "put", name, "--file", stack.Path)
	require.Equal(t, 1, status)
	require.Contains(t, errs, "the value is empty: nothing was changed")
	_, errs, status = run(t, value, "secret", "put", "nobody", "--file", stack.Path)
	require.Equal(t, 1, status)
	require.Contains(t, errs, `no rule uses a credential "nobody"; there is: `+name)
	_, errs, status = run(t, value, "secret", "put", name, value, "--file", stack.Path)
	require.Equal(t, 2, status, "a value is not an argument")
	require.NotContains(t, strings.Split(errs, ";")[0], "put the value")
}

func TestSecretOfAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, secret := filepath.Join(dir, "local.yaml"), filepath.Join(dir, "token")
	require.NoError(t, os.WriteFile(file, []byte(`version: 1
target: local
credentials:
  token: {kind: bearer, secret: "file:token#api.key"}
destinations:
  api: {host: api.example.com, methods: [GET], paths: ["/v1/*"], credential: token}
agents:
  demo: {runtime: bubblewrap, allow: [api]}
`), 0o600))
	_, errs, status := run(t, `{"api":{"other":"hunter2"}}`, "secret", "put", "token", "--file", file)
	require.Equal(t, 1, status)
	require.Contains(t, errs, "takes field api.key of this secret")
	require.NotContains(t, errs, "hunter2")
	require.NoFileExists(t, secret)

	_, errs, status = run(t, `{"api":{"key":"hunter2"}}`, "secret", "put", "token", "--file", file)
	require.Equal(t, 0, status, errs)
	info, err := os.Stat(secret)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	out, _, _ := run(t, "", "secret", "list", "--file", file)
	require.Regexp(t, `token +file .* set +- +just now`, out)
}

// moto's filters do not filter, so that a test that passes proves ours.
func TestAuditCommand(t *testing.T) {
	t.Parallel()
	const region = "ca-central-1"
	stack, _ := planned(t, "prod-aws", region)
	out, errs, status := run(t, "", "audit", "--file", stack.Path)
	require.Equal(t, 1, status)
	require.Empty(t, out)
	require.Contains(t, errs, "there is no log group /postern/ca-central-1/proxies")

	cfg, err := config.LoadDefaultConfig(t.Context(), config.WithRegion(region))
	require.NoError(t, err)
	client := cloudwatchlogs.NewFromConfig(cfg)
	groups := aws.EventGroups(stack.Name)
	require.Len(t, groups, 2)
	for _, group := range groups {
		_, err = client.CreateLogGroup(t.Context(), &cloudwatchlogs.CreateLogGroupInput{LogGroupName: awssdk.String(group)})
		require.NoError(t, err)
	}
	group := awssdk.String(groups[0])
	now := time.Now().UTC().Truncate(time.Millisecond)
	for i, stream := range []string{"envoy/a", "envoy/b"} {
		_, err = client.CreateLogStream(t.Context(), &cloudwatchlogs.CreateLogStreamInput{LogGroupName: group, LogStreamName: &stream})
		require.NoError(t, err)
		var lines []cwtypes.InputLogEvent
		for j, verdict := range []string{audit.Allow, audit.Deny} {
			e := audit.Event{
				Time: now.Add(time.Duration(10*j+i-100) * time.Millisecond), Seq: uint64(j + 1), Node: stream, Agent: "coder", Host: "api.example.com:443", Method: "GET", Path: "/v1", Verdict: verdict, Reason: plan.ReasonAllowed, Status: 200 + 203*j,
			}
			b, err := json.Marshal(e)
			require.NoError(t, err)
			lines = append(lines, cwtypes.InputLogEvent{Timestamp: awssdk.Int64(e.Time.UnixMilli()), Message: awssdk.String(string(b))})
		}
		lines = append(lines, cwtypes.InputLogEvent{Timestamp: awssdk.Int64(now.UnixMilli()), Message: awssdk.String(`{"time":"x","level":"INFO","msg":"the supervisor's own log"}`)})
		_, err = client.PutLogEvents(t.Context(), &cloudwatchlogs.PutLogEventsInput{LogGroupName: group, LogStreamName: &stream, LogEvents: lines})
		require.NoError(t, err)
	}
	// Two replicas tell of one lease's end, each of its own nodes' publication.
	for i, stream := range []string{"control/c1", "control/c2"} {
		_, err = client.CreateLogStream(t.Context(), &cloudwatchlogs.CreateLogStreamInput{LogGroupName: awssdk.String(groups[1]), LogStreamName: &stream})
		require.NoError(t, err)
		lines := []cwtypes.InputLogEvent{{Timestamp: awssdk.Int64(now.UnixMilli()), Message: awssdk.String(`{"time":"x","level":"INFO","msg":"the control plane's own log"}`)}}
		for j, e := range []audit.Event{{Kind: "published", Publication: 7}, {Kind: "lease-ended", ID: "lease-1", Agent: "coder"}} {
			e.Time, e.Seq, e.Node, e.Verdict = now.Add(time.Duration(10*j+i+200)*time.Millisecond), uint64(j+1), stream, audit.Change
			b, err := json.Marshal(e)
			require.NoError(t, err)
			lines = append(lines, cwtypes.InputLogEvent{Timestamp: awssdk.Int64(e.Time.UnixMilli()), Message: awssdk.String(string(b))})
		}
		_, err = client.PutLogEvents(t.Context(), &cloudwatchlogs.PutLogEventsInput{LogGroupName: awssdk.String(groups[1]), LogStreamName: &stream, LogEvents: lines})
		require.NoError(t, err)
	}
	events := func(args ...string) []audit.Event {
		t.Helper()
		out, errs, status := run(t, "", append([]string{"audit", "--json", "--file", stack.Path}, args...)...)
		require.Equal(t, 0, status, errs)
		var all []audit.Event
		for dec := json.NewDecoder(strings.NewReader(out)); dec.More(); {
			var e audit.Event
			require.NoError(t, dec.Decode(&e))
			all = append(all, e)
		}
		return all
	}
	all := events("--since", "1h")
	require.Len(t, all, 7)
	kinds := map[string]int{}
	for _, e := range all {
		kinds[e.Kind]++
	}
	require.Equal(t, map[string]int{"": 4, "published": 2, "lease-ended": 1}, kinds, "what is told by all replicas alike is one event")
	for i := range all[1:] {
		require.False(t, all[i+1].Time.Before(all[i].Time), "by time, across streams")
	}
	denied := events("--denied")
	require.Len(t, denied, 2)
	require.Equal(t, audit.Deny, denied[0].Verdict)
	_, errs, status = run(t, "", "audit", "--json", "--file", stack.Path, "--agent", "somebody")
	require.Equal(t, 1, status)
	require.Contains(t, errs, `there is no agent "somebody"; write coder`)
}
