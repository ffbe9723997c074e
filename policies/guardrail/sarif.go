package guardrail

import (
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"

	"github.com/postern/postern/visible"
)

// Where findings are: SARIF knows places in files, and a finding is about a resource.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool struct {
			Driver sarifDriver `json:"driver"`
		} `json:"tool"`
		Results []sarifResult `json:"results"`
	}
	sarifDriver struct {
		Name           string      `json:"name"`
		InformationURI string      `json:"informationUri,omitempty"`
		Rules          []sarifRule `json:"rules"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifRule struct {
		ID               string    `json:"id"`
		ShortDescription sarifText `json:"shortDescription"`
		Help             sarifText `json:"help"`
		Default          struct {
			Level string `json:"level"`
		} `json:"defaultConfiguration"`
		Properties struct {
			Tags []string `json:"tags,omitempty"`
		} `json:"properties"`
	}
	sarifResult struct {
		RuleID       string             `json:"ruleId"`
		RuleIndex    int                `json:"ruleIndex"`
		Kind         string             `json:"kind"`
		Level        string             `json:"level"`
		Message      sarifText          `json:"message"`
		Locations    []sarifLocation    `json:"locations"`
		Suppressions []sarifSuppression `json:"suppressions,omitempty"`
	}
	sarifLocation struct {
		Physical sarifPhysical  `json:"physicalLocation"`
		Logical  []sarifLogical `json:"logicalLocations,omitempty"`
	}
	sarifPhysical struct {
		Artifact struct {
			URI string `json:"uri"`
		} `json:"artifactLocation"`
		Region sarifRegion `json:"region"`
	}
	sarifRegion struct {
		StartLine   int `json:"startLine"`
		StartColumn int `json:"startColumn,omitempty"`
	}
	sarifLogical struct {
		FullyQualifiedName string `json:"fullyQualifiedName"`
		Kind               string `json:"kind"`
	}
	sarifSuppression struct {
		Kind          string `json:"kind"`
		Justification string `json:"justification"`
	}
)

// SARIF writes the report in version 2.1.0 of SARIF, which code hosts show. source is the file that
// was checked: a finding about a resource is at its first line.
func (r *Report) SARIF(out io.Writer, source string, more []Rail) error {
	log := sarifLog{
		Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: make([]sarifRun, 1),
	}
	run := &log.Runs[0]
	run.Tool.Driver = sarifDriver{Name: "postern", Rules: []sarifRule{}}
	run.Results = []sarifResult{}
	index := map[string]int{}
	for i := range r.Findings {
		f := &r.Findings[i]
		if _, ok := index[f.Rail]; !ok {
			index[f.Rail] = len(run.Tool.Driver.Rules)
			run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, ruleOf(f, more))
		}
		result := sarifResult{
			RuleID: f.Rail, RuleIndex: index[f.Rail], Kind: "fail", Level: string(f.Severity),
			Message: sarifText{f.String()}, Locations: []sarifLocation{locate(f, source)},
		}
		if w := f.Waiver; w != nil {
			why := fmt.Sprintf("%s (%s, until %s, %s)", w.Reason, w.Owner, w.Expires, w.At)
			result.Suppressions = []sarifSuppression{{Kind: "external", Justification: why}}
		}
		run.Results = append(run.Results, result)
	}
	return visible.Encode(out, log, "  ")
}

func ruleOf(f *Finding, more []Rail) sarifRule {
	rule := sarifRule{ID: f.Rail, ShortDescription: sarifText{f.What}, Help: sarifText{f.Fix}}
	rule.Default.Level = string(f.Severity)
	if rail := Of(f.Rail, more); rail != nil {
		rule.ShortDescription, rule.Help = sarifText{rail.Says}, sarifText{rail.Fix}
		rule.Default.Level, rule.Properties.Tags = string(rail.Severity), rail.Others
	}
	return rule
}

// locate returns the place of a finding: that of a waiver is in its stack file.
func locate(f *Finding, source string) sarifLocation {
	out := sarifLocation{}
	out.Physical.Artifact.URI, out.Physical.Region.StartLine = reference(source), 1
	if f.Resource != "" {
		name := f.Resource
		if f.Property != "" {
			name += "#" + f.Property
		}
		out.Logical = []sarifLogical{{name, "resource"}}
		return out
	}
	if parts := strings.Split(f.Name, ":"); len(parts) == 3 {
		line, err := strconv.Atoi(parts[1])
		column, err2 := strconv.Atoi(parts[2])
		if err == nil && err2 == nil {
			out.Physical.Artifact.URI, out.Physical.Region = reference(parts[0]), sarifRegion{line, column}
		}
	}
	return out
}

// reference returns a path as a URI has it.
func reference(path string) string { return (&url.URL{Path: path}).String() }
