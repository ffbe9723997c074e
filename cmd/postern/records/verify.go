package records

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/audit"
	"github.com/postern/postern/exit"
	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/visible"
)

// maxHeads bounds the file of heads, in bytes.
const maxHeads = 1 << 20

// headsName is the file, in the operator's folder, in which verify keeps the heads of a stack.
const headsName = "audit-heads.json"

// verify returns the command that recomputes the chains.
func (s Stack) verify() *cobra.Command {
	var heads string
	var keys []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify [FOLDER]",
		Short: "Show whether the audit log is what was written",
		Long: `Recomputes the chain of each node's log, and compares it with the segments. It names each segment
that was changed, removed, shortened, swapped or doubled. FOLDER is a copy of a stack's audit folder.
Without FOLDER it verifies the log of the stack.

It keeps the end of each chain, the head, in the operator's folder of the stack, or in the file of
--heads. The next time it also finds a log whose end was removed, and a log that was written again.`,
		Example: `  postern audit verify
  postern audit verify --json
  postern audit verify --heads heads.json --key 3f2a9c1e5b7d8046 copy/audit`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := ""
			if len(args) == 1 {
				dir = args[0]
			} else {
				file, home, err := s.Home(cmd)
				if err != nil {
					return err
				}
				if stack, err := file.Load(); err == nil && stack.AWS != nil {
					return errors.New("the log of a stack on AWS is not here, and CloudWatch Logs has no chain: " +
						"see docs/audit.md")
				}
				dir = home.AuditDir()
				if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("stack %s has no audit log here: there is no %s; bring it up with `%s`",
						file.Name(), dir, file.Command("up"))
				}
				if _, err := os.Stat(home.OperatorDir()); err == nil && heads == "" {
					heads = filepath.Join(home.OperatorDir(), headsName)
				}
			}
			known, first, err := readHeads(heads)
			if err != nil {
				return err
			}
			proofs, err := audit.Verify(cmd.Context(), dir, known)
			if err != nil {
				return err
			}
			expect(proofs, keys)
			if err := show(cmd.OutOrStdout(), proofs, asJSON); err != nil {
				return err
			}
			if !slices.ContainsFunc(proofs, says) {
				return fmt.Errorf("nothing is verified: no node has signed a log in %s yet", visible.Text(dir))
			}
			if first {
				fmt.Fprintf(cmd.ErrOrStderr(), "no heads were kept in %s: what was removed or written again until now "+
					"is not found; the next time it is\n", visible.Text(heads))
			}
			kept := keepHeads(heads, known, proofs)
			return errors.Join(judge(proofs), kept)
		},
	}
	cmd.Flags().StringVar(&heads, "heads", "",
		"the file in which the heads are kept (default: in the operator's folder)")
	cmd.Flags().StringSliceVar(&keys, "key", nil,
		"the fingerprint of a key that may have signed; others are then findings")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object per line, for each node")
	return cmd
}

// says reports whether the proof is about anything.
func says(p audit.Proof) bool { return p.Segments+len(p.Findings)+len(p.Unknown) > 0 }

// readHeads reads the heads by node. There are none if path is "". If no file is there, first is
// true.
func readHeads(path string) (heads map[string]audit.Head, first bool, err error) {
	heads = map[string]audit.Head{}
	if path == "" {
		return heads, false, nil
	}
	b, err := hostpath.ReadFile(path, maxHeads)
	if errors.Is(err, fs.ErrNotExist) {
		return heads, true, nil
	}
	if err == nil {
		if err = json.Unmarshal(b, &heads); err == nil && heads == nil {
			err = errors.New("it is not an object")
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("read the heads of the audit log: %s: %w", visible.Text(path), err)
	}
	return heads, false, nil
}

// keepHeads writes the heads of the proofs without findings. Heads of other nodes stay.
func keepHeads(path string, known map[string]audit.Head, proofs []audit.Proof) error {
	if path == "" {
		return nil
	}
	for _, p := range proofs {
		if p.Head.Key != "" && len(p.Findings) == 0 {
			known[p.Node] = p.Head
		}
	}
	b, err := json.MarshalIndent(known, "", "  ")
	if err == nil {
		err = atomicfile.Write(path, append(b, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("the heads of the audit log could not be kept: %w", err)
	}
	return nil
}

// expect adds a finding for each key that is not one of those that may have signed.
func expect(proofs []audit.Proof, keys []string) {
	for i := range proofs {
		p := &proofs[i]
		for _, key := range p.Keys {
			if len(keys) > 0 && !slices.Contains(keys, key) {
				p.Findings = append(p.Findings, audit.Finding{
					Node: p.Node, File: "chain", Problem: audit.OtherKey,
					Detail: "the key " + key + " was not named by --key",
				})
			}
		}
	}
}

// show prints the proofs.
func show(w io.Writer, proofs []audit.Proof, asJSON bool) error {
	for _, p := range proofs {
		if asJSON {
			b, err := json.Marshal(p)
			if err == nil {
				_, err = fmt.Fprintln(w, visible.JSON(string(b)))
			}
			if err != nil {
				return err
			}
			continue
		}
		node := Plain(p.Node)
		for _, f := range p.Findings {
			where := f.File
			if f.Line > 0 {
				where = fmt.Sprintf("%s:%d", f.File, f.Line)
			}
			fmt.Fprintf(w, "%s: %s: %s\n", strings.TrimSuffix(node+"/"+Plain(where), "/"), f.Problem, Plain(f.Detail))
		}
		for _, u := range p.Unknown {
			fmt.Fprintf(w, "%s: not known: %s\n", node, Plain(u))
		}
		if p.Segments == 0 {
			if !says(p) {
				fmt.Fprintf(w, "%s: nothing is signed yet\n", node)
			}
			continue
		}
		text := fmt.Sprintf("%d of its segments are as they were written: %d bytes, the events %d to %d", p.Segments,
			p.Bytes, p.First, p.Last)
		if p.Unsigned > 0 {
			text += fmt.Sprintf("; %d bytes at the end are not signed yet", p.Unsigned)
		}
		if _, err := fmt.Fprintf(w, "%s: %s; key %s\n", node, text, p.Head.Key); err != nil {
			return err
		}
	}
	return nil
}

// judge returns the error for what was found: that of the first finding, or of what is not known.
func judge(proofs []audit.Proof) error {
	var first *audit.Finding
	found, unknown := 0, 0
	for _, p := range proofs {
		if found == 0 && len(p.Findings) > 0 {
			first = &p.Findings[0]
		}
		found += len(p.Findings)
		unknown += len(p.Unknown)
	}
	if first != nil {
		where := strings.TrimSuffix(Plain(first.Node)+"/"+Plain(first.File), "/")
		return exit.With(exit.Open, fmt.Errorf("the audit log is not what was written: %s is %s (findings: %d)", where,
			first.Problem, found))
	}
	if unknown > 0 {
		return exit.With(exit.Unproved, errors.New("nothing shows whether the audit log is what was verified before: "+
			"keep a copy of the segments, and verify more often"))
	}
	return nil
}
