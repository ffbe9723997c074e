package view

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// tokens are what must not pass, whatever the variable is called.
var tokens = []string{
	"ghp_16C7e42F292c6912E7710c838347Ae178B4a", "glpat-xY9mXqz3R8v2LwTfK1sD", "sk-ant-api03-abcDEF123456", "AKIAIOSFODNN7EXAMPLE", "hunter2hunter2!", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
	"https://user:pw@index.test/simple", "https://token@index.test", "https://index.test/?token=x", "https://index.test/simple#egg", "https://dl.index.test/aB3dE5fG7hI9jK1l/acme/python/simple/",
	"https://0123456789abcdef0123.index.test/", "user:pw@index.test", "https://us er:p@b.test", "https://a.test/%61", "//u:p@a.test", "file:///etc/passwd", "$(id)", "a\nb",
}

func TestNoVariablePassesAToken(t *testing.T) {
	t.Parallel()
	for name, pass := range passedVariables {
		for _, token := range tokens {
			for _, value := range []string{token, "https://index.test," + token, "https://index.test " + token, "-mod=mod " + token, "de_DE.UTF-8:" + token, "xterm" + token, "3.12:" + token, "acme.test/x," + token} {
				require.False(t, pass(value), "%s=%s", name, value)
			}
		}
	}
}

func TestKnownHarmlessValuesPass(t *testing.T) {
	t.Parallel()
	for variable, want := range map[string]bool{
		"TERM=xterm-256color": true, "TERM=screen.xterm-256color": true, "TERM=a b": false, "LC_ALL=de_DE.UTF-8": true, "LC_TIME=C.UTF-8": true, "LC_CTYPE=POSIX": true, "LANG=ca_ES@valencia": true, "LC_SECRET=C": false, "LC_ALL=whatever": false,
		"LANGUAGE=de:en_GB:en": true, "TZ=Europe/Berlin": true, "TZ=UTC": true, "TZ=:America/Argentina/Buenos_Aires": true, "CI=true": true, "CI=x-secret": false, "COLUMNS=120": true, "SHELL=/usr/bin/zsh": true, "EDITOR=code --wait": true, "EDITOR=vim": true,
		"PYENV_VERSION=3.12.1:3.11": true, "RUSTUP_TOOLCHAIN=nightly-2026-01-02": true, "GOARCH=386": true, "GOARCH=ppc64le": true, "GOOS=linux": true, "USER=jane": true,
		"PIP_INDEX_URL=https://index.test/simple/": true, "PIP_INDEX_URL=http://index.test:8080/root/pypi/+simple/": true, "PIP_EXTRA_INDEX_URL=https://a.test https://b.test/x": true, "UV_INDEX=https://a.test": true,
		"GOPROXY=https://proxy.test,direct": true, "GOPROXY=https://proxy.test|off": true, "GOSUMDB=sum.golang.org": true, "GOSUMDB=off": true, "GOPRIVATE=*.corp.test,github.com/acme/*": true, "GOFLAGS=-mod=mod -trimpath": true, "GOFLAGS=-ldflags=-X=main.token=x": false,
		"NPM_CONFIG_REGISTRY=https://registry.test/": true, "npm_config_registry=https://registry.test/repository/npm-group/": true, "NPM_CONFIG_TOKEN=x": false, "npm_config__authToken=x": false, "PIP_PASSWORD=x": false, "SECRET=1": false,
	} {
		name, value, _ := strings.Cut(variable, "=")
		pass := passedVariables[name]
		require.Equal(t, want, pass != nil && pass(value), variable)
	}
}

func TestRefusedVariablesAreNamed(t *testing.T) {
	t.Parallel()
	b := new(machine).builder(&Input{Agent: "demo", Environ: []string{"LC_ALL=" + canary, "PIP_INDEX_URL=https://u:" + canary + "@index.test", "OTHER=" + canary, "TERM=xterm"}})
	b.inside = "/h"
	b.environment("/bin")
	var refused []string
	for _, o := range b.Omitted {
		require.Contains(t, o.Why, "--env "+o.What+" passes it")
		refused = append(refused, o.What)
	}
	require.Equal(t, []string{"LC_ALL", "PIP_INDEX_URL"}, refused)
	require.NotContains(t, fmt.Sprint(b.Omitted, b.Env), canary)
	require.Contains(t, b.Env, "TERM=xterm")
}
