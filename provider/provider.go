// Package provider is Postern's own Pulumi provider: the resources of the local environment. Each
// resource is real: create makes it, read inspects the machine and not the state, and delete leaves
// nothing behind.
//
// The state that Pulumi keeps contains paths, digests and the plan, but never a key or a secret.
package provider

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/daemon"
	"github.com/postern/postern/home"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/xds/api"
)

const (
	// Name is the name of the provider: the first part of every token, and of the binary
	// pulumi-resource-postern.
	Name = "postern"
	// Version is the version of the provider's schema.
	Version = "0.1.0"
)

// New returns the provider. Its tokens are postern:local:<type>. If over is not nil, the provider
// publishes only over the publication that a person was shown; see [bundle.Operator].
func New(over *bundle.Bundle) (p.Provider, error) {
	built, err := infer.NewProviderBuilder().
		WithDisplayName("Postern").
		WithDescription("The local environment of Postern: a guarded gate for AI agents.").
		WithModuleMap(map[tokens.ModuleName]tokens.ModuleName{"provider": "local"}).
		WithResources(
			infer.Resource(&CertificateAuthority{}),
			infer.Resource(&ControlPlane{}),
			infer.Resource(&Node{}),
			infer.Resource(&Bundle{over: over}),
		).
		Build()
	if err != nil {
		return p.Provider{}, fmt.Errorf("build provider: %w", err)
	}
	return built, nil
}

// How long to wait. A control plane is up in milliseconds and an Envoy in
// under two seconds: these are for a machine that is busy with other things.
const (
	begin     = 10 * time.Second
	controlUp = 15 * time.Second
	nodeUp    = 30 * time.Second
	// After an interrupt the engine has ten seconds, clean-up included.
	stopGrace = 8 * time.Second
	answer    = 3 * time.Second
	pollEvery = 10 * time.Millisecond
)

// difference builds a DiffResponse of the properties that need another resource, and of those that
// an update can change.
type difference struct{ p.DiffResponse }

func (d *difference) add(property string, kind p.DiffKind) {
	if d.DetailedDiff == nil {
		d.DetailedDiff = map[string]p.PropertyDiff{}
	}
	d.HasChanges = true
	// The old and the new would be the same files and sockets.
	d.DeleteBeforeReplace = true
	d.DetailedDiff[property] = p.PropertyDiff{Kind: kind}
}

func (d *difference) update(property string, changed bool) {
	if changed {
		d.add(property, p.Update)
	}
}

func (d *difference) replace(property string, changed bool) {
	if changed {
		d.add(property, p.UpdateReplace)
	}
}

// process is one of posternd's daemons below a home.
type process struct{ dir string }

func (d process) pidfile() string { return filepath.Join(d.dir, "pid") }
func (d process) log() string     { return filepath.Join(d.dir, "log") }

// start replaces whatever runs in d's folder. as is the user; nil means the caller.
func (d process) start(ctx context.Context, as *syscall.Credential, posternd string, env []string, args ...string) error {
	if err := d.stop(ctx); err != nil {
		return err
	}
	// One whose folder was removed holds no lock that could be found.
	strays, err := daemon.Find(func(p daemon.Process) bool {
		return len(p.Args) > len(args) && filepath.Base(p.Args[0]) == filepath.Base(posternd) && strays(p, args)
	})
	if err != nil {
		return err
	}
	for _, p := range strays {
		grace, cancel := context.WithTimeout(ctx, stopGrace)
		err := p.End(grace, syscall.SIGTERM)
		cancel()
		if err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, begin, fmt.Errorf("it did not begin within %s", begin))
	defer cancel()
	_, err = daemon.Start(ctx, daemon.Command{
		Path: posternd, Args: args, Env: env, Dir: "/", PIDFile: d.pidfile(), LogFile: d.log(), User: as,
	})
	return err
}

// identity are the arguments that tell one daemon from every other, the role first.
var identity = map[string]bool{"--home": true, "--id": true}

// strays reports whether the process is the same daemon as one with these arguments.
func strays(p daemon.Process, args []string) bool {
	if p.Args[1] != args[0] {
		return false
	}
	for i, arg := range args[:len(args)-1] {
		if identity[arg] && !p.Has(arg, args[i+1]) {
			return false
		}
	}
	return true
}

// stop ends the daemon, even if ctx is already cancelled, because an interrupted create ends with
// it.
func (d process) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer cancel()
	return daemon.Stop(ctx, d.pidfile())
}

// until polls ready until it returns nil, the daemon dies, limit passes or ctx
// ends; the error then has ready's last word and the last lines of the log.
// Nothing signals from another process's readiness, hence the polling.
func (d process) until(ctx context.Context, what string, limit time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %s", limit))
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if _, ok, rerr := daemon.Running(d.pidfile()); rerr == nil && !ok {
			return fmt.Errorf("%s: the process has ended%s", what, d.lastWords())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w%s", what, context.Cause(ctx), err, d.lastWords())
		case <-tick.C:
		}
	}
}

func (d process) lastWords() string {
	if s := daemon.Tail(d.log(), 10); s != "" {
		return "; the end of " + d.log() + ":\n" + s
	}
	return "; it logged nothing to " + d.log()
}

// status asks the control plane of home, briefly.
func status(ctx context.Context, home home.Folder) (*api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	return api.Dial(home.ControlSocket()).Status(ctx)
}

// controlEnv is the environment of the control plane: that of the command,
// because secrets may be in it (env://), without the engine's own variables.
func controlEnv() ([]string, error) {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PULUMI_") {
			env = append(env, kv)
		}
	}
	return safe(env)
}

// safe returns env without what leads to an agent's folder, such as the
// authorities of SSL_CERT_FILE, and with a PATH of good folders.
func safe(env []string) ([]string, error) {
	folders, err := hostpath.AgentFolders()
	if err != nil {
		return nil, err
	}
	return folders.Clean(env), nil
}

// nodeEnv is the environment of a node: nothing that could be a secret, as
// Envoy faces the agents.
func nodeEnv() ([]string, error) {
	var env []string
	for _, name := range []string{"HOME", "TMPDIR", "LANG", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return safe(env)
}
