package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/node"
	"github.com/postern/postern/tests/fleet"
)

// TestNoModule: a node whose Envoy would refuse every listener says so instead.
func TestNoModule(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	for name, c := range map[string]struct{ modules, says string }{
		"not there":    {empty, "find libguard.so, which Envoy loads: stat " + empty + "/libguard.so: no such file or directory: it is built with posternd and belongs next to it"},
		"relative":     {"bin", `the folder "bin" is not absolute`},
		"not set here": {"", `the folder "" is not absolute`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "n1")
			err := node.Run(t.Context(), node.Config{ID: "n1", Stack: "test", Dir: dir, XDS: "xds.sock", Audit: t.TempDir(), Envoy: "/bin/false", Modules: c.modules, Log: slog.New(slog.DiscardHandler)})
			require.ErrorContains(t, err, c.says)
			require.NoDirExists(t, dir, "nothing was begun")
		})
	}
}

// guarded is what a listener is to Envoy that has the module decide.
const guarded = `
static_resources:
  listeners:
  - name: guarded
    address: {pipe: {path: guarded.sock}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: guarded
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200}}]}]}
          http_filters:
          - name: guard
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter
              dynamic_module_config: {name: guard, do_not_close: true}
              filter_name: guard
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
`

// TestModule: what a node starts, in the environment that it gives to it, loads the
// module; and there is nothing else in that environment.
func TestModule(t *testing.T) {
	t.Parallel()
	binary := fleet.Envoy(t)
	modules := fleet.Modules(t)
	for name, c := range map[string]struct{ in, says string }{
		"as it is":        {"", "configuration 'guarded.yaml' OK\nstatus 0\n"},
		"without a place": {"unset ENVOY_DYNAMIC_MODULES_SEARCH_PATH\n", "Failed to load dynamic module"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "guarded.yaml"), []byte(guarded), 0o600))
			// It stays until the node stops it.
			script := fmt.Sprintf("#!/bin/sh\n/usr/bin/tr '\\0' '\\n' </proc/$$/environ >environ\n%s%q --mode validate --config-path guarded.yaml >saying 2>&1\n"+
				"echo status $? >>saying\n/bin/mv saying said\nexec /bin/sleep 60\n", c.in, binary)
			wrapper := filepath.Join(dir, "envoy")
			require.NoError(t, os.WriteFile(wrapper, []byte(script), 0o700))
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				done <- node.Run(ctx, node.Config{ID: "n1", Stack: "test", Dir: dir, XDS: "xds.sock", Audit: t.TempDir(), Envoy: wrapper, Modules: modules, Log: slog.New(slog.DiscardHandler)})
			}()
			t.Cleanup(func() {
				cancel()
				require.NoError(t, <-done)
			})
			var said []byte
			require.Eventually(t, func() bool {
				var err error
				said, err = os.ReadFile(filepath.Join(dir, "said"))
				return err == nil
			}, time.Minute, 10*time.Millisecond)
			require.Contains(t, string(said), c.says)
			environ, err := os.ReadFile(filepath.Join(dir, "environ"))
			require.NoError(t, err)
			require.Regexp(t, `^ENVOY_DYNAMIC_MODULES_SEARCH_PATH=`+regexp.QuoteMeta(modules)+`\nPOSTERN_PROCESSORS=[1-4]\nPOSTERN_BUDGET=[1-9][0-9]+\n$`, string(environ))
		})
	}
}
