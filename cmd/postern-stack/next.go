package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/postern/postern/engine"
	"github.com/postern/postern/visible"
)

// next prints what a person needs after an `up`, and notes where to publish: a
// place that somebody has chosen there stays.
func (d *driver) next(sum *engine.Summary) error {
	for _, key := range slices.Sorted(maps.Keys(sum.Outputs)) {
		switch v := sum.Outputs[key].(type) {
		case string:
			visible.Printf(d.out, "  %-15s %s\n", key, v)
		case []any:
			visible.Printf(d.out, "  %-15s %s\n", key, strings.Trim(fmt.Sprint(v), "[]"))
		}
	}
	if store, ok := sum.Outputs["store"].(string); ok {
		if err := os.MkdirAll(d.home.OperatorDir(), 0o700); err != nil {
			return fmt.Errorf("note where to publish: %w", err)
		}
		f, err := os.OpenFile(d.home.StoreFile(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			_, err = f.WriteString(store + "\n")
			if closed := f.Close(); err == nil {
				err = closed
			}
		}
		if err != nil && !os.IsExist(err) {
			return fmt.Errorf("note where to publish: %w", err)
		}
	}
	visible.Printf(d.out, "  the fleet serves when its secrets have values (%s) and a policy is published: docs/aws.md\n",
		d.file.Command("secret", "list"))
	return nil
}
