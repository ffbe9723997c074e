// Package demo shows the stack `local` at work: a request that the policy allows, one that it
// denies, and the events of both.
package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern/postern/audit"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
)

const (
	agent      = "demo"
	allowedURL = "https://" + Host + "/v1/hello"
	deniedURL  = "https://" + deniedHost + "/"
	// deniedHost is in no policy, and in no DNS.
	deniedHost = "example.test"
	// patience bounds each step: a request, and the wait for its event.
	patience = 20 * time.Second
)

// findRoot is the folder with stacks/local.yaml: the working folder or one above it.
func findRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find stacks/local.yaml: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		_, err := os.Stat(filepath.Join(dir, "stacks", "local.yaml"))
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("find stacks/local.yaml: %w", err)
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("find stacks/local.yaml: not in this folder nor above it: run this in a checkout of Postern")
		}
	}
}

// notAnAgents refuses a folder that an agent may write: the demo works by paths there, with the
// caller's rights. state is the folder of all state folders.
func notAnAgents(state, dir string) error {
	folders, err := hostpath.In(state).Folders()
	if err != nil {
		return err
	}
	if err := folders.Check(dir); err != nil {
		return fmt.Errorf("work in %s: %w: run this in a checkout of Postern where no agent works", dir, err)
	}
	return nil
}

// Demo is the demonstration in a checkout of Postern.
type Demo struct {
	root, dir string
}

// Find returns the demonstration of the checkout that the working folder is in. It refuses a
// checkout in which an agent works.
func Find() (*Demo, error) {
	root, err := findRoot()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(root, ".cache", "demo")
	state, err := hostpath.StateFolder()
	if err != nil {
		return nil, err
	}
	if err := notAnAgents(state, dir); err != nil {
		return nil, err
	}
	return &Demo{root: root, dir: dir}, nil
}

// Prepare makes the server's certificate and the API key, unless they exist.
func (d *Demo) Prepare() error { return errors.Join(prepare(d.dir), handOver(d.dir)) }

// Show runs both requests and fails if anything is not as it is meant to be. It writes what happens
// to out, and gives the events to show.
func (d *Demo) Show(ctx context.Context, out io.Writer, show func(audit.Event) error) error {
	return (&showing{Demo: d, out: out, show: show}).run(ctx)
}

// showing is one run of the demonstration.
type showing struct {
	*Demo
	out  io.Writer
	show func(audit.Event) error
}

func (d *showing) run(ctx context.Context) error {
	secret, err := os.ReadFile(filepath.Join(d.dir, keyFile))
	if err != nil {
		return fmt.Errorf("read the demo's API key: %w: run `postern demo --prepare`, then `bin/postern up local`", err)
	}
	key := strings.TrimSpace(string(secret))
	server, err := startEcho(ctx, d.dir)
	if err != nil {
		return err
	}
	defer server.close()
	home, err := stacks.HomeOf(filepath.Join(d.root, "stacks", "local.yaml"))
	if err != nil {
		return err
	}
	since := time.Now().Truncate(time.Millisecond) // as exact as an event's time

	if err := d.allowed(ctx, server, key); err != nil {
		return err
	}
	if err := d.denied(ctx); err != nil {
		return err
	}
	if err := d.events(ctx, home, since); err != nil {
		return err
	}
	fmt.Fprint(d.out, `
Try next:
  bin/postern run -w ~/agent -- bash  # look around in the sandbox, in a folder that is the agent's
  bin/postern allow --client pip      # then: bin/postern run -w ~/agent -- pip download --no-deps six
  bin/postern audit -f                # watch every decision (in a second terminal)
`)
	return nil
}

func (d *showing) allowed(ctx context.Context, server *echo, key string) error {
	stdout, stderr, took, err := d.curl(ctx, allowedURL)
	if err != nil {
		return fmt.Errorf("the allowed request to %s failed: %w\n%s%s", allowedURL, err, stdout, stderr)
	}
	got, any := server.received()
	if !any {
		return fmt.Errorf("the allowed request got an answer, but not from the demo's server:\n%s", stdout)
	}
	equal := "yes"
	if got != key {
		equal = "no"
	}
	fmt.Fprintf(d.out, "\nallowed  curl %s  (%d ms)\n", allowedURL, took.Milliseconds())
	fmt.Fprintf(d.out, "         the server says: x-api-key arrived: sha256 %s..., equals the key in .cache/demo/key: %s\n", digest(got), equal)
	switch {
	case got == "":
		return errors.New("the credential was not injected: the server got no x-api-key; see `postern status`")
	case got != key:
		return errors.New("the injected key is not the one in .cache/demo/key: run `bin/postern up local`")
	case strings.Contains(stdout+stderr, key):
		return errors.New("the agent got to see the key: that must not happen, please report it")
	}
	fmt.Fprintln(d.out, "         the agent never had it: it is added by the proxy, after the request has left the sandbox")
	return nil
}

func (d *showing) denied(ctx context.Context) error {
	stdout, stderr, took, err := d.curl(ctx, deniedURL)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("the denied request could not be made: %w", err)
	}
	if err == nil {
		return fmt.Errorf("the request to %s should have been denied, but was answered:\n%s", deniedURL, stdout)
	}
	fmt.Fprintf(d.out, "denied   curl %s  (%d ms)\n", deniedURL, took.Milliseconds())
	for line := range strings.Lines(strings.TrimSpace(stderr)) {
		fmt.Fprintf(d.out, "         %s\n", strings.TrimSpace(line))
	}
	return nil
}

// curl runs curl as the agent, in a folder of its own: the key is not in there.
func (d *showing) curl(ctx context.Context, url string) (stdout, stderr string, took time.Duration, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", "", 0, fmt.Errorf("find postern: %w", err)
	}
	work := filepath.Join(d.dir, "work")
	if err := os.MkdirAll(work, 0o700); err != nil {
		return "", "", 0, fmt.Errorf("make the demo's working folder: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, "run", "--file", filepath.Join(d.root, "stacks", "local.yaml"),
		"--agent", agent, "--", "curl", "--silent", "--show-error", url)
	cmd.Dir = work
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	start := time.Now()
	err = cmd.Run()
	return out.String(), errs.String(), time.Since(start), err
}

// errSeen ends the following of the log.
var errSeen = errors.New("seen")

// events prints the two events of the demo, and fails if they are not the expected ones.
func (d *showing) events(ctx context.Context, home home.Folder, since time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var seen []audit.Event
	err := audit.Follow(ctx, home.AuditDir(), audit.Filter{Agent: agent, Since: since}, func(e audit.Event) error {
		// Somebody else may be at work as the same agent.
		if e.Host != Host+":443" && e.Host != deniedHost+":443" {
			return nil
		}
		if seen = append(seen, e); len(seen) == 2 {
			return errSeen
		}
		return nil
	})
	if err != nil && !errors.Is(err, errSeen) {
		return err
	}
	fmt.Fprintln(d.out, "\nThe audit log has both (this is `postern audit`):")
	for _, e := range seen {
		if err := d.show(e); err != nil {
			return fmt.Errorf("print the events: %w", err)
		}
	}
	switch {
	case len(seen) < 2:
		return fmt.Errorf("the audit log has %d events of the two requests after %s; see %s", len(seen), patience, home.AuditDir())
	case seen[0].Verdict != audit.Allow || seen[0].Credential == "":
		return errors.New("the first event is not the allowed request with its credential")
	case seen[1].Verdict != audit.Deny || seen[1].Reason != plan.ReasonHost:
		return errors.New("the second event is not the denied request")
	}
	return nil
}
