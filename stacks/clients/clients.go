// Package clients asks the package clients of this machine which servers they are configured to
// talk to.
package clients

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/stacks/yaml"
)

// known are the clients, and how each is asked.
var known = []struct {
	name string
	urls func(context.Context) ([]string, error)
}{
	{"pip", pip},
	{"npm", npm},
	{"go", golang},
	{"uv", uv},
	{"poetry", pip}, // a project names others itself
	{"pnpm", answered("pnpm", "config", "get", "registry")},
	{"yarn", yarn},
	{"bun", npm}, // which reads npm's settings
	{"cargo", cargo},
	{"gem", answered("gem", "sources", "--list")},
	{"mvn", maven},
	{"nuget", answered("dotnet", "nuget", "list", "source", "--format", "short")},
	{"apt", apt},
}

// Names returns the clients that [URLs] knows.
func Names() []string {
	var names []string
	for _, c := range known {
		names = append(names, c.name)
	}
	return names
}

// Methods are the methods that package clients need to read from their hosts.
var Methods = []string{"GET", "HEAD"}

// URLs returns where a package client of this machine is configured to get packages. The user's and
// the machine's configuration count. That of the working directory does not: no client is started
// in it, found in it or by a variable that leads to it, because the folder may be an agent's.
func URLs(ctx context.Context, client string) ([]string, error) {
	i := slices.IndexFunc(known, func(k struct {
		name string
		urls func(context.Context) ([]string, error)
	},
	) bool {
		return k.name == client
	})
	if i < 0 {
		return nil, fmt.Errorf("client %q is unknown; %s", client, yaml.Nearest(client, Names()))
	}
	urls, err := known[i].urls(ctx)
	if err == nil && len(urls) == 0 {
		err = errors.New("its configuration names no server: name the hosts themselves")
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s for its hosts: %w", client, err)
	}
	return urls, nil
}

// pipProgram prints pip's settings as pip itself merges them: from its files, from the environment
// and from its defaults. It imports only Python's own modules and those that are installed like
// pip. The modules of an "editable" package are where somebody works on it.
const pipProgram = `
import sys, sysconfig
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
sys.meta_path[:] = [BuiltinImporter, FrozenImporter, PathFinder]
own = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
sys.path[:] = [p for p in sys.path if p in own or p.endswith(("-packages", "lib-dynload"))]
import json
from pip._internal.commands import create_command
from pip._internal.models.index import PyPI
options, _ = create_command("download").parse_args([])
print(json.dumps({"none": options.no_index, "index": options.index_url, "extra": options.extra_index_urls or [],
    "default": PyPI.simple_url, "files": PyPI.file_storage_domain}))
`

func pip(ctx context.Context) ([]string, error) {
	// -I: neither variables nor any folder but the installed ones decide what is imported.
	out, err := ask(ctx, "python3", "-I", "-c", pipProgram)
	if notFound := (*hostpath.NotFoundError)(nil); errors.As(err, &notFound) {
		out, err = ask(ctx, "python", "-I", "-c", pipProgram)
	}
	if err != nil {
		return nil, err
	}
	var config struct {
		None                  bool
		Index, Default, Files string
		Extra                 []string
	}
	if err := json.Unmarshal(out, &config); err != nil {
		return nil, fmt.Errorf("understand its answer: %w", err)
	}
	if config.None {
		return nil, errors.New("it is configured to use none")
	}
	urls := append([]string{config.Index}, config.Extra...)
	same := func(u string) bool { return strings.TrimRight(u, "/") == strings.TrimRight(config.Default, "/") }
	if slices.ContainsFunc(urls, same) {
		// The pages of the default index link to files on another host.
		urls = append(urls, "https://"+config.Files)
	}
	return urls, nil
}

func npm(ctx context.Context) ([]string, error) {
	out, err := ask(ctx, "npm", "config", "list", "--json")
	if err != nil {
		return nil, err
	}
	var config map[string]any
	if err := json.Unmarshal(out, &config); err != nil {
		return nil, fmt.Errorf("understand its answer: %w", err)
	}
	var urls []string
	for _, key := range slices.Sorted(maps.Keys(config)) {
		scoped := strings.HasPrefix(key, "@") && strings.HasSuffix(key, ":registry")
		if u, ok := config[key].(string); ok && (key == "registry" || scoped) {
			urls = append(urls, u)
		}
	}
	return urls, nil
}

func golang(ctx context.Context) ([]string, error) {
	out, err := ask(ctx, "go", "env", "-json", "GOPROXY", "GOSUMDB", "GONOSUMDB")
	if err != nil {
		return nil, err
	}
	var config struct{ GOPROXY, GOSUMDB, GONOSUMDB string }
	if err := json.Unmarshal(out, &config); err != nil {
		return nil, fmt.Errorf("understand its answer: %w", err)
	}
	var urls []string
	for _, u := range strings.FieldsFunc(config.GOPROXY, func(r rune) bool { return r == ',' || r == '|' }) {
		switch u = strings.TrimSpace(u); {
		case u == "direct", u == "off", u == "", strings.HasPrefix(u, "file:"):
		case strings.Contains(u, "://"):
			urls = append(urls, u)
		default:
			urls = append(urls, "https://"+u)
		}
	}
	if sum := goSum(config.GOSUMDB); sum != "" && config.GONOSUMDB != "*" {
		urls = append(urls, sum)
	}
	return urls, nil
}

// goSum returns the URL of a checksum database that is written "name[+key] [URL]".
func goSum(setting string) string {
	words := strings.Fields(setting)
	if len(words) == 0 || words[0] == "off" {
		return ""
	}
	if len(words) > 1 {
		return words[1]
	}
	name, _, _ := strings.Cut(words[0], "+")
	return "https://" + name
}

// indexes are the variables that tell a client its hosts, and nothing else: they hold URLs.
var indexes = []string{
	"UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "YARN_NPM_REGISTRY_SERVER",
	"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "npm_config_registry", "NPM_CONFIG_REGISTRY",
	"GOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE",
}

// ask runs a client outside of every project.
func ask(ctx context.Context, name string, args ...string) ([]byte, error) {
	folders, err := hostpath.AgentFolders()
	if err != nil {
		return nil, err
	}
	cmd, err := folders.Command(ctx, hostpath.User, name, args...)
	if err != nil {
		return nil, fmt.Errorf("%w: install it, or name the hosts themselves", err)
	}
	cmd.Env = folders.Environ(indexes...)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			lines := strings.Split(strings.TrimSpace(string(exit.Stderr)), "\n")
			return nil, fmt.Errorf("run %s: %w: %s", name, err, lines[len(lines)-1])
		}
		return nil, fmt.Errorf("run %s: %w", name, err)
	}
	return out, nil
}
