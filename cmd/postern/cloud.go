//go:build cloud

package main

// With -tags cloud this is postern-cloud: see becomeCloud.
import (
	_ "github.com/postern/postern/bundle/drivers"
	_ "github.com/postern/postern/cloud/aws"
)
