package tests

import (
	"debug/elf"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/postern/postern"

// listed is what `go list` says of one package.
type listed struct {
	ImportPath, Name, Dir              string
	GoFiles, TestGoFiles, XTestGoFiles []string
	// Imports are direct; Deps is what they reach, without tests.
	Imports, Deps []string
}

// short is the path inside the module, "." for its root.
func (p listed) short() string { return short(p.ImportPath) }

func short(path string) string {
	if path == module {
		return "."
	}
	return strings.TrimPrefix(path, module+"/")
}

// packages lists every package of the module.
var packages = sync.OnceValues(func() ([]listed, error) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Dir,GoFiles,TestGoFiles,XTestGoFiles,Imports,Deps", "./...")
	cmd.Dir = ".."
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); err == io.EOF {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
})

// within reports whether the path inside the module is dir or below it.
func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

func ours(path string) bool { return path == module || strings.HasPrefix(path, module+"/") }

// standard reports whether the import path is of the standard library.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

// TestDependenciesPointOneWay holds the direction of the flow: stack file -> plan
// -> Envoy resources or Pulumi resources -> audit. A package's rule holds for
// everything below it, and for what it reaches through others.
func TestDependenciesPointOneWay(t *testing.T) {
	t.Parallel()
	all, err := packages()
	require.NoError(t, err)

	clouds := []string{"github.com/aws", "github.com/pulumi/pulumi-aws", "github.com/pulumi/pulumi-gcp", "cloud.google.com/go", "google.golang.org/api/option", "gocloud.dev/blob/s3blob", "gocloud.dev/blob/gcsblob"}
	const cloud = "the same Envoy resources serve every target; a cloud's SDK here would tie them to one"
	for _, rule := range []struct {
		from string
		// only, if not nil, are the packages of ours that may be reached.
		only []string
		// never are import paths (ours without the module's) that may not be reached.
		never []string
		why   string
	}{
		{from: "target", only: []string{}, never: []string{"github.com", "golang.org"}, why: "the policy's meaning and the process that holds the credentials both import it"},
		{from: "plan", only: []string{"target"}, why: "the plan is pure data that everybody shares; what it imports, everybody imports"},
		{
			from: "plan/network", only: []string{}, never: []string{"github.com", "golang.org"},
			why: "which addresses are whose does not depend on a plan",
		},
		{
			from: "plan/tool", only: []string{}, never: []string{"github.com", "golang.org"},
			why: "a plan contains tools, and everybody imports it",
		},
		{
			from: "advice", only: []string{"hostpath"}, never: []string{"github.com"},
			why: "everything that advises imports it",
		},
		{from: "exit", only: []string{}, never: []string{"github.com", "golang.org"}, why: "it is a table"},
		{
			from: "drive", only: []string{"exit"},
			why: "it is a command line; postern and postern-stack have it in common, and nothing else",
		},
		{from: "usage", only: []string{"exit"}, why: "every program has it, whatever it does"},
		{from: "manual", only: []string{"atomicfile"}, why: "it writes pages of any commands"},
		{
			from: "program", only: []string{}, never: []string{"github.com", "golang.org"},
			why: "the name of a command decides nothing about policy",
		},
		{
			from: "denials", never: []string{"publish", "sandbox", "xds", "envoy", "github.com/spf13"},
			why: "it reads the log, and says what an operator can do",
		},
		{
			from: "setup", never: []string{"publish", "sandbox", "xds", "envoy", "bundle", "github.com/spf13"},
			why: "it writes a file, and shows it by the command itself",
		},
		{
			from: "completion", never: []string{"publish", "sandbox", "xds", "envoy", "bundle"},
			why: "a person is typing: nothing is asked of the fleet",
		},
		{from: "home", only: []string{"atomicfile", "hostpath", "advice"}, why: "every command and daemon finds its files by it; what a folder holds is the business of whoever writes it"},
		{from: "stacks", only: []string{"plan", "target", "atomicfile", "hostpath", "home", "advice", "exit", "toolbox/repository"}, why: "a stack file is read before anything exists: loading may not depend on what is built from it"},
		{
			from: "cmd/postern-stack", never: []string{"stacks/edit"},
			why: "what is deployed is what the operator wrote: deploying never changes the file",
		},
		{
			from: "explain", never: []string{"stacks/edit"},
			why: "an explanation says what to write, and writes nothing",
		},
		{
			from: "stacks/aws", only: []string{"stacks/yaml", "plan", "target", "hostpath"},
			why: "where a stack runs follows from its section and the plan, not from how rules are written",
		},
		{
			from: "stacks/own", only: []string{"stacks/yaml", "plan", "target", "hostpath"},
			why: "a tool is read before anybody has it: no destination and no agent has a say in it",
		},
		{
			from: "stacks/yaml", only: []string{"hostpath"},
			why: "it reads values and says where they are; what they mean is the business of whoever asks for them",
		},
		{from: "explain", only: []string{"plan", "target", "stacks", "toolbox/repository", "home", "hostpath", "atomicfile", "accesslog", "guard", "advice", "visible", "exit"}, never: []string{"github.com/spf13"}, why: "an explanation follows from the stack file and the plan alone, whoever shows it"},
		{from: "publish", never: []string{"github.com/pulumi", "xds/secret", "sandbox", "envoy"}, why: "it decides who has to see a difference; what the difference becomes is not its business"},
		{
			from: "cut", never: []string{"stacks", "publish", "github.com/spf13"},
			why: "it ends what an agent has open when nothing else answers, and the stack file may not load",
		},
		{
			from: "demo", never: []string{"bundle", "publish", "sandbox", "xds", "envoy", "github.com/spf13"},
			why: "it does what a person does, by the command itself; a part of the fleet here would make it prove less",
		},
		{
			from: "observe", never: []string{"stacks", "publish", "github.com/spf13"},
			why: "how the fleet is, is asked most when the stack file does not load",
		},
		{
			from: "credential", never: append([]string{"xds/secret", "github.com/spf13"}, clouds...),
			why: "an operator gives a value, and reads none; accounts are opened by whoever calls it",
		},
		{from: "graph", only: []string{"visible"}, never: []string{"github.com"}, why: "whoever judges a plan reads it as data; an SDK here would cost every reader its compile time"},
		{from: "policies/packet", only: []string{}, never: []string{"github.com"}, why: "sets of packets are arithmetic"},
		{
			from: "policies/reach", only: []string{
				"graph", "policies/packet", "visible", "plan", "plan/cloud", "plan/network", "plan/tool", "target",
			}, never: []string{"github.com"},
			why: "what is proved follows from the plan's data and the policy alone",
		},
		{
			from: "policies/iam", only: []string{"graph", "policies/reach", "policies/packet", "visible"}, never: []string{"github.com"},
			why: "who may do what follows from the plan's documents alone",
		},
		{
			from: "policies/proof", never: []string{"sandbox", "bundle", "xds", "github.com/pulumi", "github.com/aws"},
			why: "a report follows from the stack file and the plan's data: it starts nothing, and asks nobody",
		},
		{
			from: "policies/guardrail", only: []string{
				"graph", "policies/packet", "policies/reach", "policies/proxy", "policies/iam", "plan", "target",
				"stacks/hosting", "visible", "envoy", "guard", "accesslog", "hostpath",
			},
			never: []string{"github.com/pulumi", "github.com/spf13"},
			why:   "what is found follows from the plan's data alone, whoever shows it",
		},
		{
			from: "policies/check", only: []string{"graph", "visible"}, never: []string{"github.com"},
			why: "what AWS would refuse follows from the plan's data alone",
		},
		{
			from: "policies/cost", only: []string{"graph", "visible"}, never: []string{"github.com"},
			why: "what a plan costs follows from the plan's data alone",
		},
		{
			from: "policies/cel", only: []string{
				"graph", "policies/packet", "policies/reach", "policies/proxy", "policies/iam", "policies/guardrail", "plan",
				"target", "stacks/hosting", "stacks/yaml", "hostpath", "visible", "envoy", "guard", "accesslog",
			},
			never: []string{"github.com/pulumi", "github.com/spf13"},
			why:   "an expression sees a resource or a rule, and nothing of this machine",
		},
		{
			from: "stacks/hosting", only: []string{},
			why: "under which names strangers can have a name does not depend on a stack",
		},
		{from: "cloud", only: []string{"plan", "target", "audit", "guard", "accesslog", "atomicfile", "graph", "visible"}, never: []string{"github.com/pulumi"}, why: "operators ask an account what there is; what should be there they have as data"},
		{from: "xds", never: []string{"cloud"}, why: "the control plane uses its bundle, its secrets and its signing key, and looks at nothing else in an account"},
		{from: "envoy", never: []string{"stacks"}, why: "Envoy's resources follow from the plan alone; a stack file has positions and comments that must not matter"},
		{from: "envoy", never: []string{"xds"}, why: "builders are pure and tested without a server; the server imports them"},
		{from: "envoy", never: []string{"github.com/aws", "cloud.google.com/go", "gocloud.dev"}, why: cloud},
		{from: "xds", never: []string{"stacks"}, why: "the control plane serves published plans; if it read stack files there would be two sources of truth"},
		{
			from: "bundle", only: []string{"pki", "plan", "target", "svid", "xds/api", "atomicfile", "daemon", "hostpath"},
			why: "a publication is the same whatever serves it: of the control plane it knows what that answers",
		},
		{from: "xds/api", only: []string{}, why: "every command links it to ask a control plane"},
		{
			from: "xds/ledger", only: []string{"xds/api", "svid", "pki", "atomicfile"},
			why: "who is a node, and what it has acknowledged, does not depend on what it is served",
		},
		{
			from: "xds/mint", only: []string{"plan", "target", "guard", "svid", "pki", "xds/kms", "atomicfile"},
			why: "whoever makes certificates sees the names of a plan and how many a node lets pass, neither nodes nor secrets",
		},
		{
			from: "xds/cache", never: []string{"xds/secret", "xds/state", "xds/lease", "bundle"},
			why: "it sends resources: what they mean, and who published them, is Control's business",
		},
		{from: "xds/state", only: []string{"atomicfile", "hostpath"}, why: "it keeps bytes; what they mean is its callers' business"},
		{
			from: "xds/lease", only: []string{"plan", "target", "xds/state", "atomicfile", "hostpath"},
			why: "a rule ends by the time alone, whatever the fleet does",
		},
		{from: "xds", never: []string{"sandbox"}, why: "the control plane does not know what runs behind a listener"},
		{from: "xds", never: []string{"audit"}, why: "the control plane is not on the path of a request, and must work when the log does not"},
		{from: "accesslog", only: []string{"plan", "target", "guard"}, never: []string{"github.com", "golang.org"}, why: "whoever writes the access log and whoever reads it import it"},
		{from: "audit", only: []string{"plan", "target", "guard", "accesslog", "atomicfile"}, why: "events are read long after, and elsewhere than, the fleet that wrote them"},
		{from: "pki", only: []string{}, never: []string{"github.com", "golang.org"}, why: "everything that makes a certificate imports it"},
		{from: "svid", only: []string{"atomicfile", "pki"}, why: "who a machine is does not depend on what it is served"},
		{from: "guard", only: []string{"target"}, never: []string{"github.com", "golang.org"}, why: "it runs in the process that holds the credentials, and reads what agents and upstreams wrote"},
		{from: "cmd/libguard", only: []string{"guard", "target"}, never: []string{"github.com", "golang.org"}, why: "it runs in the process that holds the credentials"},
		{from: "node", only: []string{"plan", "target", "audit", "accesslog", "envoy", "guard", "atomicfile", "hostpath"}, why: "a node runs one Envoy and its log; what Envoy enforces comes over xDS, never from here"},
		{
			from: "sandbox/inside",
			only: []string{
				"sandbox/inside/bound", "sandbox/inside/home", "sandbox/inside/root", "sandbox/inside/stdio",
				"sandbox/inside/terminal", "sandbox/counters", "sandbox/wire",
			},
			why: "it runs inside the agent's boundary: what it links is what an agent can attack",
		},
		{
			from: "cmd/postern-sandbox",
			only: []string{
				"sandbox/inside", "sandbox/inside/bound", "sandbox/inside/root", "sandbox/inside/stdio",
				"sandbox/inside/terminal", "sandbox/counters", "sandbox/wire",
			},
			why: "each command in a sandbox waits for it to start, and an agent can attack it",
		},
		{from: "sandbox/leak", only: []string{"atomicfile"}, why: "it is data, and reads what anybody wrote"},
		{from: "sandbox/counters", only: []string{}, never: []string{"github.com"}, why: "it runs inside the agent's boundary, too"},
		{from: "sandbox/trust", only: []string{}, never: []string{"github.com", "golang.org"}, why: "it is data"},
		{from: "sandbox/toolchain", only: []string{}, never: []string{"github.com", "golang.org"}, why: "it is data"},
		{from: "sandbox/view", only: []string{"sandbox/trust", "sandbox/toolchain", "sandbox/wire", "hostpath/roots", "hostpath/places"}, never: []string{"github.com"}, why: "what an agent sees is data: it starts nothing, and no runtime has a say in it"},
		{
			from: "sandbox/workspace",
			only: []string{
				"advice", "visible", "sandbox/wire", "sandbox/leak", "sandbox/workspace/tool", "sandbox/workspace/since",
				"home", "hostpath", "atomicfile",
			},
			never: []string{"github.com/spf13"},
			why:   "it reads what an agent wrote, with the rights of a person: no more than that is its business",
		},
		{
			from:  "sandbox/workspace/begun",
			only:  []string{"sandbox/wire", "home", "hostpath", "atomicfile", "advice"},
			never: []string{"github.com/spf13"},
			why:   "it knows nothing of what it keeps",
		},
		{
			from: "sandbox/run/named",
			only: []string{
				"hostpath", "hostpath/places", "sandbox/view", "sandbox/trust", "sandbox/toolchain", "sandbox/wire",
				"sandbox/workspace/tool", "visible",
			},
			why: "it is about settings, whatever is run",
		},
		{
			from: "sandbox/workspace/since", only: []string{
				"visible", "sandbox/wire", "hostpath",
				"sandbox/workspace/tool", "sandbox/workspace/beneath", "sandbox/workspace/way",
			},
			never: []string{"github.com"}, why: "it looks at what an agent wrote before a command starts and after its end",
		},
		{
			from: "sandbox/workspace/beneath", only: []string{"visible"}, never: []string{"github.com"},
			why: "whatever reads what an agent wrote goes through it",
		},
		{
			from: "sandbox/workspace/tool", only: []string{"visible", "hostpath/places"}, never: []string{"golang.org"},
			why: "it is data",
		},
		{from: "sandbox/bubblewrap", only: []string{"sandbox/view", "sandbox/trust", "sandbox/toolchain", "sandbox/wire", "hostpath/roots", "hostpath/places"}, why: "a runtime renders a view, whoever it was made for"},
		{
			from: "sandbox/container",
			only: []string{
				"sandbox/view", "sandbox/trust", "sandbox/toolchain", "sandbox/wire", "hostpath", "atomicfile",
			},
			never: []string{"github.com/docker", "github.com/moby", "github.com/containers"},
			why:   "a runtime renders a view; every `postern run` would start an engine's own library",
		},
		{
			from: "sandbox/vm",
			only: []string{
				"sandbox/view", "sandbox/trust", "sandbox/toolchain", "sandbox/wire", "sandbox/container",
				"hostpath", "atomicfile",
			},
			why: "a runtime renders a view, whoever it was made for",
		},
		{
			from: "toolbox", only: []string{"plan", "target", "sandbox/wire"}, never: []string{"github.com/spf13"},
			why: "agents write all that it reads: it runs nothing itself, and knows no place of the host",
		},
		{from: "sandbox", never: []string{"stacks", "xds", "envoy", "audit", "publish"}, why: "a sandbox is made from the published plan and the state folder; it asks no control plane"},
		{from: "cmd/postern", never: []string{"xds/secret"}, why: "the operator's CLI has no credential of the fleet's: it writes one that it is given, and reads none"},
		{from: "cmd/postern", never: clouds, why: "every `postern run` would start them; what needs an account is postern-cloud's"},
		{from: "cmd/posternd", never: clouds, why: "the process that has the secrets links no more than it needs; stacks with something in a cloud get posternd-cloud"},
		{from: ".", only: []string{"checkout", "hostpath"}, never: []string{"github.com"}, why: "go run and the engine's language host compile it for themselves, with settings that share nothing with our other programs"},
		{from: "checkout", only: []string{"hostpath"}, never: []string{"github.com"}, why: "main.go imports it"},
		{from: "cmd/postern-stack", never: clouds, why: "who has no stack in a cloud does not compile its SDK: `go run . up local` is minutes faster"},
		{from: "atomicfile", only: []string{}, why: "whatever keeps state may import it"},
		{from: "cmd", never: []string{"tests"}, why: "what is there for tests, such as models of servers, decides nothing"},
		{from: "daemon", only: []string{}, why: "it is about processes, whatever they do"},
		{from: "hostpath", only: []string{}, never: []string{"github.com"}, why: "every command asks it what it may trust: it trusts nobody itself"},
	} {
		t.Run(rule.from, func(t *testing.T) {
			t.Parallel()
			found := false
			for _, p := range all {
				if p.short() != rule.from && (rule.from == "." || !within(p.short(), rule.from)) {
					continue
				}
				found = true
				for _, dep := range p.Deps {
					if ours(dep) {
						d := short(dep)
						if rule.only != nil && !within(d, rule.from) && !slices.ContainsFunc(rule.only, func(o string) bool { return within(d, o) }) {
							t.Errorf("%s imports %s%s: %s", p.short(), d, via(all, p, dep), rule.why)
						}
						dep = d
					}
					for _, bad := range rule.never {
						if within(dep, bad) {
							t.Errorf("%s imports %s%s: %s", p.short(), dep, via(all, p, dep), rule.why)
						}
					}
				}
			}
			if !found {
				t.Errorf("the rule for %s is about no package: it was moved or removed, so move or remove its rule", rule.from)
			}
			for _, named := range slices.Concat(rule.only, rule.never) {
				if !strings.Contains(named, ".") && !exists(all, named) {
					t.Errorf("the rule for %s names %s, which does not exist any more", rule.from, named)
				}
			}
		})
	}
}

func exists(all []listed, dir string) bool {
	return slices.ContainsFunc(all, func(p listed) bool { return within(p.short(), dir) })
}

// via says through which direct import p reaches dep.
func via(all []listed, p listed, dep string) string {
	full := dep
	if !strings.Contains(dep, ".") {
		full = module + "/" + dep
	}
	if slices.Contains(p.Imports, dep) || slices.Contains(p.Imports, full) {
		return ""
	}
	for _, q := range all {
		if slices.Contains(p.Imports, q.ImportPath) && (slices.Contains(q.Deps, dep) || slices.Contains(q.Deps, full)) {
			return " (through " + q.short() + ")"
		}
	}
	return " (through a dependency)"
}

// TestPlanImportsStandardLibraryOnly is why anything may import the plan. Packages target and tool
// import nothing else either. The guard in Envoy carries target out as well.
func TestPlanImportsStandardLibraryOnly(t *testing.T) {
	t.Parallel()
	all, err := packages()
	require.NoError(t, err)
	for _, p := range all {
		if p.short() != "plan" {
			continue
		}
		for _, dep := range p.Deps {
			if !standard(dep) && dep != module+"/target" && dep != module+"/plan/tool" {
				t.Errorf("plan reaches %s: the specification of the policy must be readable and provable without anybody's library", dep)
			}
		}
		return
	}
	t.Error("there is no package plan")
}

// TestPulumiStaysWhereItIs keeps minutes of compiling out of everything else.
// Tests may use Pulumi where they need it: Deps does not count them.
func TestPulumiStaysWhereItIs(t *testing.T) {
	t.Parallel()
	all, err := packages()
	require.NoError(t, err)
	may := []string{"components", "engine", "provider", "examples", "cmd/postern-stack", "cmd/pulumi-resource-postern"}
	for _, dir := range may {
		if !exists(all, dir) {
			t.Errorf("%s may import Pulumi, but does not exist any more", dir)
		}
	}
	for _, p := range all {
		if slices.ContainsFunc(may, func(dir string) bool { return within(p.short(), dir) }) {
			continue
		}
		for _, dep := range p.Deps {
			if strings.HasPrefix(dep, "github.com/pulumi/") {
				t.Errorf("%s imports %s%s: Pulumi's SDKs cost minutes and gigabytes to compile; "+
					"only components, engine, provider, examples and their two programs may", p.short(), dep, via(all, p, dep))
				break
			}
		}
	}
}

// TestOnlyCommandsImportEverything: the parts are put together in cmd (and, for
// Pulumi, in components, engine and provider), nowhere else.
func TestOnlyCommandsImportEverything(t *testing.T) {
	t.Parallel()
	all, err := packages()
	require.NoError(t, err)
	stages := []string{"stacks", "xds", "sandbox", "audit"}
	for _, p := range all {
		if within(p.short(), "cmd") {
			continue
		}
		reached := slices.DeleteFunc(slices.Clone(stages), func(stage string) bool {
			return !slices.ContainsFunc(p.Deps, func(dep string) bool { return ours(dep) && within(short(dep), stage) })
		})
		if len(reached) == len(stages) {
			t.Errorf("%s imports all of %s: only cmd puts the stages together", p.short(), strings.Join(stages, ", "))
		}
	}
}

// TestDaemonIsStatic: posternd runs in sandboxes and images that have no libraries.
func TestDaemonIsStatic(t *testing.T) {
	t.Parallel()
	program, err := elf.Open(posternd(t))
	require.NoError(t, err)
	defer func() { require.NoError(t, program.Close()) }()
	libraries, err := program.ImportedLibraries()
	require.NoError(t, err)
	require.Empty(t, libraries)
}
