package tests

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/sandbox/trust"
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

// TestLibguardOfImage runs the line that builds libguard.so for the image: it says
// so if the C library of the last stage is too old for what was built.
func TestLibguardOfImage(t *testing.T) {
	t.Parallel()
	var line string
	for _, i := range dockerfile(t, "../images/posternd.Dockerfile") {
		if i.word == "RUN" && strings.Contains(i.rest, "libguard") {
			line = i.rest
		}
	}
	ignore, err := os.ReadFile("../images/posternd.Dockerfile.dockerignore")
	require.NoError(t, err)
	require.Contains(t, string(ignore), "\n!cmd/libguard/*.[ch]\n", "it is not only Go")
	for glibc, fails := range map[string]bool{"GLIBC_2.36": false, "GLIBC_2.4": true} {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.NewReplacer("/out/", dir+"/", "GLIBC_2.36", glibc).Replace(line))
		cmd.Dir = ".."
		out, err := cmd.CombinedOutput()
		if fails {
			require.Error(t, err)
			require.Regexp(t, "libguard.so needs GLIBC_2.[0-9.]+, and the last stage has "+glibc, string(out))
			continue
		}
		require.NoError(t, err, "%s", out)
		require.FileExists(t, filepath.Join(dir, "libguard.so"))
		require.NoFileExists(t, filepath.Join(dir, "libguard.h"))
	}
}

// machineImages are what the launch templates of components/aws start, and what
// is in them.
var machineImages = map[string]struct {
	service, script string
	build           string // name in machines.pkr.json
}{
	"agent.json": {"postern-agent.service", "agent-start", "agent"},
	"node.json":  {"postern-node.service", "node-start", "node"},
}

func image(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "images", name))
	require.NoError(t, err)
	return string(b)
}

// TestMachineImages: what is there at boot was put in when the image was built,
// and it is what user data writes the settings for and starts.
func TestMachineImages(t *testing.T) {
	t.Parallel()
	var template struct {
		Source map[string]map[string]struct {
			EncryptBoot bool   `json:"encrypt_boot"`
			SourceAMI   string `json:"source_ami"`
			IMDS        string `json:"imds_support"`
		}
		Build []struct {
			Name        string
			Sources     []string
			Provisioner []map[string]struct {
				Source  string
				Sources []string
				Script  string
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(image(t, "machines.pkr.json")), &template))
	put := map[string][]string{}
	for _, b := range template.Build {
		require.Equal(t, []string{"source.amazon-ebs." + b.Name}, b.Sources)
		source := template.Source["amazon-ebs"][b.Name]
		require.True(t, source.EncryptBoot)
		require.Equal(t, "v2.0", source.IMDS)
		require.Equal(t, "${var.base_ami}", source.SourceAMI, "an ID, not the newest of a name")
		for _, p := range b.Provisioner {
			for _, step := range p {
				for _, file := range append(step.Sources, step.Source, step.Script) {
					if file != "" && !strings.HasPrefix(file, "${") {
						require.FileExists(t, filepath.Join("..", file))
						put[b.Name] = append(put[b.Name], filepath.Base(file))
					}
				}
			}
		}
	}
	for settings, x := range machineImages {
		userData := "user-data-" + map[string]string{"agent": "agent", "node": "proxy"}[x.build] + ".yaml"
		b, err := os.ReadFile(filepath.Join("..", "components", "aws", "document", "testdata", userData))
		require.NoError(t, err)
		require.Contains(t, string(b), "- path: /etc/postern/"+settings+"\n")
		require.Contains(t, string(b), "- - systemctl\n  - start\n  - "+x.service+"\n")
		require.Contains(t, put[x.build], x.service)
		require.Contains(t, put[x.build], x.script)
		require.Contains(t, image(t, x.service), "ConditionPathExists=/etc/postern/"+settings+"\n")
		require.Contains(t, image(t, x.service), "ExecStart=/usr/local/lib/postern/"+x.script+"\n")
		install := image(t, x.build+"-install")
		require.Contains(t, install, "/usr/local/lib/postern/"+x.script+"\n")
		require.Contains(t, install, "/tmp/"+x.service)
		start := image(t, x.script)
		require.Contains(t, start, "settings=/etc/postern/"+settings+"\n")
		require.NotContains(t, start, "apt", "nothing is installed at boot")
		// Every setting that a script reads is one that user data has.
		for _, m := range regexp.MustCompile(`\bget '?\.([a-z_]+)`).FindAllStringSubmatch(start, -1) {
			require.Contains(t, string(b), `"`+m[1]+`":`)
		}
		for _, flag := range []string{"--pull=never", "--cap-drop ALL", "--security-opt no-new-privileges", "--read-only", "--ipc private", "noexec,nosuid,size="} {
			require.Contains(t, start, flag)
		}
		require.Regexp(t, `--user [1-9][0-9]*:[1-9]`, start)
	}
	// An agent reaches one address, where all of its gates are behind.
	require.Contains(t, image(t, "agent-start"), "--network agent ")
	require.Contains(t, image(t, "agent-install"), "docker network create --internal ")
	require.Contains(t, image(t, "agent-gate"), ".gates[]")
	require.Contains(t, image(t, "postern-agent.service"), "Requires=docker.service postern-gate.service\n")
	require.Contains(t, put["agent"], "postern-gate.service")
	// A proxy has no way to what its machine's role may do.
	require.Regexp(t, `iptables .* --uid-owner 65532 --destination 169\.254\.0\.0/16 --jump REJECT`, image(t, "node-start"))
	require.Contains(t, image(t, "node-start"), "--log-opt mode=blocking")
}

// TestScriptsOfImages: they are correct as far as a shell and shellcheck can
// tell, and fetch nothing besides packages.
func TestScriptsOfImages(t *testing.T) {
	t.Parallel()
	scripts := []string{"agent-install", "agent-start", "agent-gate", "node-install", "node-start", "machine-install"}
	for _, script := range scripts {
		out, err := exec.CommandContext(t.Context(), "sh", "-n", filepath.Join("..", "images", script)).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.NotRegexp(t, downloads, image(t, script))
		require.NotRegexp(t, `\|\s*(ba)?sh\b`, image(t, script))
		require.NotRegexp(t, `\beval\b`, image(t, script))
	}
	if shellcheck, err := exec.LookPath("shellcheck"); err == nil { // where it is installed
		cmd := exec.CommandContext(t.Context(), shellcheck, append([]string{"--external-sources"}, in("images", scripts)...)...)
		cmd.Dir = ".."
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}

func in(dir string, names []string) []string {
	var out []string
	for _, name := range names {
		out = append(out, filepath.Join(dir, name))
	}
	return out
}

// TestAgentStartRefuses runs the script as far as it gets without Docker: what it
// refuses, it refuses for good, and says what to do.
func TestAgentStartRefuses(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("jq"); err != nil && os.Getenv("CI") != "true" {
		t.Skip("jq is not installed")
	}
	const baked = "registry.test/coder@sha256:00"
	for name, c := range map[string]struct{ settings, says string }{
		"another image":   {`{"image": "registry.test/coder@sha256:11", "runtime": "gvisor"}`, "build one with that, and write its ID as ami"},
		"unknown runtime": {`{"image": "` + baked + `", "runtime": "none"}`, "there is no runtime none"},
		"no KVM":          {`{"image": "` + baked + `", "runtime": "vm"}`, "write a .metal type, or runtime: gvisor"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "agent.json"), []byte(c.settings), 0o600))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "image"), []byte(baked), 0o600))
			script := strings.NewReplacer("/etc/postern", dir, "/run/postern", dir, "/dev/kvm", filepath.Join(dir, "kvm")).Replace(image(t, "agent-start"))
			cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
			cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
			out, err := cmd.CombinedOutput()
			failed := (*exec.ExitError)(nil)
			require.ErrorAs(t, err, &failed, "%s", out)
			require.Equal(t, 78, failed.ExitCode(), "%s", out)
			require.Contains(t, string(out), c.says)
		})
	}
	require.Contains(t, image(t, "postern-agent.service"), "RestartPreventExitStatus=78\n")
}

// TestAgentStart runs the whole script with a Docker that writes down what it is
// told: every word of the command is one argument, each runtime is Docker's name
// for it, and clients trust and reach what they do in a sandbox of one machine.
func TestAgentStart(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("jq"); err != nil && os.Getenv("CI") != "true" {
		t.Skip("jq is not installed")
	}
	for runtime, docker := range map[string]string{"container": "runc", "gvisor": "runsc", "vm": "io.containerd.kata.v2"} {
		t.Run(runtime, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			words := []string{"run", "a b", "$(touch owned)", "'; --privileged", ""}
			settings, err := json.Marshal(map[string]any{"image": "x@sha256:00", "runtime": runtime, "command": words, "ca": "PEM"})
			require.NoError(t, err)
			for name, content := range map[string]string{
				"agent.json": string(settings), "image": "x@sha256:00", "docker": "#!/bin/sh\nprintf '%s\\0' \"$@\" >" + dir + "/told\n",
				"kvm": "", "shim": "", "roots": "ROOTS\n",
			} {
				require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o700))
			}
			cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.NewReplacer(
				"/etc/postern", dir, "/run/postern", filepath.Join(dir, "run"), "/var/lib/postern", filepath.Join(dir, "lib"), "/dev/kvm", filepath.Join(dir, "kvm"),
				"/usr/local/bin/containerd-shim-kata-v2", filepath.Join(dir, "shim"), "/etc/ssl/certs/ca-certificates.crt", filepath.Join(dir, "roots"),
				"-o 1000 -g 1000", "",
			).Replace(image(t, "agent-start")))
			cmd.Env, cmd.Dir = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}, dir
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			told, err := os.ReadFile(filepath.Join(dir, "told"))
			require.NoError(t, err)
			all := strings.Split(strings.TrimSuffix(string(told), "\x00"), "\x00")
			at := len(all) - len(words)
			require.Equal(t, "postern-agent:baked", all[at-1])
			require.Equal(t, words, all[at:])
			require.NoFileExists(t, filepath.Join(dir, "owned"))
			require.NotContains(t, all[:at], "--privileged")
			require.Equal(t, docker, all[slices.Index(all, "--runtime")+1])
			run := filepath.Join(dir, "run")
			var mounts, environment []string
			for i, word := range all[:at] {
				switch word {
				case "--volume":
					mounts = append(mounts, all[i+1])
				case "--env":
					environment = append(environment, all[i+1])
				}
			}
			require.Equal(t, []string{filepath.Join(dir, "lib", "work") + ":/work", run + ":" + run + ":ro"}, mounts)
			require.DirExists(t, filepath.Join(dir, "lib", "work"))
			for _, name := range trust.BundleVariables {
				require.Contains(t, environment, name+"="+run+"/bundle.pem")
			}
			for _, name := range trust.AuthorityVariables {
				require.Contains(t, environment, name+"="+run+"/ca.pem")
			}
			for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"} {
				require.Contains(t, environment, name+"=http://172.30.0.1:3128")
			}
			for file, content := range map[string]string{"ca.pem": "PEM\n", "bundle.pem": "ROOTS\nPEM\n"} {
				got, err := os.ReadFile(filepath.Join(run, file))
				require.NoError(t, err)
				require.Equal(t, content, string(got))
			}
		})
	}
}
