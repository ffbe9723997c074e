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

// fromEnvironment puts what a container was started with into its state folder:
// a container has an environment and no files. The variables are then taken out
// of this process's own; the folder must be the container's alone.
// A certificate or key of the agents' authority that flags say another place of
// is not there.
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

// replicaName returns the name of a replica that nobody has named: the first part of its machine's
// name, which AWS gives to no two at a time.
func replicaName() (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("name the replica: %w", err)
	}
	name, _, _ := strings.Cut(strings.ToLower(host), ".")
	return name, nil
}
