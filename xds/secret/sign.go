package secret

import (
	"encoding/json"
	"errors"
	"fmt"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	awsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/aws/v3"

	"github.com/postern/postern/envoy"
)

// Sign returns c in the form that is published. If c signs requests, it is a copy with the keys of
// its credential, or with none if they are unavailable. Envoy takes the keys of a signature only
// from the cluster; its config_dump does not show them.
func (s *Store) Sign(c *clusterv3.Cluster) (*clusterv3.Cluster, error) {
	credential := envoy.SignedWith(c)
	if credential == "" {
		return c, nil
	}
	keys := s.material(credential).keys
	if keys == nil {
		return envoy.Sign(c, nil)
	}
	var k awsKeys
	if json.Unmarshal(keys(), &k) != nil {
		return nil, fmt.Errorf("sign with credential %q: %w", credential, errKeys)
	}
	return envoy.Sign(c, &awsv3.InlineCredentialProvider{AccessKeyId: k.AccessKeyID, SecretAccessKey: k.SecretAccessKey, SessionToken: k.SessionToken})
}

// errKeys cannot happen: keys were checked when they were read.
var errKeys = errors.New("the keys are not JSON")
