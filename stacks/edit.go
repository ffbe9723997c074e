package stacks

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/plan"
)

// HostPort is a host that an agent is to reach, over TLS.
type HostPort struct {
	Host string
	Port uint16
}

// ParseHostPort reads "host" or "host:port".
func ParseHostPort(s string) (HostPort, error) {
	host, port, ok := strings.Cut(s, ":")
	hp := HostPort{Port: 443}
	if ok {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return HostPort{}, fmt.Errorf("%q is not HOST or HOST:PORT; write, for example, api.example.com:8443", s)
		}
		hp.Port = uint16(n)
	}
	var err error
	if hp.Host, err = canonicalHost(host); err != nil {
		return HostPort{}, err
	}
	if hp.Host == "localhost" || strings.HasSuffix(hp.Host, ".localhost") {
		return HostPort{}, fmt.Errorf("host %q would be the proxy's own machine; write a destination with an upstream into the stack file", host)
	}
	return hp, nil
}

func (hp HostPort) String() string {
	if hp.Port == 443 || hp.Port == 0 {
		return hp.Host
	}
	return hp.Host + ":" + strconv.Itoa(int(hp.Port))
}

// AllowRequest is what [Allow] is to add.
type AllowRequest struct {
	Agent string
	Hosts []HostPort
	// Methods and Paths apply to every host; none means all.
	Methods, Paths []string
	// Expires is when the access ends, or the zero time; Reason is why it is
	// given, or "".
	Expires time.Time
	Reason  string
}

// RevokeRequest is what [Revoke] is to take away.
type RevokeRequest struct {
	Agent string
	// Hosts are revoked with all their rules; port 0 means every port.
	Hosts []HostPort
}

// Edit is a change to a stack file that was not written yet.
type Edit struct {
	Path          string
	Before, After []byte
	// Old and Plan are what the file compiles to before and after.
	Old, Plan *plan.Plan
}

// Changes is what the edit means.
func (e *Edit) Changes() []plan.Change { return plan.Diff(e.Old, e.Plan) }

// Allow plans an edit of the stack file at path that lets an agent reach
// hosts. A destination that says the same is reused; a new one is named after
// its host. What is allowed already changes nothing. Everything but the
// inserted text stays as it is, byte for byte.
func Allow(path string, r AllowRequest) (*Edit, error) {
	rule, err := r.rule()
	if err != nil {
		return nil, err
	}
	return edit(path, r.Agent, func(e *editor) error {
		for _, hp := range r.Hosts {
			rule := *rule
			rule.Host, rule.Port = hp.Host, hp.Port
			if err := e.allow(&rule); err != nil {
				return err
			}
		}
		return nil
	}, func(c plan.Change) bool {
		return c.Kind == "+" && (c.Agent == "" || c.Agent == r.Agent && c.Rule != "")
	})
}

// rule is the rule that the request describes, but for the host.
func (r *AllowRequest) rule() (*plan.Rule, error) {
	rule := &plan.Rule{Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath}, Reason: r.Reason}
	if !r.Expires.IsZero() {
		rule.Expires = r.Expires.UTC().Format(time.RFC3339)
	}
	if len(r.Reason) > 500 || strings.ContainsFunc(r.Reason, isForbidden) || strings.ContainsAny(r.Reason, "\n\r\t") {
		return nil, errors.New("the reason is longer than 500 bytes, or more than a line")
	}
	if len(r.Methods) > 0 {
		rule.Methods = nil
	}
	for _, m := range r.Methods {
		upper := strings.ToUpper(m)
		if !slices.Contains(methods, upper) {
			return nil, fmt.Errorf("method %q cannot be allowed; %s", m, nearest(upper, methods))
		}
		rule.Methods = append(rule.Methods, upper)
	}
	if len(r.Paths) > 0 {
		rule.Paths = nil
	}
	for _, p := range r.Paths {
		if _, err := plan.ParsePath(p); err != nil {
			return nil, err
		}
		rule.Paths = append(rule.Paths, p)
	}
	slices.Sort(rule.Methods)
	slices.Sort(rule.Paths)
	rule.Methods, rule.Paths = slices.Compact(rule.Methods), slices.Compact(rule.Paths)
	return rule, nil
}

// Revoke plans an edit that takes hosts off an agent's allow list, with every
// rule for them. Destinations that are named after such a host, as Allow names
// them, go when no agent uses them any more.
func Revoke(path string, r RevokeRequest) (*Edit, error) {
	return edit(path, r.Agent, func(e *editor) error {
		for _, hp := range r.Hosts {
			if err := e.revoke(hp); err != nil {
				return err
			}
		}
		return nil
	}, func(c plan.Change) bool {
		// A rule that denied goes with the destination it was written in, if
		// nothing that it denied is allowed any more.
		less := c.Kind == "-" && c.Risk != plan.RiskHigh || c.Kind == "+" && c.Risk == plan.RiskLow
		return less && (c.Agent == "" || c.Agent == r.Agent && c.Rule != "")
	})
}

// edit loads the file, has change rewrite it, and accepts the result only if
// it compiles to a plan that differs in the way that is expected.
func edit(path, agent string, change func(*editor) error, expected func(plan.Change) bool) (*Edit, error) {
	before, err := readFile(path)
	if err != nil {
		return nil, err
	}
	clients := newClientCache(ClientHosts)
	stack, err := parse(path, before, clients)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(stack.Plan.Agents, func(a plan.Agent) bool { return a.Name == agent }) {
		var names []string
		for _, a := range stack.Plan.Agents {
			names = append(names, a.Name)
		}
		return nil, fmt.Errorf("%s: there is no agent %q; %s", path, agent, nearest(agent, names))
	}
	e := &editor{path: path, agent: agent, data: before, stack: stack, clients: clients}
	if err := change(e); err != nil {
		return nil, err
	}
	out := &Edit{Path: path, Before: before, After: e.data, Old: stack.Plan, Plan: e.stack.Plan}
	for _, c := range out.Changes() {
		if !expected(c) {
			return nil, fmt.Errorf("edit %s: the result would also change this: %s; edit it by hand, then run `postern push`", path, c)
		}
	}
	return out, nil
}

// ErrChanged means that somebody else changed the stack file meanwhile.
var ErrChanged = errors.New("the file was changed meanwhile")

// Write replaces the file, whole or not at all, and keeps its mode. If the file
// is not any more what the edit began with, it is left alone: [ErrChanged].
func (e *Edit) Write() error { return replace(e.Path, e.Before, e.After) }

// Restore takes a written edit back. If the file was changed since, it is left
// alone: [ErrChanged].
func (e *Edit) Restore() error { return replace(e.Path, e.After, e.Before) }

func replace(path string, old, new []byte) error {
	real, err := filepath.EvalSymlinks(path) // a rename would replace the link
	if err != nil {
		return fmt.Errorf("write stack file: %w", err)
	}
	f, err := os.Open(real)
	if err != nil {
		return fmt.Errorf("write stack file: %w", err)
	}
	defer f.Close()
	// Held until the file is replaced: of two edits at once, the second then
	// finds another content.
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock stack file %s: %w", path, err)
	}
	now, err := os.ReadFile(real)
	if err != nil {
		return fmt.Errorf("write stack file: %w", err)
	}
	if !bytes.Equal(now, old) {
		return fmt.Errorf("write stack file %s: %w", path, ErrChanged)
	}
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("write stack file: %w", err)
	}
	if err := atomicfile.Write(real, new, info.Mode().Perm()); err != nil {
		return fmt.Errorf("write stack file %s: %w", path, err)
	}
	return nil
}
