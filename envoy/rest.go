package envoy

import (
	_ "embed" // the script
	"fmt"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// filterRest finds the scope of a CONNECT that has none of its own.
const filterRest = "rest"

//go:embed rest.lua
var restScript string

// restFilter runs rest.lua for requests without a route: every scope turns it
// off. They are never more than CONNECTs, which need no filter that a route has
// to turn on: which filters there are was decided before it runs.
func (b *builder) restFilter() *hcmv3.HttpFilter {
	return b.filter(filterRest, script(filterRest, fmt.Sprintf("local scope = %q\nlocal rest = %q\n", scopeHeader, restOfHosts)+restScript))
}
