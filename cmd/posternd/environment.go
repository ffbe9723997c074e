package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/home"
	"github.com/postern/postern/svid"
)

// fromEnvironment writes the settings of a container, which has an environment and no files, into
// its state folder. Then it removes the variables from this process's environment. The folder must
// be the container's alone. If flags name another place of the agents' authority, its certificate
// or key is not expected.
func fromEnvironment(home home.Folder, remote *remoteNodes) error {
	places := map[string]string{"POSTERN_OPERATORS": home.Trusted(), "POSTERN_STORE": home.StoreFile()}
	if remote.agentsCA == "" {
		places["POSTERN_CA"] = home.CACert()
	}
	if remote.agentsKey == "" {
		places["POSTERN_CA_KEY"] = home.CAKey()
	}
	for variable, path := range places {
		b, err := svid.Read("env://" + variable)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("make state folder: %w", err)
		}
		if err := atomicfile.Write(path, b, 0o600); err != nil {
			return fmt.Errorf("write what %s says: %w", variable, err)
		}
		if err := os.Unsetenv(variable); err != nil {
			return fmt.Errorf("forget %s: %w", variable, err)
		}
	}
	return nil
}

// replicaName returns the name of a replica without a configured name: the first part of its
// machine's name. AWS gives no two machines the same name at a time.
func replicaName() (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("name the replica: %w", err)
	}
	name, _, _ := strings.Cut(strings.ToLower(host), ".")
	return name, nil
}
