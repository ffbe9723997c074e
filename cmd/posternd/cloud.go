//go:build cloud

package main

// With -tags cloud this is posternd-cloud, for fleets in a cloud and for secrets there. They are
// not part of posternd: see docs/architecture.md.
import (
	_ "github.com/postern/postern/bundle/drivers"
	_ "github.com/postern/postern/xds/kms/aws"
	_ "github.com/postern/postern/xds/secret/aws"
	_ "github.com/postern/postern/xds/secret/gcp"
)
