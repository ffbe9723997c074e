package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/postern/postern/atomicfile"
	"github.com/postern/postern/bundle"
	"github.com/postern/postern/home"
)

// KeepKills records who is killed, in the stack's state folder, so that the kill outlives the store.
// Without a folder there is nothing to do. If it cannot be known, everybody counts as killed, and the
// error says why.
func KeepKills(ctx context.Context, home home.Folder) (killed bundle.Killed, err error) {
	if _, err := os.Stat(home.RecordFile()); err != nil {
		return killed, nil //nolint:nilerr // it never was up
	}
	o := operator(home)
	o.Kept = home.KeptBundles()
	killed, err = o.InForce(ctx)
	if errors.Is(err, bundle.ErrNone) { // it is down already
		killed, err = readKills(home)
	}
	unknown := err
	if unknown != nil {
		killed = bundle.Killed{Stack: true}
		unknown = fmt.Errorf("find out who is killed: %w", unknown)
	}
	if !killed.Stack && len(killed.Agents) == 0 {
		if err := os.Remove(home.KilledFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return killed, fmt.Errorf("forget who was killed: %w", err)
		}
		return killed, nil
	}
	data, err := json.Marshal(killed)
	if err != nil {
		return killed, fmt.Errorf("record who is killed: %w", err)
	}
	if err := atomicfile.Write(home.KilledFile(), append(data, '\n'), 0o600); err != nil {
		return killed, fmt.Errorf("record who is killed: %w", err)
	}
	return killed, unknown
}

// readKills returns what KeepKills has recorded.
func readKills(home home.Folder) (bundle.Killed, error) {
	var killed bundle.Killed
	data, err := os.ReadFile(home.KilledFile())
	if errors.Is(err, fs.ErrNotExist) {
		return killed, nil
	}
	if err == nil {
		dec := json.NewDecoder(strings.NewReader(string(data)))
		dec.DisallowUnknownFields()
		err = dec.Decode(&killed)
	}
	if err != nil {
		return killed, fmt.Errorf("read who was killed: %w: remove %s if nobody was", err, home.KilledFile())
	}
	return killed, nil
}
