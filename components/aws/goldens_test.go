package aws

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/stretchr/testify/require"

	"github.com/postern/postern/components/aws/document"
)

// deployerGolden is what the names of the documents that no stack declares begin with.
const deployerGolden = "deployer"

// TestStacksDeclareTheGoldens: what people have reviewed in document/testdata is
// what stacks declare, but for names: each document of a stack has the form of a
// golden, and each golden is the form of some stack's document.
func TestStacksDeclareTheGoldens(t *testing.T) {
	t.Parallel()
	goldens := map[string]string{} // name by form
	files, err := os.ReadDir(filepath.Join("document", "testdata"))
	require.NoError(t, err)
	for _, f := range files {
		if strings.HasPrefix(f.Name(), deployerGolden) {
			continue
		}
		b, err := os.ReadFile(filepath.Join("document", "testdata", f.Name()))
		require.NoError(t, err)
		form := formOf(t, string(b))
		goldens[form] += " " + f.Name()
	}
	declared := map[string]bool{}
	for name, section := range variants {
		g := declareAll(t, load(t, section))
		for _, r := range g.all {
			for _, key := range []string{"policy", "assumeRolePolicy", "policyDocument", "containerDefinitions", "userData"} {
				text := r.text(resource.PropertyKey(key))
				if text == "" {
					continue
				}
				if key == "userData" {
					b, err := base64.StdEncoding.DecodeString(text)
					require.NoError(t, err)
					text = string(b)
				}
				form := formOf(t, text)
				if goldens[form] == "" {
					t.Errorf("stack %s: nobody has reviewed the form of the %s of %s:\n%s", name, key, r.id(), form)
				}
				declared[form] = true
			}
		}
	}
	for form, names := range goldens {
		if !declared[form] {
			t.Errorf("no stack declares%s:\n%s", names, form)
		}
	}
}

// formOf is what a document says, but for names: of a policy who may do what
// under which conditions, of a container its flags, variables and limits, of
// user data the files and their keys.
func formOf(t *testing.T, text string) string {
	t.Helper()
	if strings.HasPrefix(text, "#cloud-config") {
		var c document.CloudConfig
		require.NoError(t, yaml.Unmarshal([]byte(text), &c))
		out := fmt.Sprint(c.RunCommands)
		for _, f := range c.WriteFiles {
			var settings map[string]any
			require.NoError(t, json.Unmarshal([]byte(f.Content), &settings))
			for _, optional := range []string{"command", "ca"} {
				delete(settings, optional)
			}
			out += fmt.Sprint(f.Path, f.Owner, f.Permissions, slices.Sorted(maps.Keys(settings)))
		}
		return out
	}
	if strings.HasPrefix(text, "[") {
		var containers []document.Container
		require.NoError(t, json.Unmarshal([]byte(text), &containers))
		require.Len(t, containers, 1)
		c := containers[0]
		var flags, variables []string
		for _, word := range c.Command {
			if strings.HasPrefix(word, "--") {
				flags = append(flags, word)
			}
		}
		for _, v := range c.Environment {
			variables = append(variables, v.Name)
		}
		for _, v := range c.Secrets {
			variables = append(variables, "secret "+v.Name)
		}
		health := c.HealthCheck != nil
		c.Name, c.Image, c.Command, c.Environment, c.Secrets, c.PortMappings, c.HealthCheck = "", "", nil, nil, nil, nil, nil
		c.LogConfiguration.Options.Group, c.LogConfiguration.Options.Prefix = "", ""
		b, err := json.Marshal(c)
		require.NoError(t, err)
		return fmt.Sprint(string(b), flags, variables, health)
	}
	var p document.Policy
	require.NoError(t, json.Unmarshal([]byte(text), &p), "%s", text)
	var out []string
	for _, s := range p.Statement {
		var conditions, resources []string
		for operator, keys := range s.Condition {
			for key := range keys {
				conditions = append(conditions, operator+" "+key)
			}
		}
		for _, r := range s.Resource {
			resources = append(resources, below.FindString(string(r)))
		}
		who := "nobody in particular"
		if s.Principal != nil {
			who = fmt.Sprint(len(s.Principal.AWS), s.Principal.Service)
		}
		slices.Sort(conditions)
		slices.Sort(resources)
		out = append(out, fmt.Sprint(s.Sid, s.Effect, s.Action, who, conditions, slices.Compact(resources)))
	}
	return strings.Join(out, "\n")
}

// below is what of a resource's name is not a name.
var below = regexp.MustCompile(`^\*$|(/replicas|/AWSLogs/aws-account-id=[0-9]+)?(/\*|:\*)$`)
