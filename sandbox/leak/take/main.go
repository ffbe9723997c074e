// Command take takes rules for package leak from the file gitleaks.toml of the Go module
// github.com/zricethezav/gitleaks/v8, which it is given:
//
//	go run ./sandbox/leak/take GITLEAKS.TOML > sandbox/leak/gitleaks.json
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// allowlist says what is not a secret.
type allowlist struct {
	Regexes, Stopwords, Paths []string
	RegexTarget               string
}

// rule is a rule of gitleaks.
type rule struct {
	ID, Regex, Path string
	Entropy         float64
	Keywords        []string
	Allowlists      []allowlist
}

// notTaken are rules for keys that are no secrets, that have no form of their own, or that take
// something else for a secret often: a file that is hidden without need is missed.
var notTaken = []string{
	"cisco-meraki-api-key", "cohere-api-token", "okta-access-token", "privateai-api-token", "sumologic-access-id",
	"curl-auth-header", "curl-auth-user", "jwt", "jwt-base64", "sourcegraph-access-token", "vault-service-token",
	"facebook-access-token", "flutterwave-public-key",
}

// taken is a rule as package leak reads it.
type taken struct {
	ID       string   `json:"id"`
	Regex    string   `json:"regex"`
	Keywords []string `json:"keywords"`
	Entropy  float64  `json:"entropy,omitempty"`
	Allowed  []string `json:"allowed,omitempty"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "take:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("name the file gitleaks.toml")
	}
	var in struct {
		Allowlist allowlist
		Rules     []rule
	}
	if _, err := toml.DecodeFile(os.Args[1], &in); err != nil {
		return err
	}
	out := struct {
		Source    string   `json:"source"`
		Allowed   []string `json:"allowed"`
		Stopwords []string `json:"stopwords"`
		Rules     []taken  `json:"rules"`
	}{
		Source: "github.com/zricethezav/gitleaks/v8 v8.30.1, config/gitleaks.toml, Copyright (c) 2019 Zachary Rice, " +
			"MIT license: see LICENSE.gitleaks",
		Allowed: in.Allowlist.Regexes, Stopwords: in.Allowlist.Stopwords,
	}
	for _, r := range in.Rules {
		// The first words of a rule for a value behind a name, whose own form says little.
		named := strings.HasPrefix(r.Regex, `(?i)[\w.-]{0,50}?`)
		if named || r.Path != "" || len(r.Keywords) == 0 || slices.Contains(notTaken, r.ID) {
			continue
		}
		t := taken{ID: r.ID, Regex: r.Regex, Keywords: r.Keywords, Entropy: r.Entropy}
		for _, a := range r.Allowlists {
			t.Allowed = append(t.Allowed, a.Regexes...)
		}
		out.Rules = append(out.Rules, t)
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	return encoder.Encode(out)
}
