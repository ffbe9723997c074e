package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/engine"
	"github.com/postern/postern/home"
	"github.com/postern/postern/provider"
	"github.com/postern/postern/visible"
)

func (d *driver) destroy(ctx context.Context) error {
	if err := d.find(); err != nil {
		return err
	}
	if err := d.known(); err != nil {
		return err
	}
	stack, err := d.elsewhere(ctx)
	if err != nil {
		return err
	}
	var killed bundle.Killed
	if stack == nil {
		if killed, err = provider.KeepKills(ctx, d.home); err != nil {
			visible.Printf(os.Stderr, "warning: look with `postern status` after the next up: %s\n", err)
		}
	}
	err = d.run(ctx, nil, func(e *engine.Engine, ctx context.Context) (*engine.Summary, error) {
		sum, err := e.Destroy(ctx)
		if err != nil {
			return sum, err
		}
		return sum, d.removeHome(ctx)
	})
	if err != nil && !errors.Is(err, engine.ErrNoState) {
		return err
	}
	if err != nil {
		if err := d.refuseOrphans(ctx, stack); err != nil {
			return err
		}
		// The engine knows of nothing, which is not to say that nothing runs.
		ended, err := engine.EndAll(ctx, d.home)
		for _, what := range ended {
			if !d.JSON {
				visible.Printf(d.out, "  ended %s, which the engine did not know of\n", what)
			}
		}
		if err == nil {
			err = d.removeHome(ctx)
		}
		if err != nil {
			return err
		}
		if err := d.report(ctx, &engine.Summary{Stack: d.name, Operation: "destroy", OK: true}); err != nil {
			return err
		}
	}
	if !d.JSON {
		unkill := []string{"unkill", "--agent", strings.Join(killed.Agents, ",")}
		if killed.Stack {
			unkill = []string{"unkill", "--stack"}
		}
		if killed.Stack || len(killed.Agents) > 0 {
			visible.Printf(d.out, "  the kill stays: after the next up, `%s` takes it back\n", d.file.Command(unkill...))
		}
	}
	if _, err := os.Stat(d.home.AuditDir()); err == nil && !d.JSON {
		visible.Printf(d.out, "  the audit log stays in %s\n", d.home.AuditDir())
	}
	if _, err := os.Stat(d.home.OperatorKey()); err == nil && !d.JSON {
		visible.Printf(d.out, "  your operator's key stays in %s\n", d.home.OperatorDir())
	}
	return nil
}

// removeHome removes the state folder. Of a stack in a cloud, the key with which this user signs is
// in the stack file's list of operators, and stays.
func (d *driver) removeHome(ctx context.Context) error {
	return engine.RemoveHome(ctx, d.home, d.Audit, !d.cloud)
}

// known reports a stack that has neither a file nor a state folder here as an error: its file may
// have been moved away, and the stack still be up.
func (d *driver) known() error {
	if _, err := os.Stat(d.home.Root); d.lost == nil || err == nil {
		return nil
	}
	homes, err := home.All(d.name)
	if err != nil || len(homes) == 0 {
		return errors.Join(d.lost, err)
	}
	return fmt.Errorf("%w; the stack in %s has this name: put its file back where it was, or go there", d.lost, homes[0].Root)
}
