package stacks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/stacks/yaml"
)

// Clients are the package clients that [ClientHosts] knows.
var Clients = []string{"pip", "npm", "go"}

// ClientMethods are the methods that package clients need to read from their hosts.
var ClientMethods = []string{"GET", "HEAD"}

// ClientHosts asks a package client of this machine which hosts it is
// configured to talk to. The user's and the machine's configuration count. That
// of the working directory does not: no client is started in it, found in it or by
// a variable that leads to it, because the folder may be an agent's.
func ClientHosts(ctx context.Context, client string) ([]HostPort, error) {
	var urls []string
	var err error
	switch client {
	case "pip":
		urls, err = pipURLs(ctx)
	case "npm":
		urls, err = npmURLs(ctx)
	case "go":
		urls, err = goURLs(ctx)
	default:
		return nil, fmt.Errorf("client %q is unknown; %s", client, yaml.Nearest(client, Clients))
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s for its hosts: %w", client, err)
	}
	var hosts []HostPort
	for _, u := range urls {
		hp, err := hostOf(u)
		if err != nil {
			return nil, fmt.Errorf("ask %s for its hosts: %w", client, err)
		}
		if !slices.Contains(hosts, hp) {
			hosts = append(hosts, hp)
		}
	}
	if len(hosts) == 0 {
		return nil, fmt.Errorf("ask %s for its hosts: it is configured to use none", client)
	}
	return hosts, nil
}

// clientAnswers are what package clients have answered. Each is asked once for a file, which is
// compiled several times when it is edited.
type clientAnswers struct {
	mu   sync.Mutex
	said map[string]clientAnswer
}

type clientAnswer struct {
	hosts []HostPort
	err   error
}

// clientPatience bounds how long a package client may take to answer.
const clientPatience = 30 * time.Second

// hostsOf returns the hosts of a package client.
func (f *File) hostsOf(client string) ([]HostPort, error) {
	f.clients.mu.Lock()
	defer f.clients.mu.Unlock()
	a, ok := f.clients.said[client]
	if !ok {
		ctx, cancel := context.WithTimeout(context.Background(), clientPatience)
		defer cancel()
		a.hosts, a.err = f.Ask(ctx, client)
		if f.clients.said == nil {
			f.clients.said = map[string]clientAnswer{}
		}
		f.clients.said[client] = a
	}
	return a.hosts, a.err
}

// hostOf never quotes the URL: it may have a password in it.
func hostOf(raw string) (HostPort, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" {
		return HostPort{}, errors.New("it has a URL that cannot be parsed; correct the client's configuration")
	}
	if u.Scheme != "https" {
		return HostPort{}, fmt.Errorf("it reaches %s over %s; only https can be allowed", u.Hostname(), u.Scheme)
	}
	host := u.Hostname()
	if u.Port() != "" {
		host += ":" + u.Port()
	}
	return ParseHostPort(host)
}

// pipProgram prints pip's settings as pip itself merges them from its files and the environment,
// and its built-in ones. It imports only Python's own modules and those that are installed as pip
// is: a package that was installed "editable" has its modules where somebody works on it.
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

func pipURLs(ctx context.Context) ([]string, error) {
	// -I: no variable, and no folder but the installed ones, says what is imported.
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
		return nil, nil
	}
	urls := append([]string{config.Index}, config.Extra...)
	if slices.ContainsFunc(urls, func(u string) bool { return strings.TrimRight(u, "/") == strings.TrimRight(config.Default, "/") }) {
		// The pages of the default index link to files on another host.
		urls = append(urls, "https://"+config.Files)
	}
	return urls, nil
}

func npmURLs(ctx context.Context) ([]string, error) {
	out, err := ask(ctx, "npm", "config", "list", "--json")
	if err != nil {
		return nil, err
	}
	var config map[string]any
	if err := json.Unmarshal(out, &config); err != nil {
		return nil, fmt.Errorf("understand its answer: %w", err)
	}
	var urls []string
	for _, key := range sortedKeys(config) {
		if u, ok := config[key].(string); ok && (key == "registry" || strings.HasPrefix(key, "@") && strings.HasSuffix(key, ":registry")) {
			urls = append(urls, u)
		}
	}
	return urls, nil
}

func goURLs(ctx context.Context) ([]string, error) {
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

// goSum is the URL of a checksum database that is written "name[+key] [URL]".
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

// indexes are the variables by which a client is told its hosts, and nothing
// else: they hold URLs.
var indexes = []string{
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
