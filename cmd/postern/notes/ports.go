package notes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/postern/postern/plan/tool"
	"github.com/postern/postern/sandbox/run"
	"github.com/postern/postern/toolbox"
	"github.com/postern/postern/visible"
	"github.com/postern/postern/xds/api"
)

// Publish opens ports of this machine that lead into the sandbox, each as [sandbox.Spec.Publish]
// has it, and serves the agent's tools. The control plane records both, until ctx is done or the
// agent is killed. If there is an error, none is open. Without a control plane that would tell of a
// kill, the agent has no tools.
func Publish(ctx context.Context, r *run.Request, p *run.Prepared, ports []string) (err error) {
	spec := p.Spec
	defer func() {
		if err != nil {
			for _, p := range spec.Published {
				p.Listener.Close()
			}
		}
	}()
	for _, written := range ports {
		if err := spec.Publish(written); err != nil {
			return err
		}
	}
	control := api.Dial(r.Home.ControlSocket())
	if p.Tools != nil {
		record := api.Published{Agent: r.Agent}
		if len(p.Tools.Git) > 0 {
			record.Tools = append(record.Tools, "git")
		}
		for _, t := range p.Tools.Own {
			record.Tools = append(record.Tools, t.Name)
		}
		cut := func() {
			p.Tools.Close()
			visible.Printf(os.Stderr, "postern: agent %s is killed, so its tools have ended\n", r.Agent)
		}
		if err := control.Published(ctx, record, cut); err != nil {
			p.Tools.Listener.Close() // the sandbox still shows the socket's folder
			p.NoTools = err.Error()
		} else {
			go func() {
				tools := &toolbox.Tools{Git: p.Tools.Git, Run: p.Tools.Run, Own: p.Tools.Own}
				tools.Outside = recorded(control, r.Agent, p.Tools)
				if err := toolbox.Serve(p.Tools.Listener, tools); err != nil {
					visible.Printf(os.Stderr, "postern: agent %s has no tools any more: %v\n", r.Agent, err)
				}
			}()
		}
	}
	if p.NoTools != "" {
		visible.Printf(os.Stderr, "postern: agent %s has no tools in this run: %s\n", r.Agent, p.NoTools)
	}
	if len(spec.Published) == 0 {
		return nil
	}
	record := api.Published{Agent: r.Agent}
	for _, p := range spec.Published {
		record.Addresses = append(record.Addresses, p.Listener.Addr().String())
	}
	cut := func() {
		for _, p := range spec.Published {
			p.Listener.Close()
		}
		visible.Printf(os.Stderr, "postern: agent %s is killed, so its published ports are closed\n", r.Agent)
	}
	if err := control.Published(ctx, record, cut); err != nil {
		return fmt.Errorf("publish ports: %w", err)
	}
	return nil
}

// recorded returns [run.Tools.Outside] with an event before a call, without which it does not
// begin, and one after it.
func recorded(control *api.Client, agent string, tools *run.Tools) toolbox.Outside {
	return func(ctx context.Context, t *tool.Tool, input []byte) ([]byte, int, error) {
		call := api.Called{Agent: agent, Tool: t.Name, Digest: t.Digest()}
		if err := control.Called(ctx, call); err != nil {
			var refused *api.Error
			if !errors.As(err, &refused) {
				err = errors.New("the control plane does not answer, so nothing is recorded")
			}
			return nil, 0, err
		}
		began := time.Now()
		said, status, err := tools.Outside(ctx, t, input)
		call.Ended = fmt.Sprintf("status %d after %v", status, time.Since(began).Round(time.Millisecond))
		if err != nil {
			call.Ended = fmt.Sprintf("%v after %v", err, time.Since(began).Round(time.Millisecond))
		}
		if err := control.Called(context.WithoutCancel(ctx), call); err != nil {
			visible.Printf(os.Stderr, "postern: the end of tool %s is not recorded: %v\n", t.Name, err)
		}
		return said, status, err
	}
}
