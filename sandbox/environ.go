package sandbox

import (
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/postern/postern/sandbox/wire"
)

// passedVariables pass from the caller's environment as they are. Everything
// else stays outside: that is where the caller's tokens are.
var passedVariables = []string{
	"TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "LANG", "LANGUAGE", "TZ", "USER", "LOGNAME", "SHELL",
	"COLUMNS", "LINES", "EDITOR", "PAGER", "CI", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED",
	"PYENV_VERSION", "RBENV_VERSION", "NODENV_VERSION", "RUSTUP_TOOLCHAIN", "CGO_ENABLED", "GOARCH", "GOOS",
	"PIP_DISABLE_PIP_VERSION_CHECK", "PIP_DEFAULT_TIMEOUT",
}

// passedPrefixes are the same for families of variables.
var passedPrefixes = []string{"LC_"}

// placeVariables name the place of a toolchain. They pass if the sandbox sees
// something of that place.
var placeVariables = []string{
	"PYENV_ROOT", "NVM_DIR", "CARGO_HOME", "RUSTUP_HOME", "GOROOT", "JAVA_HOME", "VOLTA_HOME", "FNM_DIR", "FNM_MULTISHELL_PATH",
	"ASDF_DIR", "ASDF_DATA_DIR", "MISE_DATA_DIR", "SDKMAN_DIR", "BUN_INSTALL", "DENO_INSTALL", "RBENV_ROOT", "NODENV_ROOT",
	"GOENV_ROOT", "PNPM_HOME", "VIRTUAL_ENV", "CONDA_PREFIX", "DOTNET_ROOT", "ANDROID_HOME", "M2_HOME", "GRADLE_HOME", "FLUTTER_ROOT",
}

// registryVariables say which servers the package clients ask, as URLs or
// lists of them. They pass unless they hold a credential.
var registryVariables = []string{
	"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX",
	"GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOSUMCHECK", "GOPRIVATE", "GONOPROXY", "GOFLAGS", "GOINSECURE",
	"npm_config_registry", "NPM_CONFIG_REGISTRY", "YARN_NPM_REGISTRY_SERVER", "CARGO_REGISTRIES_CRATES_IO_PROTOCOL",
	"RUSTUP_DIST_SERVER", "RUSTUP_UPDATE_ROOT", "NODEJS_ORG_MIRROR", "NVM_NODEJS_ORG_MIRROR",
}

// environ is a list of NAME=VALUE.
type environ struct{ values map[string]string }

func newEnviron(list []string) environ {
	e := environ{values: make(map[string]string, len(list))}
	for _, kv := range list {
		if name, value, ok := strings.Cut(kv, "="); ok {
			e.values[name] = value
		}
	}
	return e
}

func (e environ) get(name string) string { return e.values[name] }

// list returns the environment, sorted by name.
func (e environ) list() []string {
	out := make([]string, 0, len(e.values))
	for name, value := range e.values {
		out = append(out, name+"="+value)
	}
	slices.Sort(out)
	return out
}

// environment is all that the command gets to see.
func environment(s *Spec, caller environ, v *view, home, path, workdir string) []string {
	e := environ{values: map[string]string{}}
	for name, value := range caller.values {
		switch {
		case slices.Contains(passedVariables, name), slices.ContainsFunc(passedPrefixes, func(p string) bool { return strings.HasPrefix(name, p) }):
			e.values[name] = value
		case slices.Contains(placeVariables, name):
			if real, _, err := resolve(value); err == nil && filepath.IsAbs(value) && v.seesPartOf(real) {
				e.values[name] = value
			}
		case slices.Contains(registryVariables, name):
			if !holdsCredential(value) {
				e.values[name] = value
			}
		}
	}
	e.values["HOME"] = home
	e.values["PATH"] = path
	e.values["PWD"] = workdir
	e.values["TMPDIR"] = "/tmp"
	if e.values["USER"] == "" || e.values["USER"] == "root" {
		e.values["USER"], e.values["LOGNAME"] = userName, userName
	}
	e.values["POSTERN_AGENT"] = s.Agent
	// A denial must fail at once. What is worth a second attempt, the proxy
	// tries itself. But pip says what was wrong only when it tries again, which
	// it does without a pause the first time.
	e.values["PIP_RETRIES"] = "1"
	e.values["npm_config_fetch_retries"] = "0"
	e.values["npm_config_update_notifier"] = "false"
	// A toolchain that downloads its successor is a surprise at a wall.
	e.values["GOTOOLCHAIN"] = "local"
	for _, kv := range s.Env {
		if name, value, ok := strings.Cut(kv, "="); ok {
			e.values[name] = value
		}
	}
	// Last: without these a client does not get through, whatever was asked for.
	proxy := "http://127.0.0.1:" + strconv.Itoa(wire.ProxyPort)
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		e.values[name] = proxy
	}
	e.values["NO_PROXY"] = "localhost,127.0.0.1,::1"
	e.values["no_proxy"] = e.values["NO_PROXY"]
	for _, name := range bundleVariables {
		e.values[name] = wire.Bundle
	}
	for _, name := range caVariables {
		e.values[name] = wire.CA
	}
	return e.list()
}

// holdsCredential reports whether value, a list of URLs with any separator,
// may hold a user name or password.
func holdsCredential(value string) bool {
	for field := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ' ' || r == ',' || r == '|' || r == '\n' || r == '\t' }) {
		if !strings.Contains(field, "@") && !strings.Contains(field, "?") {
			continue
		}
		if u, err := url.Parse(field); err != nil || u.User != nil || u.RawQuery != "" || u.Host == "" {
			return true
		}
	}
	return false
}
