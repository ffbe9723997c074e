package engine

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/pulumi/pulumi/sdk/v3/go/auto/events"
	"github.com/pulumi/pulumi/sdk/v3/go/common/apitype"

	"github.com/postern/postern/provider"
)

// Summary describes what an operation did or, for a preview, would do.
type Summary struct {
	Stack     string `json:"stack"`
	Operation string `json:"operation"`
	OK        bool   `json:"ok"`
	// Changes counts resources by what happened to them, "same" included.
	Changes map[string]int `json:"changes"`
	// Drift lists the differences from the state that were found before anything was done.
	Drift []Change `json:"drift,omitempty"`
	// Resources are the changed resources, in the order of their changes.
	Resources []Change  `json:"resources"`
	Failures  []Failure `json:"failures,omitempty"`
	// Outputs are the program's exports, after an up.
	Outputs map[string]any `json:"outputs,omitempty"`
	Seconds float64        `json:"seconds"`

	preview bool
}

// Change is one resource that changed.
type Change struct {
	Name string `json:"name"`
	Type string `json:"type"`
	// Op is "create", "update", "delete" or "replace"; or "keep", if the engine forgets a resource
	// that stays.
	Op string `json:"op"`
	// Details describe the change, if that is known.
	Details []string `json:"details,omitempty"`
}

// Failure is an error that stopped an operation.
type Failure struct {
	// Name is the resource's name, or "" if the failure is not about a resource.
	Name    string `json:"name,omitempty"`
	Message string `json:"message"`
}

// FailedError says that resources could not be changed. The summary has the failures themselves,
// and they were printed as they happened.
type FailedError struct{ Summary *Summary }

func (e *FailedError) Error() string {
	names := map[string]bool{}
	for _, f := range e.Summary.Failures {
		if f.Name != "" {
			names[f.Name] = true
		}
	}
	what := e.Summary.Operation + " stack " + e.Summary.Stack
	if len(names) == 0 {
		return what + ": see above"
	}
	return what + ": " + strings.Join(slices.Sorted(maps.Keys(names)), ", ") + ": see above"
}

// collector turns the engine's events into a summary.
type collector struct {
	printer *Printer
	summary Summary
	began   atomic.Bool // an event has come, so the channel will be closed
}

func (c *collector) event(ev events.EngineEvent) {
	c.began.Store(true)
	switch {
	case ev.DiagnosticEvent != nil:
		c.diagnostic(ev.DiagnosticEvent)
	case ev.ResourcePreEvent != nil:
		if ours(ev.ResourcePreEvent.Metadata) && !ev.ResourcePreEvent.Planning {
			c.printer.begin(operation(ev.ResourcePreEvent.Metadata.Op), nameOf(ev.ResourcePreEvent.Metadata.URN))
		}
	case ev.ResOutputsEvent != nil:
		if ours(ev.ResOutputsEvent.Metadata) {
			c.done(ev.ResOutputsEvent.Metadata)
		} else if m := ev.ResOutputsEvent.Metadata; m.Type == "pulumi:pulumi:Stack" && m.New != nil && c.summary.Operation == "up" {
			c.summary.Outputs = m.New.Outputs
		}
	}
}

func (c *collector) done(m apitype.StepEventMetadata) {
	change := Change{Name: nameOf(m.URN), Type: m.Type[strings.LastIndex(m.Type, ":")+1:]}
	if m.Op == apitype.OpRefresh || c.summary.Operation == "refresh" {
		if change.Op = drift(m); change.Op == "" {
			if c.summary.Operation == "refresh" {
				c.count("same")
			}
			return
		}
		change.Details = driftDetails(change, m)
		if c.summary.Operation != "refresh" {
			c.summary.Drift = append(c.summary.Drift, change)
			c.printer.drift(change)
			return
		}
	} else {
		change.Op = operation(m.Op)
		switch {
		case change.Op == "":
			return
		case change.Op == "same":
			c.count("same")
			return
		case change.Op == "delete" && m.Old != nil && m.Old.RetainOnDelete:
			change.Op, change.Details = "keep", []string{identity(m.Old)}
		case change.Op == "update" || change.Op == "replace":
			change.Details = details(m)
		}
	}
	c.count(change.Op)
	c.summary.Resources = append(c.summary.Resources, change)
	c.printer.change(change, c.summary)
}

func (c *collector) count(op string) {
	if c.summary.Changes == nil {
		c.summary.Changes = map[string]int{}
	}
	c.summary.Changes[op]++
}

func (c *collector) diagnostic(d *apitype.DiagnosticEvent) {
	message := strings.TrimSpace(plainText(d.Message))
	switch {
	case message == "" || d.Ephemeral:
	case d.Severity == "warning":
		c.printer.warn(nameOf(d.URN), message)
	case d.Severity == "error":
		f := Failure{Name: nameOf(d.URN), Message: advised(cause(message))}
		if strings.Contains(d.URN, "::pulumi:pulumi:Stack::") { // the program's own error
			f.Name = ""
		}
		if epilogue[f.Message] {
			return
		}
		c.summary.Failures = append(c.summary.Failures, f)
		c.printer.fail(f)
	}
}

// epilogue is the text that the engine prints after the errors themselves.
var epilogue = map[string]bool{
	"update failed": true, "preview failed": true, "refresh failed": true, "destroy failed": true,
}

// ours leaves out what the engine adds by itself: the stack, the provider, and the component that
// merely groups the others.
func ours(m apitype.StepEventMetadata) bool {
	res := m.New
	if res == nil {
		res = m.Old
	}
	return res != nil && res.Custom && !strings.HasPrefix(m.Type, "pulumi:")
}

// operation returns the word for what happens to a resource, or "" for a step that is only a part
// of it.
func operation(op apitype.OpType) string {
	switch op {
	case apitype.OpCreate, apitype.OpUpdate, apitype.OpDelete, apitype.OpSame:
		return string(op)
	case apitype.OpReplace:
		return "replace"
	default: // create-replacement, delete-replaced, read, ...
		return ""
	}
}

// nameOf returns the last part of a URN, which is the name in the program.
func nameOf(urn string) string {
	if i := strings.LastIndex(urn, "::"); i >= 0 {
		return urn[i+2:]
	}
	return urn
}

// identity returns what people find a resource by: its ARN, or its ID.
func identity(s *apitype.StepEventStateMetadata) string {
	if arn, ok := s.Outputs["arn"].(string); ok {
		return arn
	}
	return s.ID
}

// compared returns the properties of a resource of that type in which drift shows. In a cloud these are its inputs:
// the provider also tells what other resources have done to it, such as the rules of a group.
func compared(kind string, s *apitype.StepEventStateMetadata) map[string]any {
	if strings.HasPrefix(kind, provider.Name+":") {
		return s.Outputs
	}
	return s.Inputs
}

// drift says what happened to a resource behind the engine's back, or returns "".
func drift(m apitype.StepEventMetadata) string {
	switch {
	case m.New == nil || m.Op == apitype.OpDelete:
		return "delete"
	case m.Old != nil && len(changedKeys(compared(m.Type, m.Old), compared(m.Type, m.New))) > 0:
		return "update"
	default:
		return ""
	}
}

func driftDetails(c Change, m apitype.StepEventMetadata) []string {
	if c.Op == "delete" {
		return []string{"it is gone"}
	}
	var out []string
	before, now := compared(m.Type, m.Old), compared(m.Type, m.New)
	for _, key := range changedKeys(before, now) {
		out = append(out, fmt.Sprintf("%s is %v, not %v", key, now[key], before[key]))
	}
	return out
}

func changedKeys(a, b map[string]any) []string {
	var keys []string
	for key := range a {
		if _, ok := b[key]; !ok || fmt.Sprint(a[key]) != fmt.Sprint(b[key]) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// words describes a change of a property.
var words = map[string]string{
	"digest":        "posternd has another build",
	"envoyDigest":   "envoy, or what it loads, has another build",
	"caFingerprint": "the certificate authority has changed",
	"variables":     "an environment variable that holds a secret has another value",
	"home":          "the state folder has changed",
}

// details describes what an update changes.
func details(m apitype.StepEventMetadata) []string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(m.DetailedDiff)) {
		switch word := words[key]; {
		case key == "planVersion" && m.Old != nil && m.New != nil:
			out = append(out, fmt.Sprintf("version %v -> %v", m.Old.Outputs["planVersion"], m.New.Inputs["planVersion"]))
			out = append(out, rulesChanged(m.Old.Inputs["plan"], m.New.Inputs["plan"])...)
		case word != "":
			out = append(out, word)
		default:
			out = append(out, key+" changed")
		}
	}
	return out
}

// cause returns the engine's message without its wrapping.
func cause(message string) string {
	for _, wrap := range []string{"error: ", "rpc error: code = Unknown desc = "} {
		for {
			i := strings.Index(message, wrap)
			if i < 0 {
				break
			}
			message = message[:i] + message[i+len(wrap):]
		}
	}
	return strings.TrimSpace(message)
}
