package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// WorkspaceMode says what an agent's command has of its working directory.
type WorkspaceMode string

// The modes of a workspace.
const (
	// WorkspaceWrite is the working directory itself: what the agent writes is there at once.
	WorkspaceWrite WorkspaceMode = "write"
	// WorkspaceReadOnly is the working directory, which the agent cannot change.
	WorkspaceReadOnly WorkspaceMode = "read-only"
	// WorkspaceOverlay is the working directory with a layer over it that takes what the agent
	// writes. The host's files do not change until a person applies the layer.
	WorkspaceOverlay WorkspaceMode = "overlay"
	// WorkspaceTmpfs is an empty folder in memory, which is gone when the command ends.
	WorkspaceTmpfs WorkspaceMode = "tmpfs"
	// WorkspaceVolume is a folder of the agent's own, which is there in its next command.
	WorkspaceVolume WorkspaceMode = "volume"
)

// WorkspaceModes returns all modes, the default first.
func WorkspaceModes() []WorkspaceMode {
	return []WorkspaceMode{WorkspaceWrite, WorkspaceReadOnly, WorkspaceOverlay, WorkspaceTmpfs, WorkspaceVolume}
}

// HasFolder reports whether the command sees the working directory on this machine.
func (m WorkspaceMode) HasFolder() bool { return m != WorkspaceTmpfs && m != WorkspaceVolume }

// Workspace is the workspace of an agent's commands.
type Workspace struct {
	// Mode is one of [WorkspaceModes], and not [WorkspaceWrite] unless Size is 0.
	Mode WorkspaceMode `json:"mode"`
	// Size bounds, in bytes, what an agent writes to a layer, to memory or to a volume. 0 is the default.
	Size uint64 `json:"size,omitempty"`
	// Volume is the name of the volume, for [WorkspaceVolume]. "" is a name like any other.
	Volume string `json:"volume,omitempty"`
	// Hide are patterns of files that the agent does not see, besides those that look like secrets.
	// Show are paths of files that it sees although they do, with the reasons.
	Hide []string          `json:"hide,omitempty"`
	Show map[string]string `json:"show,omitempty"`
}

// WorkspaceOrDefault returns the agent's workspace, or that of an agent without one.
func (a *Agent) WorkspaceOrDefault() Workspace {
	return *cmp.Or(a.Workspace, &Workspace{Mode: WorkspaceWrite})
}

// String returns, for example, "overlay (10485760 bytes)".
func (w Workspace) String() string {
	return bounded(strings.TrimSuffix(string(w.Mode)+" "+w.Volume, " "), w.Size)
}

// bounded adds a size to a text, if it is not 0.
func bounded(text string, size uint64) string {
	if size != 0 {
		text += fmt.Sprintf(" (%d bytes)", size)
	}
	return text
}

// diffWorkspace returns what changes for an agent's workspace. An agent that is not there yet, or
// is gone, has the default: its folder is the caller's choice.
func diffWorkspace(name string, was, is *Agent) []Change {
	before, after := was.WorkspaceOrDefault(), is.WorkspaceOrDefault()
	out := slices.Concat(diffHidden("+", name, after, before), diffHidden("-", name, before, after))
	if before.Mode == after.Mode && before.Size == after.Size && before.Volume == after.Volume {
		return out
	}
	risk, why := RiskMedium, "it changes the host's files at once"
	switch {
	case after.Mode == WorkspaceWrite:
	case !before.Mode.HasFolder() && after.Mode.HasFolder():
		why = "it reads the host's files"
	case after.Mode == WorkspaceVolume && (before.Mode != after.Mode || before.Volume != after.Volume):
		why = "what it writes is there in its next command"
	default:
		risk, why = RiskLow, "it changes no more of the host's files"
	}
	return append(out, change("~", name, risk, why, " has workspace %s, was %s", after, before))
}

// diffHidden returns the files that an agent may see in one workspace and not in the other one.
func diffHidden(kind, name string, in, notIn Workspace) (out []Change) {
	risk := map[string]Risk{"+": RiskHigh, "-": RiskLow}[kind]
	for _, at := range slices.Sorted(maps.Keys(in.Show)) {
		if why := in.Show[at]; notIn.Show[at] != why {
			out = append(out, change(kind, name, risk, "it looks like a secret", " may see %q: %s", at, why))
		}
	}
	for _, p := range notIn.Hide {
		if !slices.Contains(in.Hide, p) {
			out = append(out, change(kind, name, risk, "a person has hidden it", " may see %q", p))
		}
	}
	return out
}

// Home is a home that an agent's commands keep from one to the next.
type Home struct {
	// Size bounds it, in bytes. 0 is the default.
	Size uint64 `json:"size,omitempty"`
}

// String returns, for example, "a home that persists (10485760 bytes)". h may be nil.
func (h *Home) String() string {
	if h == nil {
		return "an empty home in each run"
	}
	return bounded("a home that persists", h.Size)
}

// diffHome returns what changes for an agent's home.
func diffHome(name string, was, is *Agent) []Change {
	before, after := was.Home, is.Home
	if before == after || before != nil && after != nil && *before == *after {
		return nil
	}
	risk, why := RiskLow, "it reaches no more"
	if before == nil {
		risk, why = RiskMedium, "what it learns in one folder is there when it works in another"
	}
	return []Change{change("~", name, risk, why, " has %s, was %s", after, before)}
}
