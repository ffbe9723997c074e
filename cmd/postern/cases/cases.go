// Package cases has the commands for which a stack file's text is enough: to test it by cases,
// which are requests with the verdicts that are expected, and its grammar for editors.
package cases

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/exit"
	"github.com/postern/postern/explain"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/stacks/schema"
	"github.com/postern/postern/stacks/yaml"
	"github.com/postern/postern/visible"
)

// suffix ends the name of a file of cases, in the place of the stack file's ".yaml". No name
// of a stack has a dot.
const suffix = ".cases.yaml"

// New returns the command. openFile finds the stack file of the command line.
func New(openFile func(*cobra.Command) (*stacks.File, error)) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "test [--json]",
		Short: "Test the stack file: requests, each with the verdict that is expected",
		Long: `Reads the cases next to the stack file: for stacks/local.yaml they are in stacks/local.cases.yaml. Each
is a request, and whether the policy of the stack file allows it or denies it. Nothing has to run, and
nothing is published.`,
		Example: `  postern test
  postern test --file stacks/local.yaml --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := openFile(cmd)
			if err != nil {
				return err
			}
			results, err := run(file, time.Now())
			if err != nil {
				return err
			}
			if asJSON {
				err = visible.Encode(cmd.OutOrStdout(), results, "")
			} else {
				show(cmd.OutOrStdout(), results)
			}
			failed := slices.DeleteFunc(slices.Clone(results), func(r result) bool { return r.OK })
			if err == nil && len(failed) > 0 {
				err = fmt.Errorf("%d of %d cases failed", len(failed), len(results))
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the results as a list in JSON")
	return cmd
}

// NewSchema returns the command that prints the grammar.
func NewSchema() *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Print the grammar of stack files as a JSON Schema, for editors",
		Long: `Prints a JSON Schema, by which an editor completes and checks a stack file while it is written. It says
less than the loader: "postern diff" reads the file as it counts.`,
		Example: "  postern schema > ~/.config/postern/stack.schema.json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(schema.Stack())
			return err
		},
	}
}

// result is a case, and what the policy decides.
type result struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Agent   string `json:"agent"`
	Request string `json:"request"`
	// Expect, and Reason and Rule unless they are "", are what the file expects.
	Expect string `json:"expect"`
	Reason string `json:"reason,omitempty"`
	Rule   string `json:"rule,omitempty"`
	OK     bool   `json:"ok"`
	// Verdict is the policy's.
	Verdict *explain.Explanation `json:"verdict"`

	headers []string
}

const allow, deny = "allow", "deny"

// run decides on each case of the stack file.
func run(file *stacks.File, now time.Time) ([]result, error) {
	stack, err := file.Load()
	if err != nil {
		return nil, err
	}
	cases, err := read(strings.TrimSuffix(file.Path, filepath.Ext(file.Path)) + suffix)
	if err != nil {
		return nil, err
	}
	for i := range cases {
		c := &cases[i]
		at := func(err error) error { return fmt.Errorf("%s:%d: %w", c.File, c.Line, err) }
		if c.Agent, _, err = stacks.ChooseAgent(stack.Plan, c.Agent); err != nil {
			// The command line is valid.
			return nil, exit.With(exit.Failed, at(err))
		}
		if _, err := stack.Agent(c.Agent); err != nil {
			return nil, at(err)
		}
		method, url, _ := strings.Cut(c.Request, " ")
		r, err := explain.ParseRequest(c.Agent, method, url, nil, c.headers)
		if err != nil {
			return nil, at(err)
		}
		e := explain.Request(stack, r, now)
		c.Verdict = &e
		c.OK = e.Allow == (c.Expect == allow) && (c.Reason == "" || c.Reason == string(e.Reason)) &&
			(c.Rule == "" || c.Rule == e.Rule)
	}
	return cases, nil
}

// read reads the cases of a file, all of them or none.
func read(path string) ([]result, error) {
	file, err := stacks.Open(path)
	if err != nil {
		return nil, err
	}
	data, err := file.Content()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no %s: write requests and verdicts into it, such as\n"+
			"version: 1\ncases:\n  - {request: GET https://example.com/, expect: deny}", visible.Text(path))
	}
	if err != nil {
		return nil, err
	}
	r := &yaml.Reader{Problems: &yaml.Problems{File: file.Path}}
	var cases []result
	if root := yaml.Parse(data, r.Problems); root != nil && r.Mapping(root, "the file of cases", "version", "cases") {
		switch v, list := root.Get("version"), root.Get("cases"); {
		case v == nil || v.Text != "1":
			r.At(root, "write version: 1", "the file of cases has no known version")
		case list == nil || list.Kind != yaml.KindList || len(list.Items) == 0:
			r.At(root, "write cases: and a list below it", "the file has no cases, so it tests nothing")
		default:
			for _, n := range list.Items {
				cases = append(cases, one(r, n))
			}
		}
	}
	return cases, r.Err()
}

// one reads a case.
func one(r *yaml.Reader, n *yaml.Node) result {
	c := result{File: r.File, Line: n.Line}
	if !r.Mapping(n, "a case", "agent", "request", "headers", "expect", "rule", "reason") {
		return c
	}
	c.Request = r.Required(n, "a case", "request", "write a method and a URL, such as GET https://example.com/",
		func(s string) bool {
			method, url, ok := strings.Cut(s, " ")
			return ok && slices.Contains(stacks.Methods, method) && !strings.Contains(url, " ")
		})
	c.Expect = r.Required(n, "a case", "expect", "write allow or deny",
		func(s string) bool { return s == allow || s == deny })
	for key, to := range map[string]*string{"agent": &c.Agent, "rule": &c.Rule, "reason": &c.Reason} {
		if m := n.Get(key); m != nil {
			*to, _ = r.Text(m, key)
		}
	}
	if m := n.Get("reason"); m != nil && !slices.Contains(plan.Reasons, plan.Reason(c.Reason)) {
		r.At(m, "docs/reference-reasons.md lists them", "%q is not a reason", c.Reason)
	}
	if m := n.Get("headers"); m != nil && r.Mapping(m, "headers") {
		for _, f := range m.Fields {
			value, _ := r.Text(f.Value, "the header "+f.Key.Text)
			c.headers = append(c.headers, f.Key.Text+": "+value)
		}
	}
	return c
}

// show prints what failed, and how many did not.
func show(out io.Writer, results []result) {
	passed := 0
	for _, r := range results {
		if r.OK {
			passed++
			continue
		}
		verdict := deny
		if r.Verdict.Allow {
			verdict = allow
		}
		expected := r.Expect
		if r.Rule != "" {
			expected += " by rule " + r.Rule
		}
		if r.Reason != "" {
			expected += " because of " + r.Reason
		}
		got := fmt.Sprintf("%s (%s)", verdict, r.Verdict.Reason)
		if r.Verdict.Rule != "" {
			got += " by rule " + explain.WithSource(r.Verdict.Rule, r.Verdict.Source)
		}
		visible.Println(out, visible.Text(fmt.Sprintf("%s:%d: %s: %s: expected %s, got %s",
			r.File, r.Line, r.Agent, r.Request, expected, got)))
	}
	visible.Printf(out, "%d of %d cases passed\n", passed, len(results))
}
