package main

import (
	"encoding/json"
	"fmt"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/stacks"
)

// claimed makes the state folder the stack file's, and writes down what the file says of
// guardrails: a later one that an agent may have written may leave some out.
func claimed(folder home.Folder, file *stacks.File, g stacks.Guardrails) error {
	if err := folder.Claim(file.Owner()); err != nil {
		return err
	}
	content, err := json.Marshal(g)
	if err == nil {
		err = atomicfile.Write(folder.GuardrailsFile(), content, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write down the guardrails: %w", err)
	}
	return nil
}

// lastGuardrails returns what [claimed] wrote down last, or nil if nothing can be read.
func lastGuardrails(folder home.Folder) *stacks.Guardrails {
	content, err := hostpath.ReadFile(folder.GuardrailsFile(), 1<<20)
	var g stacks.Guardrails
	if err != nil || json.Unmarshal(content, &g) != nil {
		return nil
	}
	return &g
}

// guardrailsOf says what a file that an agent may have written says of guardrails, and what it
// leaves out of what was. If nobody knows what was, all that could have been is left out.
func guardrailsOf(g stacks.Guardrails, was *stacks.Guardrails) []string {
	var out []string
	if (was == nil || was.Production) && !g.Production {
		out = append(out, "~ the guardrails are not those for production")
	}
	nowhere := func(folder string) string {
		if folder == "" {
			return "nowhere"
		}
		return folder
	}
	switch {
	case was == nil && g.Policies == "":
		out = append(out, "~ no policies of your own count")
	case was != nil && was.Policies != g.Policies:
		out = append(out, fmt.Sprintf("~ policies of your own count from %s, was %s", nowhere(g.Policies),
			nowhere(was.Policies)))
	}
	for _, w := range g.Waivers {
		out = append(out, fmt.Sprintf("~ guardrail %s is waived at %s until %s, by %s: %s", w.Rail, w.Resource,
			w.Expires, w.Owner, w.Reason))
	}
	return out
}
