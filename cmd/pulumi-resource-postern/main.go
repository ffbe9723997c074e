// Command pulumi-resource-postern serves package provider to a Pulumi engine:
// what `plugins` in Pulumi.yaml points to. `go run . up` does not need it.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/postern/postern/hostpath"
	"github.com/postern/postern/provider"
)

func main() {
	hostpath.KeepDescriptors()
	hostpath.CleanEnvironment()
	p, err := provider.New(nil)
	if err == nil {
		err = p.Run(context.Background(), provider.Name, provider.Version)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pulumi-resource-postern:", err)
		os.Exit(1)
	}
}
