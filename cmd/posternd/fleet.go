package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/pki"
	"github.com/postern/postern/svid"
	"github.com/postern/postern/xds/kms"
)

// fleetDir is a folder with a fleet's authority and the hashes of its tokens.
type fleetDir struct{ path string }

func (d fleetDir) cert() string   { return filepath.Join(d.path, "ca.pem") }
func (d fleetDir) key() string    { return filepath.Join(d.path, "ca.key") }
func (d fleetDir) tokens() string { return filepath.Join(d.path, "tokens") }

func newAuthorityCmd() *cobra.Command {
	var stack, agentsKey string
	var agents bool
	cmd := &cobra.Command{
		Use:   "authority --stack NAME [--agents | --agents-key awskms://KEY?region=R] DIR",
		Short: "Make the fleet's authority: ca.pem for every node, ca.key for the control plane only",
		Long: `Makes the authority of nodes on other machines. With --agents it makes the
agents' authority instead: agents-ca.pem for the stack file, agents-ca.key for
the stack's secret ca-key. With --agents-key it makes only the certificate,
agents-ca.pem, for a key that stays in AWS KMS (key spec ECC_NIST_P256, usage
SIGN_VERIFY).`,
		Example: `  posternd authority --stack prod fleet/
  posternd authority --stack prod --agents fleet/
  posternd authority --stack prod --agents-key 'awskms://alias/postern-ca?region=eu-west-1' .`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if agents {
				return fleetDir{args[0]}.makeAgents(stack, time.Now())
			}
			if agentsKey != "" {
				return fleetDir{args[0]}.initAgents(stack, agentsKey, time.Now())
			}
			return fleetDir{args[0]}.init(stack, time.Now())
		},
	}
	cmd.Flags().StringVar(&stack, "stack", "", "the stack's name (required)")
	cmd.Flags().StringVar(&agentsKey, "agents-key", "", "the key of the agents' authority: awskms://KEY-ID?region=R or awskms://alias/NAME?region=R")
	cmd.Flags().BoolVar(&agents, "agents", false, "make the agents' authority, with a new key")
	cmd.MarkFlagsMutuallyExclusive("agents", "agents-key")
	_ = cmd.MarkFlagRequired("stack")
	return cmd
}

func newTokenCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "token DIR",
		Short: "Print a new token with which nodes join, and keep its hash",
		Long: `Prints the token once. The token is stored nowhere: put it where the nodes read
it. The file "tokens" has its hash. To revoke a token, remove its line. Nodes
that have joined with the token stay until they are removed.`,
		Example: "  posternd token fleet/ >join-token",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			token, err := fleetDir{args[0]}.newToken(time.Now())
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), token)
			return nil
		},
	}
}

// create makes the folder. It has private keys: wherever it is, Git ignores all but the public files
// that a stack file names.
func (d fleetDir) create() error {
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	ignore := filepath.Join(d.path, ".gitignore")
	if _, err := os.Lstat(ignore); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return atomicfile.Write(ignore, []byte("*\n!.gitignore\n!ca.pem\n!agents-ca.pem\n!operators.pem\n"), 0o644)
}

// init makes the authority. It never replaces one, because every node would have to join again.
func (d fleetDir) init(stack string, now time.Time) error {
	if err := d.create(); err != nil {
		return err
	}
	for _, path := range []string{d.key(), d.cert()} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s exists: remove it to make a new authority; every node must then join again", path)
		}
	}
	cert, key, err := svid.NewAuthority(stack, now)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(d.key(), key, 0o600); err != nil {
		return err
	}
	return atomicfile.Write(d.cert(), cert, 0o644)
}

// makeAgents makes the authority that agents trust, with a key of its own. It
// never replaces one.
func (d fleetDir) makeAgents(stack string, now time.Time) error {
	if err := d.create(); err != nil {
		return err
	}
	cert, key := filepath.Join(d.path, "agents-ca.pem"), filepath.Join(d.path, "agents-ca.key")
	for _, path := range []string{key, cert} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s exists: remove it to make another; the agents must then trust the new one", path)
		}
	}
	private, public, err := pki.NewAgentsAuthority(stack, now)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(key, private, 0o600); err != nil {
		return err
	}
	return atomicfile.Write(cert, public, 0o644)
}

// initAgents makes the certificate of the agents' authority. It never replaces one, because every
// agent would have to trust the new one.
func (d fleetDir) initAgents(stack, place string, now time.Time) error {
	if err := d.create(); err != nil {
		return err
	}
	path := filepath.Join(d.path, "agents-ca.pem")
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s exists: remove it to make another; the agents must then trust the new one", path)
	}
	key, err := kms.Open(place)
	if err != nil {
		return err
	}
	cert, err := pki.AgentsAuthority(stack, key, now)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, cert, 0o644)
}

func (d fleetDir) newToken(now time.Time) (token string, err error) {
	f, err := os.OpenFile(d.tokens(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return "", fmt.Errorf("keep the token's hash: %w", err)
	}
	token, hash := svid.NewToken()
	_, err = fmt.Fprintf(f, "%s # %s\n", hash, now.UTC().Format(time.RFC3339))
	if err := errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("keep the token's hash: %w", err)
	}
	return token, nil
}
