package envoy

import (
	"fmt"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/postern/postern/plan"
)

// Resources is one plan as Envoy sees it, without secrets and leaf certificates. The control plane
// adds these; see [SecretName].
type Resources struct {
	Clusters  []*clusterv3.Cluster
	Scopes    []*routev3.ScopedRouteConfiguration
	Listeners []*listenerv3.Listener
}

// Build returns the resources that [Memo.Build] makes of p, decoded and sorted by name.
func Build(p *plan.Plan, o Options) (*Resources, error) {
	packed, err := new(Memo).Build(p, o)
	if err != nil {
		return nil, err
	}
	r := &Resources{}
	for _, resources := range packed {
		for _, one := range resources {
			m, err := one.GetResource().UnmarshalNew()
			if err != nil {
				return nil, fmt.Errorf("resource %q: %w", one.GetName(), err)
			}
			switch m := m.(type) {
			case *clusterv3.Cluster:
				r.Clusters = append(r.Clusters, m)
			case *routev3.ScopedRouteConfiguration:
				r.Scopes = append(r.Scopes, m)
			case *listenerv3.Listener:
				r.Listeners = append(r.Listeners, m)
			}
		}
	}
	slices.SortFunc(r.Clusters, byName[*clusterv3.Cluster])
	slices.SortFunc(r.Scopes, byName[*routev3.ScopedRouteConfiguration])
	slices.SortFunc(r.Listeners, byName[*listenerv3.Listener])
	return r, nil
}

func byName[M interface{ GetName() string }](a, b M) int {
	return strings.Compare(a.GetName(), b.GetName())
}
