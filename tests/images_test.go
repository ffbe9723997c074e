package tests

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// instruction is one line of a Dockerfile, continuation lines joined.
type instruction struct{ word, rest string }

func dockerfile(t *testing.T, path string) []instruction {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var all []instruction
	for line := range strings.Lines(strings.ReplaceAll(string(b), "\\\n", " ")) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		all = append(all, instruction{strings.ToUpper(word), strings.TrimSpace(rest)})
	}
	return all
}

// downloads are programs that fetch something.
var downloads = regexp.MustCompile(`\b(curl|wget|git clone|pip3? install|npm install|docker pull)\b`)

// TestImageOfTheFleet: by digest, not as root, without a shell, with the Envoy
// that the rest of the repository is tested with.
func TestImageOfTheFleet(t *testing.T) {
	t.Parallel()
	var last []instruction
	for _, i := range dockerfile(t, "../images/posternd.Dockerfile") {
		if i.word == "FROM" {
			require.Regexp(t, `^[a-z0-9./:-]+@sha256:[0-9a-f]{64}( AS [a-z]+)?$`, i.rest)
			last = nil
		}
		require.NotEqual(t, "ADD", i.word, "it fetches")
		require.NotRegexp(t, downloads, i.rest)
		last = append(last, i)
	}
	require.Contains(t, last[0].rest, "/distroless/")
	words := map[string]string{}
	for _, i := range last {
		require.Contains(t, []string{"FROM", "COPY", "VOLUME", "USER", "ENTRYPOINT"}, i.word, "nothing runs in the last stage: it has no shell")
		words[i.word] = i.rest
	}
	require.Regexp(t, `^[1-9][0-9]*:[1-9][0-9]*$`, words["USER"], "a number: names can be looked up wrongly")
	var entry []string
	require.NoError(t, json.Unmarshal([]byte(words["ENTRYPOINT"]), &entry), "no shell starts it")

	tool, err := os.ReadFile("../tools/envoy.sh")
	require.NoError(t, err)
	for _, i := range dockerfile(t, "../images/posternd.Dockerfile") {
		if digest, ok := strings.CutPrefix(i.rest, "ENVOY_SHA256="); ok {
			require.Contains(t, string(tool), "x86_64) platform=manylinux_2_31_x86_64 digest="+digest)
		}
	}
	ignore, err := os.ReadFile("../images/posternd.Dockerfile.dockerignore")
	require.NoError(t, err)
	require.Contains(t, string(ignore), "\n**\n", "everything is left out that is not named")
	require.NotRegexp(t, `(?m)^!(\.git|\.cache)/?$`, string(ignore))
}

// TestImageOfAgents: what is there at boot was put in when the image was built.
func TestImageOfAgents(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join("..", "images", name))
		require.NoError(t, err)
		return string(b)
	}
	var template struct {
		Source map[string]map[string]struct {
			EncryptBoot bool   `json:"encrypt_boot"`
			SourceAMI   string `json:"source_ami"`
			IMDS        string `json:"imds_support"`
		}
		Build struct {
			Provisioner []map[string]struct {
				Source  string
				Sources []string
				Script  string
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(read("agent.pkr.json")), &template))
	source := template.Source["amazon-ebs"]["agent"]
	require.True(t, source.EncryptBoot)
	require.Equal(t, "v2.0", source.IMDS)
	require.Equal(t, "${var.base_ami}", source.SourceAMI, "an ID, not the newest of a name")
	require.NotEmpty(t, template.Build.Provisioner)
	for _, p := range template.Build.Provisioner {
		for _, step := range p {
			for _, file := range append(step.Sources, step.Source, step.Script) {
				if file != "" && !strings.HasPrefix(file, "${") {
					require.FileExists(t, filepath.Join("..", file))
				}
			}
		}
	}
	for _, script := range []string{"agent-install", "agent-start"} {
		require.NoError(t, exec.CommandContext(t.Context(), "sh", "-n", filepath.Join("..", "images", script)).Run())
		require.NotRegexp(t, downloads, read(script))
		require.NotRegexp(t, `\|\s*(ba)?sh\b`, read(script))
	}
	require.NotContains(t, read("agent-start"), "apt", "nothing is installed at boot")
	for _, flag := range []string{
		"--pull=never", "--user 1000:1000", "--cap-drop ALL", "--security-opt no-new-privileges", "--read-only", "--ipc private", "--pids-limit", "noexec,nosuid,size=",
	} {
		require.Contains(t, read("agent-start"), flag)
	}
	require.Contains(t, read("postern-agent.service"), "ExecStart=/usr/local/lib/postern/agent-start\n")
	require.Contains(t, read("agent-install"), "/usr/local/lib/postern/agent-start")
}
