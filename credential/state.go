package credential

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/postern/postern/cloud"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/stacks"
)

// State is what is known of a secret without its value.
type State struct {
	Name   string
	Secret plan.Reference
	// State says in words whether there is a value.
	State string
	// Version and Changed are zero if they are not known.
	Version string
	Changed time.Time
}

// States returns the state of each secret of the stack. It asks open for an account once for each
// region.
func States(ctx context.Context, stack *stacks.Stack, open OpenAccount) ([]State, error) {
	var all []State
	for _, c := range stack.Plan.Credentials {
		ref, err := plan.ParseReference(c.Secret)
		if err != nil {
			return nil, err
		}
		all = append(all, State{Name: c.Name, Secret: ref})
	}
	if stack.AWS != nil {
		for _, name := range ownSecrets {
			all = append(all, State{Name: name, Secret: ownSecret(stack, name)})
		}
	}
	accounts := map[string]cloud.Account{} // by region
	for i := range all {
		s := &all[i]
		s.State = "not looked at from here"
		switch {
		case s.Secret.Source == plan.SourceFile:
			s.State, s.Changed = fileState(s.Secret.Name)
		case s.Secret.Source == plan.SourceAWSSecretsManager && stack.AWS != nil:
			account := accounts[s.Secret.Region]
			if account == nil {
				var err error
				if account, err = open(ctx, stack, s.Secret.Region); err != nil {
					return nil, err
				}
				accounts[s.Secret.Region] = account
			}
			secret, err := account.Secret(ctx, s.Secret.Name)
			switch {
			case errors.Is(err, cloud.ErrNoSecret):
				s.State = "does not exist"
			case err != nil:
				return nil, err
			default:
				s.State, s.Version, s.Changed = secretState(secret), secret.Version, secret.Changed
			}
		}
	}
	return all, nil
}

func secretState(s *cloud.Secret) string {
	switch {
	case s.Deleting:
		return "waits for deletion"
	case s.Version == "":
		return "empty"
	case s.Versions == 1:
		return "set, 1 version"
	}
	return fmt.Sprintf("set, %d versions", s.Versions)
}

func fileState(path string) (state string, changed time.Time) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "does not exist", time.Time{}
	case err != nil:
		return "cannot be read", time.Time{}
	case info.Size() == 0:
		return "empty", info.ModTime()
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Sprintf("set, others may read it (%#o)", info.Mode().Perm()), info.ModTime()
	}
	return "set", info.ModTime()
}
