package clients

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/postern/postern/hostpath"
)

// maxSettings bounds a file of settings.
const maxSettings = 1 << 20

// settings returns the content of a file of settings, or nil if there is none. A file that an agent
// may write is an error: it would choose where other agents get their packages.
func settings(path string) ([]byte, error) {
	folders, err := hostpath.AgentFolders()
	if err != nil {
		return nil, err
	}
	content, err := folders.ReadFile(path, maxSettings)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return content, err
}

// inHome returns paths below the caller's home.
func inHome(names ...string) (paths []string) {
	home, err := os.UserHomeDir()
	if err != nil {
		return nil
	}
	for _, name := range names {
		paths = append(paths, filepath.Join(home, name))
	}
	return paths
}

// each calls do with the content of each of the files that is there.
func each(paths []string, do func(content []byte) error) error {
	for _, path := range paths {
		content, err := settings(path)
		if err != nil {
			return err
		}
		if content == nil {
			continue
		}
		if err := do(content); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
	return nil
}

var webAddress = regexp.MustCompile(`\bhttps?://[^\s"'<>]+`)

// answered asks a client whose answer has the addresses of its servers, and other words.
func answered(name string, args ...string) func(context.Context) ([]string, error) {
	return func(ctx context.Context) ([]string, error) {
		out, err := ask(ctx, name, args...)
		if err != nil {
			return nil, err
		}
		return webAddress.FindAllString(string(out), -1), nil
	}
}

// yarn asks yarn 1 and later ones, which have another word for it.
func yarn(ctx context.Context) ([]string, error) {
	urls, err := answered("yarn", "config", "get", "npmRegistryServer")(ctx)
	if err == nil && len(urls) == 0 {
		return answered("yarn", "config", "get", "registry")(ctx)
	}
	return urls, err
}

// uv reads uv's settings. Its own default is pip's.
func uv(ctx context.Context) ([]string, error) {
	type index struct {
		URL     string
		Default bool
	}
	var urls []string
	isDefault := false
	add := func(url string, instead bool) {
		if url != "" {
			urls, isDefault = append(urls, url), isDefault || instead
		}
	}
	for _, v := range []struct {
		name    string
		instead bool
	}{{"UV_DEFAULT_INDEX", true}, {"UV_INDEX_URL", true}, {"UV_INDEX", false}, {"UV_EXTRA_INDEX_URL", false}} {
		for _, url := range strings.Fields(os.Getenv(v.name)) {
			_, address, named := strings.Cut(url, "=") // NAME=URL
			if !named || strings.Contains(url[:len(url)-len(address)], "://") {
				address = url
			}
			add(address, v.instead)
		}
	}
	err := each(append(inHome(".config/uv/uv.toml"), "/etc/uv/uv.toml"), func(content []byte) error {
		var file struct {
			Index      []index
			IndexURL   string   `toml:"index-url"`
			ExtraIndex []string `toml:"extra-index-url"`
		}
		if err := toml.Unmarshal(content, &file); err != nil {
			return err
		}
		add(file.IndexURL, true)
		for _, url := range file.ExtraIndex {
			add(url, false)
		}
		for _, i := range file.Index {
			add(i.URL, i.Default)
		}
		return nil
	})
	if err != nil || isDefault {
		return urls, err
	}
	more, err := pip(ctx)
	if err != nil {
		return nil, fmt.Errorf("its settings name no default index, and pip's is unknown: %w", err)
	}
	return append(urls, more...), nil
}

// cargo reads the registries and the sources of cargo's settings.
func cargo(context.Context) ([]string, error) {
	var urls []string
	home := os.Getenv("CARGO_HOME")
	paths := []string{filepath.Join(home, "config.toml"), filepath.Join(home, "config")}
	if !filepath.IsAbs(home) {
		paths = inHome(".cargo/config.toml", ".cargo/config")
	}
	err := each(paths, func(content []byte) error {
		var file struct {
			Registries map[string]struct{ Index string }
			Source     map[string]struct{ Registry string }
		}
		if err := toml.Unmarshal(content, &file); err != nil {
			return err
		}
		for _, r := range file.Registries {
			urls = append(urls, r.Index)
		}
		for _, s := range file.Source {
			urls = append(urls, s.Registry)
		}
		return nil
	})
	for i, u := range urls {
		urls[i] = strings.TrimPrefix(u, "sparse+")
	}
	urls = slices.DeleteFunc(urls, func(u string) bool { return u == "" })
	slices.Sort(urls)
	return urls, err
}

// maven reads the mirrors and repositories of Maven's settings.
func maven(context.Context) ([]string, error) {
	var urls []string
	err := each(inHome(".m2/settings.xml"), func(content []byte) error {
		type place struct {
			URL string `xml:"url"`
		}
		var file struct {
			Mirrors      []place `xml:"mirrors>mirror"`
			Repositories []place `xml:"profiles>profile>repositories>repository"`
			Plugins      []place `xml:"profiles>profile>pluginRepositories>pluginRepository"`
		}
		if err := xml.Unmarshal(content, &file); err != nil { //nolint:gosec // the owner's settings, and bounded
			return err
		}
		for _, p := range slices.Concat(file.Mirrors, file.Repositories, file.Plugins) {
			urls = append(urls, strings.TrimSpace(p.URL))
		}
		return nil
	})
	return urls, err
}

// apt reads the sources of apt, in both of their forms.
func apt(context.Context) ([]string, error) {
	more, err := filepath.Glob("/etc/apt/sources.list.d/*")
	if err != nil {
		return nil, err
	}
	paths := slices.DeleteFunc(append([]string{"/etc/apt/sources.list"}, more...), func(path string) bool {
		return !slices.Contains([]string{".list", ".sources"}, filepath.Ext(path))
	})
	var urls []string
	err = each(paths, func(content []byte) error {
		for line := range strings.Lines(string(content)) {
			line, _, _ = strings.Cut(line, "#")
			word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
			if slices.Contains([]string{"deb", "deb-src", "URIs:"}, word) {
				urls = append(urls, webAddress.FindAllString(line, -1)...)
			}
		}
		return nil
	})
	return urls, err
}
