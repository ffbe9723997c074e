package notes

import (
	"context"
	"fmt"
	"os"

	"github.com/postern/postern/sandbox"
	"github.com/postern/postern/sandbox/run"
	"github.com/postern/postern/xds/api"
)

// Publish opens ports of this machine that lead into the sandbox, each as [sandbox.Spec.Publish]
// has it, and has the control plane record them, until ctx is done or the agent is killed. If there
// is an error, none is open.
func Publish(ctx context.Context, r *run.Request, spec *sandbox.Spec, ports []string) (err error) {
	defer func() {
		if err != nil {
			for _, p := range spec.Published {
				p.Listener.Close()
			}
		}
	}()
	for _, written := range ports {
		if err := spec.Publish(written); err != nil { //nolint:contextcheck // it opens a socket, and waits for nobody
			return err
		}
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
		fmt.Fprintf(os.Stderr, "postern: agent %s is killed, so its published ports are closed\n", r.Agent)
	}
	if err := api.Dial(r.Home.ControlSocket()).Published(ctx, record, cut); err != nil {
		return fmt.Errorf("publish ports: %w", err)
	}
	return nil
}
