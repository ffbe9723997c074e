package envoy

import (
	_ "embed" // the script
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// filterRest finds the scope of a CONNECT that has none of its own.
const filterRest = "rest"

//go:embed rest.lua
var restScript string

// restFilter runs rest.lua for requests without a route: every scope turns it
// off. They are never more than CONNECTs, which need no filter that a route has
// to turn on: which filters there are was decided before it runs.
func (b *builder) restFilter() *hcmv3.HttpFilter {
	// What it calls in Envoy is most of what the script does, and calls are never compiled:
	// going back and forth costs more than it saves (docs/performance.md).
	source := fmt.Sprintf("if jit then jit.off() end\nlocal scope = %q\nlocal rest = %q\n", scopeHeader, restOfHosts) + restScript
	return b.filter(filterRest, &luav3.Lua{
		DefaultSourceCode: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: source}},
		ClearRouteCache:   wrapperspb.Bool(false), // the script does
		// One interpreter for all agents: it keeps nothing.
		SharedVmId: filterRest,
	})
}
