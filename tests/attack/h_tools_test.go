package attack

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/stretchr/testify/require"
)

// hostTools are attacks by way of the tools that people install in their home.
var hostTools = []HostCase{
	{ID: "H20", What: "the tokens in the settings of toolchains on PATH are read (W10)", Run: func(l *laptop) {
		const token = "token-8c1f"
		var path []string
		for _, files := range []string{
			"miniconda3: bin/tool conda-meta/state pip.conf .condarc", ".pyenv: shims/tool plugins/p/.git/config versions/3/pip.conf",
			".nvm/versions/node/v20: bin/tool etc/npmrc lib/node_modules/npm/npmrc", ".sdkman/candidates/maven/3: bin/tool conf/settings.xml",
			"bin: tool .git/config token .env", ".dotnet: tool corefx/cryptography/x509stores/my/x.pfx",
		} {
			folder, names, _ := strings.Cut(files, ": ")
			for name := range strings.FieldsSeq(names) {
				file := l.write(filepath.Join("user", folder, name), token)
				if filepath.Base(name) == "tool" {
					require.NoError(l, os.WriteFile(file, []byte("#!/bin/sh\necho works\n"), 0o600))
					require.NoError(l, os.Chmod(file, 0o700))
					path = append(path, filepath.Dir(file))
				}
			}
		}
		variables := []string{"PATH=" + strings.Join(path, ":") + ":/usr/bin:/bin"}
		for _, dir := range path {
			require.Equal(l, "works\n", l.runs(variables, dir+"/tool"))
		}
		require.Equal(l, "nothing\n", l.runs(variables, "grep -rs "+token+" ~ || echo nothing"))
	}},
	{ID: "H21", What: "a working directory is where `go env -w` or a variable has compiled code (W1)", Run: func(l *laptop) {
		l.write("user/.config/go/env", "GOMODCACHE="+l.work+"\n")
		l.refused(nil, "/work, from which the owner's programs are run or compiled (GOMODCACHE in /user/.config/go/env)")
		l.write("user/.config/go/env", "")
		for _, name := range []string{"GOCACHE", "CARGO_HOME", "PIP_CACHE_DIR", "JAVA_HOME", "npm_config_cache"} {
			l.refused([]string{name + "=" + l.work + "/cache"}, "("+name+")")
		}
	}},
}
