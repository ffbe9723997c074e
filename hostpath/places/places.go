// Package places finds the folders from which the tools of a home's owner later compile or run what
// is there: caches, installations, folders for libraries, and what command lines name. Where a tool
// keeps them follows from variables and from the tool's settings. An agent that writes there
// chooses what runs next, with the owner's rights.
package places

import (
	"cmp"
	"encoding/xml"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
)

// Place is one such folder or file.
type Place struct {
	// Name is what sets it: the name of a variable, or of a setting with its file.
	Name string
	// Path is absolute and clean. It may not exist.
	Path string
	// Shared is true if only the place itself counts, and not a folder in it: people have folders
	// of their own next to temporary files, for which tools make a new folder, and next to
	// programs.
	Shared bool
	// Program is true if only what is in the folder counts, and not the folder itself: people name
	// the folders of their projects in the same settings.
	Program bool
}

// variables name such a place, or several of them with colons. Of some only what is below counts:
// the rest is for people's own projects.
var variables = map[string][]string{
	"GOMODCACHE": nil, "GOCACHE": nil, "GOBIN": nil, "GOROOT": nil, "GOENV": nil, "GOTMPDIR": nil,
	"GOPATH":     {"bin", "pkg"},
	"CARGO_HOME": nil, "CARGO_TARGET_DIR": nil, "CARGO_INSTALL_ROOT": nil, "RUSTUP_HOME": nil, "SCCACHE_DIR": nil,
	"CCACHE_DIR": nil, "npm_config_prefix": nil, "npm_config_cache": nil, "npm_config_userconfig": nil,
	"npm_config_globalconfig": nil, "npm_config_store_dir": nil, "PNPM_HOME": nil, "NODE_PATH": nil,
	"YARN_CACHE_FOLDER": nil, "YARN_GLOBAL_FOLDER": nil, "NVM_DIR": nil, "FNM_DIR": nil, "VOLTA_HOME": nil,
	"NODENV_ROOT": nil, "BUN_INSTALL": nil, "BUN_INSTALL_CACHE_DIR": nil, "DENO_INSTALL": nil, "DENO_DIR": nil,
	"PIP_CACHE_DIR": nil, "PIP_CONFIG_FILE": nil, "PIP_TARGET": nil, "PIP_PREFIX": nil, "PIPX_HOME": nil,
	"PIPX_BIN_DIR": nil, "POETRY_HOME": nil, "POETRY_CACHE_DIR": nil, "PYENV_ROOT": nil, "PYTHONPATH": nil,
	"PYTHONHOME": nil, "PYTHONUSERBASE": nil, "PYTHONPYCACHEPREFIX": nil, "PYTHONSTARTUP": nil, "UV_CACHE_DIR": nil,
	"UV_TOOL_DIR": nil, "UV_TOOL_BIN_DIR": nil, "UV_PYTHON_INSTALL_DIR": nil, "UV_PYTHON_BIN_DIR": nil,
	"CONDA_PREFIX": nil, "CONDA_PKGS_DIRS": nil, "CONDA_ENVS_PATH": nil, "CONDA_ENVS_DIRS": nil,
	"MAMBA_ROOT_PREFIX": nil, "JAVA_HOME": nil, "JDK_HOME": nil, "MAVEN_HOME": nil, "M2_HOME": nil, "M2_REPO": nil,
	"MAVEN_USER_HOME": nil, "GRADLE_HOME": nil, "GRADLE_USER_HOME": nil, "ANT_HOME": nil, "SBT_HOME": nil,
	"COURSIER_CACHE": nil, "SDKMAN_DIR": nil, "KOTLIN_HOME": nil, "GROOVY_HOME": nil, "SCALA_HOME": nil,
	"ANDROID_HOME": nil, "ANDROID_SDK_ROOT": nil, "FLUTTER_ROOT": nil, "PUB_CACHE": nil, "RBENV_ROOT": nil,
	"GOENV_ROOT": nil, "ASDF_DIR": nil, "ASDF_DATA_DIR": nil, "MISE_DATA_DIR": nil, "MISE_CACHE_DIR": nil,
	"GEM_HOME": nil, "GEM_PATH": nil, "GEM_SPEC_CACHE": nil, "BUNDLE_PATH": nil, "BUNDLE_USER_HOME": nil,
	"RUBYLIB":  nil,
	"PERL5LIB": nil, "PERL_LOCAL_LIB_ROOT": nil, "COMPOSER_HOME": nil, "COMPOSER_CACHE_DIR": nil, "DOTNET_ROOT": nil,
	"DOTNET_CLI_HOME": nil, "NUGET_PACKAGES": nil, "OPAMROOT": nil, "GHCUP_INSTALL_BASE_PREFIX": nil, "CABAL_DIR": nil,
	"STACK_ROOT": nil, "HOMEBREW_PREFIX": nil, "HOMEBREW_CELLAR": nil, "HOMEBREW_CACHE": nil, "PULUMI_HOME": nil,
	"TMPDIR": nil, "TMP": nil, "TEMP": nil, // what is compiled and run is made there
	"GIT_TEMPLATE_DIR": nil, "GIT_EXEC_PATH": nil, "GIT_CONFIG_GLOBAL": nil, "GIT_CONFIG_SYSTEM": nil, "ZDOTDIR": nil,
	"BASH_ENV": nil, "ENV": nil, "DENO_INSTALL_ROOT": nil, "N_PREFIX": nil, "COREPACK_HOME": nil, "HELM_PLUGINS": nil,
	"HELM_DATA_HOME": nil, "TF_PLUGIN_CACHE_DIR": nil, "PLAYWRIGHT_BROWSERS_PATH": nil, "PUPPETEER_CACHE_DIR": nil,
	"TORCH_EXTENSIONS_DIR": nil, "TRITON_CACHE_DIR": nil, "NUMBA_CACHE_DIR": nil, "R_LIBS_USER": nil, "R_LIBS": nil,
	"CLASSPATH": nil, "IPYTHONDIR": nil, "JUPYTER_CONFIG_DIR": nil, "MIX_HOME": nil, "HEX_HOME": nil,
	"EMACSLOADPATH": nil, "PKG_CONFIG_PATH": nil, "CURL_HOME": nil, "LUA_PATH": nil, "LUA_CPATH": nil, "GOWORK": nil,
	"LD_LIBRARY_PATH": nil, "LD_PRELOAD": nil, "XDG_CACHE_HOME": nil, "XDG_CONFIG_HOME": nil, "XDG_BIN_HOME": nil,
	"XDG_DATA_HOME": {"uv", "pnpm", "fnm", "mise", "pipx", "virtualenvs", "pypoetry", "gem", "cargo", "rustup", "go"},
}

// npm reads its variables in any case.
const npm = "npm_config_"

// settings are the files, below a home unless their path is absolute, in which tools are told of
// such places, and the names for that. Nil means every one of the variables.
var settings = []struct {
	file  string
	names []string
}{
	{".config/go/env", nil},
	{".npmrc", []string{"prefix", "cache", "store-dir", "global-dir", "global-bin-dir", "virtual-store-dir"}},
	{".config/pnpm/rc", []string{"store-dir", "global-dir", "global-bin-dir", "cache-dir", "state-dir"}},
	{".yarnrc.yml", []string{"cacheFolder", "globalFolder"}},
	{".config/pip/pip.conf", []string{"cache-dir", "target", "prefix", "root"}},
	{".pip/pip.conf", []string{"cache-dir", "target", "prefix", "root"}},
	{".config/uv/uv.toml", []string{"cache-dir"}},
	{".cargo/config.toml", []string{"target-dir", "root"}},
	{".cargo/config", []string{"target-dir", "root"}},
}

// maven is the file in which Maven is told of its local repository.
const maven = ".m2/settings.xml"

// Of returns the places of the owner of a home, in an order that is always the same. variable
// returns the value of a variable of the owner's, or "". read returns the content of a file, which
// anybody may have written. Places that are where the tools have them without settings are not
// among them.
func Of(home string, environ map[string]string, read func(path string) ([]byte, error)) []Place {
	return of(home, environ, read).found
}

func of(home string, environ map[string]string, read func(path string) ([]byte, error)) *places {
	p := &places{home: home, environ: environ}
	for name, value := range environ {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, npm) {
			p.variable(name, lower, value)
		} else {
			p.variable(name, name, value)
		}
	}
	for _, s := range settings {
		p.settings(s.file, s.names, read)
	}
	for file, names := range map[string][]string{
		"GOENV": nil, "npm_config_userconfig": settings[1].names, "NPM_CONFIG_USERCONFIG": settings[1].names,
		"PIP_CONFIG_FILE": settings[4].names,
	} {
		p.settings(environ[file], names, read)
	}
	for folder, s := range map[string]struct {
		file  string
		names []string
	}{
		"XDG_CONFIG_HOME": {"go/env", nil}, "GOROOT": {"go.env", nil},
		"CARGO_HOME": {"config.toml", []string{"target-dir", "root"}},
	} {
		if filepath.IsAbs(environ[folder]) {
			p.settings(filepath.Join(environ[folder], s.file), s.names, read)
		}
	}
	p.maven(read)
	p.commands(read)
	slices.SortFunc(p.found, func(a, b Place) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Path, b.Path))
	})
	p.found = slices.Compact(p.found)
	p.texts(read) // last: the others know the setting's name
	return p
}

type places struct {
	home    string
	environ map[string]string
	found   []Place
	// relative is what [InEach] returns, before it is sorted.
	relative []Named
}

// add adds a place, if its path is absolute: a tool is in another folder each time.
func (p *places) add(name, path string) {
	if filepath.IsAbs(path) {
		shared := slices.Contains([]string{"TMPDIR", "TMP", "TEMP"}, name)
		p.found = append(p.found, Place{Name: name, Path: filepath.Clean(path), Shared: shared})
	}
}

// variable adds the places of a variable's value. said is its name, for people.
func (p *places) variable(said, name, value string) {
	below, ok := variables[name]
	if !ok {
		return
	}
	for _, path := range filepath.SplitList(value) {
		if len(below) == 0 {
			p.add(said, path)
		}
		for _, b := range below {
			if filepath.IsAbs(path) {
				p.add(said, filepath.Join(path, b))
			}
		}
		if slices.Contains(loaded, name) {
			p.named(said, path, true, false)
		}
	}
}

// settings adds the places that a file of lines "name = value" names, whatever its sections are.
func (p *places) settings(file string, names []string, read func(path string) ([]byte, error)) {
	if file == "" {
		return
	}
	if !filepath.IsAbs(file) {
		file = filepath.Join(p.home, file)
	}
	content, err := read(file)
	if err != nil {
		return
	}
	for line := range strings.Lines(WithoutMark(string(content))) {
		i := strings.IndexAny(line, "=:")
		if i < 0 {
			continue
		}
		name, value := strings.Trim(line[:i], " \t\"'"), p.expand(strings.Trim(line[i+1:], " \t\r\n\"'"))
		switch said := name + " in " + file; {
		case names == nil:
			p.variable(said, name, value)
		case slices.Contains(names, name):
			p.add(said, value)
		}
	}
}

// maven adds Maven's local repository.
func (p *places) maven(read func(path string) ([]byte, error)) {
	file := filepath.Join(p.home, maven)
	content, err := read(file)
	if err != nil {
		return
	}
	var said struct {
		LocalRepository string `xml:"localRepository"`
	}
	if xml.Unmarshal(content, &said) == nil {
		p.add("localRepository in "+file, p.expand(strings.TrimSpace(said.LocalRepository)))
	}
}

// expand replaces ${NAME} and a ~ at the beginning, also before a user's name.
func (p *places) expand(value string) string {
	if rest, ok := strings.CutPrefix(value, "~/"); ok {
		return filepath.Join(p.home, rest)
	}
	if name, rest, ok := strings.Cut(value, "/"); ok && strings.HasPrefix(name, "~") {
		if is, err := user.Lookup(name[1:]); err == nil {
			return filepath.Join(is.HomeDir, rest)
		}
	}
	for name, is := range map[string]string{"${HOME}": p.home, "$HOME": p.home, "${user.home}": p.home} {
		value = strings.ReplaceAll(value, name, is)
	}
	for name, is := range p.environ {
		value = strings.ReplaceAll(value, "${"+name+"}", is)
	}
	return value
}
