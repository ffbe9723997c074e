package view

import (
	"maps"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/postern/postern/sandbox/trust"
	"github.com/postern/postern/sandbox/wire"
)

// A form is the form that a variable's value may have. A variable passes only if its name is in
// passedVariables and its value has the form: a value that somebody put there by mistake, or to
// smuggle it through, may be a token.
type form func(value string) bool

// like returns the form of values that the expression matches as a whole. It is compiled when it is
// first needed: every command links this package, and waits for what is compiled at its start.
func like(expression string) form {
	compiled := sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(?:` + expression + `)$`) })
	return func(value string) bool { return compiled().MatchString(value) }
}

// listOf returns the form of lists of one form, with any of the separators.
func listOf(item form, separators string) form {
	return func(value string) bool {
		separates := func(r rune) bool { return strings.ContainsRune(separators, r) }
		for field := range strings.FieldsFuncSeq(value, separates) {
			if !item(field) {
				return false
			}
		}
		return true
	}
}

// either returns the form of values that have one of the forms.
func either(forms ...form) form {
	return func(value string) bool { return slices.ContainsFunc(forms, func(f form) bool { return f(value) }) }
}

var (
	isSwitch   = like(`|[0-9]|true|True|TRUE|false|False|FALSE|yes|no|on|off|always|auto|never`)
	isNumber   = like(`[0-9]{1,6}`)
	isLocale   = like(`(?:[a-z]{2,3}(?:_[A-Z]{2})?|C|POSIX)(?:\.[A-Za-z]{2,5}-?[0-9-]{0,8})?(?:@[a-z]{2,10})?`)
	isTerminfo = like(`[a-z0-9]{1,10}(?:[.+-][a-z0-9]{1,10}){0,3}`)
	isZone     = like(`:?[A-Z][A-Za-z_]{1,20}(?:/[A-Z][A-Za-z_]{1,20}){0,2}|` +
		`[A-Z]{3,4}(?:[+-]?[0-9]{1,2})?|Etc/GMT[+-][0-9]{1,2}`)
	isUser    = like(`[a-z_][a-z0-9_-]{0,31}`)
	isProgram = like(`(?:[a-z][a-z0-9.-]{0,15}|(?:/[a-z][a-z0-9.-]{0,15}){1,6})(?: -{1,2}[A-Za-z-]{1,16}){0,3}`)
	isVersion = like(`(?:[a-z]{1,10}-?)?[0-9]{1,4}(?:[.-][0-9]{1,4}){0,3}(?:-?[a-z]{1,5}[0-9]{0,3})?|` +
		`system|(?:stable|beta|nightly)(?:-[0-9]{4}-[0-9]{2}-[0-9]{2})?`)
	isPlatform  = like(`386|s390x|[a-z]{2,9}[0-9]{0,2}(?:le)?`)
	isName      = like(`[\pL .'-]{1,64}`)
	isAddress   = like(`[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9.-]{1,64}`)
	isPlainHost = like(`[A-Za-z0-9.-]+(?::[0-9]{1,5})?`)
	isPlainPath = like(`[A-Za-z0-9._~+/-]*`)
	isRegistry  = either(like(`direct|off`), isPlainURL)
	isPattern   = like(`[A-Za-z0-9.*_-]+(?:/[A-Za-z0-9.*_-]+)*`)
	isModules   = listOf(func(pattern string) bool { return isPattern(pattern) && !hasToken(pattern) }, ",")
)

// passedVariables pass from the caller's environment if their values have the form. Everything else
// stays outside, because the caller's tokens are there.
var passedVariables = map[string]form{
	"TERM": isTerminfo, "COLORTERM": like(`truecolor|24bit|[a-z]{1,10}`), "NO_COLOR": isSwitch,
	"FORCE_COLOR": isSwitch, "CLICOLOR": isSwitch,
	"COLUMNS": isNumber, "LINES": isNumber, "CI": isSwitch, "TZ": isZone,
	"LANG": isLocale, "LANGUAGE": listOf(isLocale, ":"), "LC_ALL": isLocale, "LC_ADDRESS": isLocale,
	"LC_COLLATE": isLocale, "LC_CTYPE": isLocale, "LC_IDENTIFICATION": isLocale,
	"LC_MEASUREMENT": isLocale, "LC_MESSAGES": isLocale, "LC_MONETARY": isLocale, "LC_NAME": isLocale,
	"LC_NUMERIC": isLocale, "LC_PAPER": isLocale, "LC_TELEPHONE": isLocale, "LC_TIME": isLocale,
	"USER": isUser, "LOGNAME": isUser, "SHELL": isProgram, "EDITOR": isProgram, "PAGER": isProgram,
	"PYTHONDONTWRITEBYTECODE": isSwitch, "PYTHONUNBUFFERED": isSwitch, "PIP_DISABLE_PIP_VERSION_CHECK": isSwitch,
	"PIP_DEFAULT_TIMEOUT": isNumber,
	"PYENV_VERSION":       listOf(isVersion, ":"), "RBENV_VERSION": isVersion, "NODENV_VERSION": isVersion,
	"RUSTUP_TOOLCHAIN": isVersion,
	"GIT_AUTHOR_NAME":  isName, "GIT_AUTHOR_EMAIL": isAddress, "GIT_COMMITTER_NAME": isName,
	"GIT_COMMITTER_EMAIL": isAddress,
	"CGO_ENABLED":         isSwitch, "GOARCH": isPlatform, "GOOS": isPlatform,
	// Which servers the package clients ask.
	"PIP_INDEX_URL": isRegistry, "PIP_EXTRA_INDEX_URL": listOf(isRegistry, " \n\t"), "UV_INDEX_URL": isRegistry,
	"UV_EXTRA_INDEX_URL": listOf(isRegistry, " "), "UV_DEFAULT_INDEX": isRegistry,
	"UV_INDEX": listOf(isRegistry, " "),
	"GOPROXY":  listOf(isRegistry, ",|"), "GOSUMDB": like(`off|[a-z]{1,20}(?:\.[a-z]{1,20}){1,3}`),
	"GOPRIVATE": isModules, "GONOPROXY": isModules, "GONOSUMDB": isModules, "GOINSECURE": isModules,
	"GOFLAGS": listOf(
		like(`-mod=(?:mod|vendor|readonly)|-trimpath|-modcacherw|-buildvcs=(?:true|false|auto)|-[vxn]`), " ",
	),
	"npm_config_registry": isRegistry, "NPM_CONFIG_REGISTRY": isRegistry, "YARN_NPM_REGISTRY_SERVER": isRegistry,
	"CARGO_REGISTRIES_CRATES_IO_PROTOCOL": like(`git|sparse`),
	"RUSTUP_DIST_SERVER":                  isRegistry, "RUSTUP_UPDATE_ROOT": isRegistry,
	"NODEJS_ORG_MIRROR": isRegistry, "NVM_NODEJS_ORG_MIRROR": isRegistry,
}

// placeVariables name the place of a toolchain. They pass if the sandbox sees
// something of that place.
var placeVariables = []string{
	"PYENV_ROOT", "NVM_DIR", "CARGO_HOME", "RUSTUP_HOME", "GOROOT", "JAVA_HOME", "VOLTA_HOME", "FNM_DIR",
	"FNM_MULTISHELL_PATH",
	"ASDF_DIR", "ASDF_DATA_DIR", "MISE_DATA_DIR", "SDKMAN_DIR", "BUN_INSTALL", "DENO_INSTALL", "RBENV_ROOT",
	"NODENV_ROOT",
	"GOENV_ROOT", "PNPM_HOME", "VIRTUAL_ENV", "CONDA_PREFIX", "DOTNET_ROOT", "ANDROID_HOME", "M2_HOME", "GRADLE_HOME",
	"FLUTTER_ROOT",
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

// git adds a setting of git's, after those that are there.
func (e environ) git(key, value string) {
	n, err := strconv.Atoi(e.get("GIT_CONFIG_COUNT"))
	if err != nil || n < 0 {
		n = 0
	}
	e.values["GIT_CONFIG_COUNT"] = strconv.Itoa(n + 1)
	e.values["GIT_CONFIG_KEY_"+strconv.Itoa(n)] = key
	e.values["GIT_CONFIG_VALUE_"+strconv.Itoa(n)] = value
}

// list returns the environment, sorted by name.
func (e environ) list() []string {
	out := make([]string, 0, len(e.values))
	for name, value := range e.values {
		out = append(out, name+"="+value)
	}
	slices.Sort(out)
	return out
}

// environment sets all variables that the command gets to see. path is the value of PATH.
func (b *builder) environment(path string) {
	e := environ{values: map[string]string{}}
	if b.in.Image != nil {
		e = newEnviron(b.in.Image.Env)
	}
	for _, name := range slices.Sorted(maps.Keys(b.caller.values)) {
		value := b.caller.get(name)
		wanted, place := passedVariables[name], slices.Contains(placeVariables, name)
		switch {
		case name == "CARGO_HOME" && b.in.Home != "":
			b.omit(name, "its caches are in the agent's home") // its programs are on PATH
		case place && b.isPlace(value), !place && wanted != nil && wanted(value):
			e.values[name] = value
		case place:
			b.omit(name, "nothing of the place that it names is shown")
		case wanted != nil:
			// Only the name: the value may be a secret. The command line's --env passes a variable
			// as it is.
			b.omit(name, "its value is not one of those that are known to be harmless: --env "+name+" passes it")
		}
	}
	e.values["HOME"] = b.inside
	e.values["PATH"] = path
	e.values["PWD"] = b.Workdir.Path
	e.values["TMPDIR"] = "/tmp"
	if e.values["USER"] == "" || e.values["USER"] == "root" {
		e.values["USER"], e.values["LOGNAME"] = userName, userName
	}
	e.values["POSTERN_AGENT"] = b.Agent
	// A denial must fail at once. What is worth a second attempt, the proxy
	// tries itself. But pip says what was wrong only when it tries again, which
	// it does without a pause the first time.
	e.values["PIP_RETRIES"] = "1"
	maps.Copy(e.values, atAWall)
	if b.venv != "" {
		e.values["UV_PROJECT_ENVIRONMENT"] = b.venv
	}
	for _, kv := range b.in.Env {
		if name, value, ok := strings.Cut(kv, "="); ok {
			e.values[name] = value
		}
	}
	if r := b.in.Repository; r != nil && r.Above {
		e.values["GIT_DISCOVERY_ACROSS_FILESYSTEM"] = "1" // .git is on the way up, and a mount
	}
	if len(b.Protected) > 0 || len(b.GitFolders) > 0 {
		// Or `git checkout` of a remote's branch fails: it would write .git/config.
		e.git("branch.autoSetupMerge", "false")
	}
	maps.Copy(e.values, required(b.Hostname)) // last
	b.Env = e.list()
}

// required returns the variables without which a client does not get through, whatever was asked
// for.
func required(hostname string) map[string]string {
	// The sandbox itself, for which no client is to ask the proxy. Some clients know ranges, some
	// take only what is written out. None of it is in brackets: httpx (Python) takes that for a
	// port.
	local := "localhost,.localhost," + hostname + ",127.0.0.1,127.0.0.2,127.0.1.1,127.0.0.0/8,0.0.0.0,::1,::"
	values := map[string]string{"NO_PROXY": local, "no_proxy": local}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		values[name] = "http://127.0.0.1:" + strconv.Itoa(wire.ProxyPort)
	}
	for _, name := range trust.BundleVariables {
		values[name] = wire.Bundle
	}
	for _, name := range trust.AuthorityVariables {
		values[name] = wire.CA
	}
	return values
}

// Required reports whether a variable has a value that nobody can change, because clients would not
// get through with another one.
func Required(name string) bool {
	_, ok := required("")[name]
	return ok
}

// atAWall are settings of clients that suit a network that denies, and nobody to ask. The command
// line's --env comes before them.
var atAWall = map[string]string{
	"npm_config_fetch_retries": "0", "YARN_HTTP_RETRY": "0", "BUN_CONFIG_HTTP_RETRY_COUNT": "0",
	"UV_HTTP_RETRIES": "0", "POETRY_REQUESTS_MAX_RETRIES": "0", "CONDA_REMOTE_MAX_RETRIES": "0",
	"CARGO_NET_RETRY": "0", "RUSTUP_MAX_RETRIES": "0", "BUNDLE_RETRY": "0",
	"NUGET_ENHANCED_MAX_NETWORK_TRY_COUNT": "1",
	"MAVEN_ARGS": "-Daether.connector.http.retryHandler.count=0 " +
		"-Daether.transport.http.retryHandler.count=0",
	"GRADLE_OPTS": "-Dorg.gradle.internal.repository.max.retries=1",
	// A toolchain that downloads its successor is a surprise at a wall.
	"npm_config_update_notifier": "false", "GOTOOLCHAIN": "local",
	// A password that somebody types has no way out: the proxy adds the credential.
	"GIT_TERMINAL_PROMPT": "0", "PIP_NO_INPUT": "1",
	"GIT_CONFIG_SYSTEM": "/etc/gitconfig", // also for a git that is not the distribution's
	// The caller's key is not here. So not even a repository that asks for it is signed.
	"GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "commit.gpgSign", "GIT_CONFIG_VALUE_0": "false",
	"GIT_CONFIG_KEY_1": "tag.gpgSign", "GIT_CONFIG_VALUE_1": "false",
}

// isPlace reports whether the sandbox sees something of the place.
func (b *builder) isPlace(path string) bool {
	real, _, err := b.resolve(path)
	return err == nil && filepath.IsAbs(path) && b.seesPartOf(real)
}

// isPlainURL reports whether value is the address of a server and nothing more: no user, no
// password, no parameters, and no part of the path that may be a token, as some registries have
// there.
func isPlainURL(value string) bool {
	u, err := url.Parse(value)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http" || u.Scheme == "sparse+https") && u.User == nil &&
		isPlainHost(u.Host) && isPlainPath(u.EscapedPath()) && u.RawQuery == "" && !u.ForceQuery && u.Fragment == "" &&
		!hasToken(u.Host+u.Path)
}

// hasToken reports whether a part of a path is long and of letters and digits mixed, or only of
// hexadecimal digits.
func hasToken(path string) bool {
	for part := range strings.FieldsFuncSeq(path, func(r rune) bool { return strings.ContainsRune("/.:*", r) }) {
		if len(part) < 16 {
			continue
		}
		if strings.ContainsAny(part, "0123456789") || strings.ToLower(part) != part && strings.ToUpper(part) != part {
			return true
		}
	}
	return false
}
