package xds

import (
	"fmt"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/postern/postern/envoy"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/cache"
)

// resign returns the published clusters with the keys that credentials have
// now, or nil if none of p's credentials signs.
func (c *Control) resign(p *plan.Plan) (*cache.Table, error) {
	signs := false
	for _, cred := range p.Credentials {
		signs = signs || cred.Slot().Signs
	}
	if !signs {
		return nil, nil
	}
	t := c.cache.Table(resource.ClusterType).Clone()
	if err := c.sign(t); err != nil {
		return nil, err
	}
	return t, nil
}

// sign puts the keys that credentials have now into the clusters that sign.
func (c *Control) sign(t *cache.Table) error {
	for name, r := range t.All() {
		if !envoy.Signs(name) {
			continue
		}
		m := &clusterv3.Cluster{}
		if err := r.GetResource().UnmarshalTo(m); err != nil {
			return fmt.Errorf("read cluster %s: %w", name, err)
		}
		m, err := c.secrets.Sign(m)
		if err != nil {
			return err
		}
		if err := t.Add(name, m); err != nil {
			return err
		}
	}
	return nil
}
