package plan

import (
	"cmp"
	"regexp"
	"slices"
	"sync"

	"github.com/postern/postern/plan/tool"
)

// Runtime is the technology that isolates an agent's commands on this machine.
type Runtime string

// The runtimes. A container shows nothing of this machine's programs and always has limits, which
// bubblewrap has not. gVisor is a container with a kernel of its own, and so is a virtual machine.
const (
	RuntimeBubblewrap Runtime = "bubblewrap"
	RuntimeContainer  Runtime = "container"
	RuntimeGVisor     Runtime = "gvisor"
	RuntimeVM         Runtime = "vm"
)

// Runtimes returns all runtimes, the default first. None isolates less than one before it, but that
// a virtual machine shows this machine's programs, where a container shows an image's.
func Runtimes() []Runtime {
	return []Runtime{RuntimeBubblewrap, RuntimeContainer, RuntimeGVisor, RuntimeVM}
}

// HasImage reports whether a command sees the files of an image, and not this machine's programs.
func (r Runtime) HasImage() bool { return r == RuntimeContainer || r == RuntimeGVisor }

// Weaker reports whether r isolates less than o. If one of them is not one of [Runtimes], nobody
// can say that it does not.
func (r Runtime) Weaker(o Runtime) bool {
	i, j := slices.Index(Runtimes(), r), slices.Index(Runtimes(), o)
	return i < 0 || j < 0 || i < j || o.HasImage() && !r.HasImage()
}

// RuntimeOrDefault returns the agent's runtime, or that of an agent without one.
func (a *Agent) RuntimeOrDefault() Runtime {
	return cmp.Or(a.Runtime, RuntimeBubblewrap)
}

// IsImage reports whether a text names a container image: NAME, NAME:TAG, NAME@sha256:DIGEST or, of
// an image that the engine has, sha256:ID.
var IsImage = Matching(`^(sha256:[0-9a-f]{64}|[a-z0-9][a-z0-9._-]*(:[0-9]{1,5})?(/[a-z0-9][a-z0-9._-]*)*` +
	`(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?)$`)

// Matching returns a function that reports whether a text matches the regular expression, which
// must be valid. The expression is compiled at the first use, because otherwise every command and
// every sandbox would wait for all expressions.
func Matching(expression string) func(string) bool {
	compiled := sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
	return func(s string) bool { return compiled().MatchString(s) }
}

// diffRuntime returns what changes for what isolates an agent's commands, and for their tools.
func diffRuntime(name string, was, is *Agent) (out []Change) {
	if before, after := was.RuntimeOrDefault(), is.RuntimeOrDefault(); before != after {
		risk, why := RiskLow, "it isolates no less"
		if after.Weaker(before) {
			risk, why = RiskHigh, "it isolates less"
		}
		out = append(out, change("~", name, risk, why, " runs under %s, was %s", after, before))
	}
	if was.Image != is.Image {
		out = append(out, change("~", name, RiskMedium, "other programs have what the agent may do",
			" has image %s, was %s", cmp.Or(is.Image, "none"), cmp.Or(was.Image, "none")))
	}
	if !slices.Equal(was.Git, is.Git) {
		out = append(out, change("~", name, RiskLow, "its rules decide", " has git outside for %q, was %q", is.Git, was.Git))
	}
	return append(out, diffTools(name, was, is)...)
}

// diffTools returns what changes for an agent's tools of the operator's own.
func diffTools(name string, was, is *Agent) (out []Change) {
	const why = "a program of this machine runs outside the sandbox when the agent says so"
	both(was.Tools, is.Tools, func(t *tool.Tool) string { return t.Name }, func(a, b *tool.Tool) {
		switch {
		case a == nil:
			out = append(out, change("+", name, RiskHigh, why, " has %s", b))
		case b == nil:
			out = append(out, change("-", name, RiskLow, "less access", " has %s", a))
		case a.Digest() != b.Digest():
			out = append(out, change("~", name, RiskHigh, why, " has %s, was %s", b, a))
		}
	})
	return out
}
