package document

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postern/postern/tests/golden"
)

var (
	here   = Place{Partition: "aws", Region: "eu-west-1", Account: "123456789012"}
	image  = here.Account + ".dkr.ecr.eu-west-1.amazonaws.com/postern@sha256:" + strings.Repeat("0", 64)
	coder  = here.Account + ".dkr.ecr.eu-west-1.amazonaws.com/coder@sha256:" + strings.Repeat("1", 64)
	pem    = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
	store  = here.Bucket("prod-bundles-store-1a2b3c4")
	log    = here.Bucket("prod-audit-log-1a2b3c4")
	key    = here.ARN("kms", "key/00000000-0000-0000-0000-000000000001")
	logKey = here.ARN("kms", "key/00000000-0000-0000-0000-000000000002")
	role   = here.Role("postern/prod-control-task-1a2b3c4")
	shared = From{VPC: "vpc-0123456789abcdef0", Addresses: []string{"192.0.2.1"}}
)

func secret(name string) ARN { return here.ARN("secretsmanager", "secret:"+name+"-AbCdEf") }

// documents are all that there are, by the name of their golden.
func documents(more ...ARN) map[string]string {
	secrets := append([]ARN{secret("prod/anthropic"), secret("prod/github")}, more...)
	agent := AgentMachine{
		Stack: "prod", Agent: "coder", Runtime: "gvisor", Image: coder, Command: []string{"coder", "--queue", "main: \"x\" # y"},
		Gates: []string{"10.64.0.10:16402", "10.64.0.26:16402"}, CA: pem,
	}
	return map[string]string{
		"trust-tasks.json":           Trust(here, "ecs-tasks.amazonaws.com", here.ARN("ecs", "*")).Text(),
		"trust-delivery.json":        Trust(here, "firehose.amazonaws.com", here.ARN("firehose", "*")).Text(),
		"trust-forward.json":         Trust(here, "logs.amazonaws.com", here.ARN("logs", "*")).Text(),
		"trust-machines.json":        Trust(here, "ec2.amazonaws.com").Text(),
		"boundary.json":              Boundary(here, []ARN{store, log}, secrets, []ARN{logKey, key}, "/postern/prod").Text(),
		"role-execution.json":        Execution{Place: here, Image: image, Group: "/postern/prod/proxies", Secrets: []ARN{secret("postern/prod/join-token")}, Key: key}.Policy().Text(),
		"role-execution-agent.json":  Execution{Place: here, Image: coder, Group: "/postern/prod/agents", Key: key}.Policy().Text(),
		"role-control-isolated.json": Control{Place: here, Bundles: store, Secrets: secrets, Key: key, From: From{VPC: "vpc-0123456789abcdef0"}}.Policy().Text(),
		"role-control-shared.json":   Control{Place: here, Bundles: store, Secrets: secrets, Key: key, From: shared}.Policy().Text(),
		"role-machine.json":          Machine{Place: here, Token: secret("postern/prod/join-token"), Key: key, Group: "/postern/prod/proxies"}.Policy().Text(),
		"role-delivery.json":         Delivery{Place: here, Bucket: log, Key: logKey, Group: "/postern/prod/delivery"}.Policy().Text(),
		"role-forward.json":          Forward(here.ARN("firehose", "deliverystream/prod-audit-delivery"), logKey).Text(),
		"operators.json": Operators{
			Place: here, Stack: "prod", Bundles: store, Key: key, Groups: []string{"/postern/prod/proxies", "/postern/prod/control", "/postern/prod/dns"}, Audit: log, AuditKey: logKey,
		}.Policy().Text(),
		"deployer.json":          Deployer{Place: here, Stack: "prod"}.Policy().Text(),
		"deployer-iam.json":      Deployer{Place: here, Stack: "prod"}.Identities().Text(),
		"deployer-state.json":    Deployer{Place: here, Stack: "prod"}.State("BUCKET").Text(),
		"key-secrets.json":       Key(here).Text(),
		"key-audit.json":         Key(here, KeyOfLogs(here, "/postern/prod"), KeyOfAlarms(here)).Text(),
		"bucket-log.json":        Bucket(log, KeptVersions(here, log)).Text(),
		"bucket-expendable.json": Bucket(log).Text(),
		"bucket-flows.json":      Bucket(log, FlowLogs(here, log)...).Text(),
		"secret-isolated.json":   Secret(secrets[0], []ARN{role}, From{Endpoint: "vpce-0123456789abcdef0"}).Text(),
		"secret-shared.json":     Secret(secrets[0], []ARN{role}, shared).Text(),
		"masked.json":            Masked(),
		"topic.json":             Topic(here, here.ARN("sns", "prod-audit-alarms")).Text(),
		"resolver-logs.json":     ResolverLogs(here, "/postern/prod/dns", "/postern/prod/probes").Text(),
		"endpoint-secrets.json":  SecretsEndpoint(here, secrets).Text(),
		"endpoint-logs.json":     LogsEndpoint(here, "/postern/prod/proxies", "/postern/prod/control").Text(),
		"endpoint-registry.json": RegistryEndpoint(here, image, coder).Text(),
		"endpoint-storage.json":  StorageEndpoint(here, store).Text(),
		"endpoint-layers.json":   StorageEndpoint(here).Text(),
		"task-proxy.json": Proxy{
			Place: here, Stack: "prod", Image: image, Group: "/postern/prod/proxies", Ports: []uint16{16402}, Control: "control.prod.postern.internal", FleetCA: pem,
			Token: secret("postern/prod/join-token"),
		}.Container().Text(),
		"task-control.json": Controller{
			Place: here, Stack: "prod", Image: image, Group: "/postern/prod/control", Store: "s3://prod-bundles-store-1a2b3c4?region=eu-west-1", CA: pem, FleetCA: pem, Operators: pem,
			CAKey: secret("postern/prod/ca-key"), FleetCAKey: secret("postern/prod/fleet-ca-key"), Tokens: secret("postern/prod/join-tokens"),
		}.Container().Text(),
		"task-agent.json": Task{
			Place: here, Name: "coder", Image: coder, Command: []string{"coder"}, Group: "/postern/prod/agents", Gate: "http://10.64.0.10:16402", CA: pem,
		}.Container().Text(),
		"user-data-agent.yaml": agent.CloudConfig().Text(),
		"user-data-proxy.yaml": ProxyMachine{
			Stack: "prod", Region: "eu-west-1", Control: ControlAddress("control.prod.postern.internal"), Token: secret("postern/prod/join-token"),
			Group: "/postern/prod/proxies", FleetCA: pem, ReadyPort: ReadyPort,
		}.CloudConfig().Text(),
	}
}

// Documents are as people have reviewed them; JSON is indented for that.
func TestDocuments(t *testing.T) {
	t.Parallel()
	all := documents()
	for name, got := range all {
		path := filepath.Join("testdata", name)
		if strings.HasSuffix(name, ".json") {
			var indented bytes.Buffer
			require.NoError(t, json.Indent(&indented, []byte(got), "", "  "))
			got = indented.String() + "\n"
		}
		if *golden.Update {
			require.NoError(t, os.WriteFile(path, []byte(got), 0o600))
		}
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, string(want), got, "go test -update, then look at the difference")
	}
	files, err := os.ReadDir("testdata")
	require.NoError(t, err)
	for _, f := range files {
		require.Contains(t, all, f.Name(), "no document has this golden: remove it")
	}
}

// Limits of IAM (quotas, "IAM and AWS STS character limits"): a document of many
// secrets still has to fit.
func TestDocumentsFit(t *testing.T) {
	t.Parallel()
	var many []ARN
	for i := range 38 {
		many = append(many, secret(fmt.Sprintf("prod/a-service-%d", i)))
	}
	for name, d := range documents(many...) {
		if !strings.HasPrefix(name, "task") && !strings.HasPrefix(name, "user-data") { // of the longest name
			d = strings.ReplaceAll(d, "prod", strings.Repeat("p", 32))
		}
		switch {
		case strings.HasPrefix(name, "role"):
			require.Less(t, len(d), 10240, name)
		case strings.HasPrefix(name, "endpoint"), strings.HasPrefix(name, "secret"), strings.HasPrefix(name, "bucket"):
			require.Less(t, len(d), 20480, name)
		case strings.HasPrefix(name, "boundary"), strings.HasPrefix(name, "deployer"), strings.HasPrefix(name, "operators"):
			require.Less(t, len(d), 6144, name)
		case strings.HasPrefix(name, "trust"):
			require.Less(t, len(d), 2048, name)
		case strings.HasPrefix(name, "user-data"):
			require.Less(t, len(d), 16<<10, name)
		}
	}
}

// Whatever a command's words are, the machine gets them as they are, and they
// say nothing else to cloud-init.
func TestUserDataQuotes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.String(), 1, 5).Draw(t, "words")
		for i := range words {
			words[i] = strings.ToValidUTF8(words[i], "")
		}
		raw, err := base64.StdEncoding.DecodeString(AgentMachine{Agent: "coder", Command: words, CA: pem}.CloudConfig().Base64())
		require.NoError(t, err)
		var read CloudConfig
		require.NoError(t, yaml.Unmarshal(raw, &read))
		require.Len(t, read.WriteFiles, 1)
		require.Equal(t, [][]string{{"systemctl", "start", "postern-agent.service"}}, read.RunCommands)
		var machine AgentMachine
		require.NoError(t, json.Unmarshal([]byte(read.WriteFiles[0].Content), &machine))
		require.Equal(t, words, machine.Command)
	})
}
