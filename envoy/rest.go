package envoy

import (
	_ "embed" // the script
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// filterRest is the filter that finds a scope for a CONNECT whose authority has none.
const filterRest = "rest"

//go:embed rest.lua
var restScript string

// restFilter runs rest.lua for requests without a scope, because every scope turns it off. Only
// CONNECTs come without a scope. They need no filter that a route turns on, which would be too late
// here.
func (b *builder) restFilter() *hcmv3.HttpFilter {
	// The script mostly calls Envoy, and calls are never compiled. So a compiler would cost more
	// than it saves (docs/performance.md).
	source := fmt.Sprintf("if jit then jit.off() end\nlocal scope = %q\nlocal rest = %q\n", scopeHeader, restOfHosts) + restScript
	return b.filter(filterRest, &luav3.Lua{
		DefaultSourceCode: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: source}},
		ClearRouteCache:   wrapperspb.Bool(false), // the script does
		// All agents share one interpreter: the script keeps no state.
		SharedVmId: filterRest,
	})
}
