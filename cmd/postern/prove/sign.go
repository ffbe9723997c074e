package prove

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/postern/postern/bundle"
	"github.com/postern/postern/checkout"
	"github.com/postern/postern/drive"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/policies/proof"
	"github.com/postern/postern/policies/reach"
	"github.com/postern/postern/publish"
	"github.com/postern/postern/stacks"
	"github.com/postern/postern/visible"
)

// sign keeps the report next to the newest publication if every assertion holds, and the
// publication has the policy of the stack file. What an agent may have written is not signed.
func sign(cmd *cobra.Command, r *drive.Request, file *stacks.File, o *bundle.Operator) error {
	if err := publish.RefuseProposal(file); err != nil {
		return err
	}
	report, err := prove(cmd, file, r.SVG)
	if err != nil {
		return err
	}
	if report.Result != reach.Holds {
		return report.Deliver(cmd.OutOrStdout(), r.JSON, "")
	}
	if err := report.Ended(proof.Today()); err != nil {
		return err
	}
	b, err := newest(cmd, file, o)
	if err != nil {
		return err
	}
	if version, err := b.Version(); err != nil || version != report.Policy {
		return errors.Join(err, fmt.Errorf("publication %d has another policy than the stack file: see the "+
			"difference with `%s`, and publish it with `%s`", b.Seq, file.Command("diff"), file.Command("push")))
	}
	var text bytes.Buffer
	if err := report.Encode(&text); err != nil {
		return err
	}
	if err := o.KeepProof(cmd.Context(), b, text.Bytes()); err != nil {
		return err
	}
	visible.Printf(cmd.ErrOrStderr(), "signed, and kept next to publication %d\n", b.Seq)
	return report.Deliver(cmd.OutOrStdout(), r.JSON, "")
}

// newest returns the publication that a proof is about.
func newest(cmd *cobra.Command, file *stacks.File, o *bundle.Operator) (*bundle.Bundle, error) {
	b, err := o.Newest(cmd.Context())
	if errors.Is(err, bundle.ErrNone) {
		return nil, fmt.Errorf("nothing is published that a proof could be about: publish with `%s`",
			file.Command("push"))
	}
	return b, err
}

// verify shows the report next to the newest publication, if the stack file still describes what it
// is about.
func verify(cmd *cobra.Command, r *drive.Request, file *stacks.File, o *bundle.Operator) error {
	b, err := newest(cmd, file, o)
	if err != nil {
		return err
	}
	kept, err := o.Proof(cmd.Context(), b)
	if err != nil {
		return fmt.Errorf("publication %d has no proof that can be verified: sign one with `%s`: %w", b.Seq,
			file.Command("prove", "--sign"), err)
	}
	report, err := proof.Decode(kept.Report)
	if err != nil {
		return err
	}
	version, err := b.Version()
	if err != nil {
		return err
	}
	if report.Policy != version || report.Stack != o.Stack {
		return fmt.Errorf("the proof of publication %d is about policy %s of stack %q: sign one with `%s`", b.Seq,
			visible.Text(report.Policy), report.Stack, file.Command("prove", "--sign"))
	}
	now, err := prove(cmd, file, "")
	if err != nil {
		return err
	}
	if what := report.Stale(now); what != "" {
		return fmt.Errorf("the proof of publication %d is old: %s changed since: sign one with `%s`", b.Seq, what,
			file.Command("prove", "--sign"))
	}
	if err := now.Ended(proof.Today()); err != nil {
		return err
	}
	visible.Printf(cmd.ErrOrStderr(), "signed for publication %d by %s at %s\n", b.Seq, visible.Text(kept.By),
		kept.Time.Format("2006-01-02 15:04:05 MST"))
	return report.Deliver(cmd.OutOrStdout(), r.JSON, "")
}

// prove returns the report on a stack wherever it runs, and draws it into the file svg unless that
// is "".
func prove(cmd *cobra.Command, file *stacks.File, svg string) (*proof.Report, error) {
	stack, err := file.Load()
	if err != nil {
		return nil, err
	}
	if stack.Target == stacks.TargetLocal {
		if svg != "" {
			return nil, errors.New("there is no network to draw: a sandbox of this machine has none")
		}
		return proof.Of(stack, nil, sandboxes(stack.Plan))
	}
	folders, err := hostpath.AgentFolders()
	if err != nil {
		return nil, err
	}
	program, err := checkout.Stack(stack.Target).Current(cmd.Context(), folders, os.Stderr)
	if err != nil {
		return nil, err
	}
	child := exec.CommandContext(cmd.Context(), program, "prove", "--json", "--file", file.Real, "--svg="+svg)
	child.Stderr = os.Stderr
	out, err := child.Output()
	if exited := (*exec.ExitError)(nil); len(out) == 0 || err != nil && !errors.As(err, &exited) {
		return nil, errors.Join(err, errors.New("the Pulumi program has not proved anything"))
	}
	return proof.Decode(out)
}
