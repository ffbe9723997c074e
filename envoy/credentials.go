package envoy

import (
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	injectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/credential_injector/v3"
	dfpfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/dynamic_forward_proxy/v3"
	chainv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/filter_chain/v3"
	genericv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/injected_credentials/generic/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/postern/postern/plan"
)

// perRoute is what a route says to the filters: whom to resolve, and which
// credential to inject, if any.
func (b *builder) perRoute(r plan.Rule) map[string]*anypb.Any {
	per := map[string]*anypb.Any{
		filterDNS: b.any(&dfpfilterv3.PerRouteConfig{
			HostRewriteSpecifier: &dfpfilterv3.PerRouteConfig_HostRewriteLiteral{HostRewriteLiteral: authority(r)},
		}),
	}
	if r.Credential == "" {
		return per
	}
	c, ok := b.credentials[r.Credential]
	if !ok {
		b.errs = append(b.errs, fmt.Errorf("rule %s: there is no credential %q", r.ID, r.Credential))
		return per
	}
	injector := b.any(&injectorv3.CredentialInjector{
		// Envoy's default keeps what the client sent.
		Overwrite: true,
		Credential: &corev3.TypedExtensionConfig{
			Name: "envoy.http.injected_credentials.generic",
			TypedConfig: b.any(&genericv3.Generic{
				Header:            c.Header,
				HeaderValuePrefix: c.Prefix,
				Credential:        &tlsv3.SdsSecretConfig{Name: SecretName(c.Name), SdsConfig: ads()},
			}),
		},
	})
	per[filterCredential] = b.any(&chainv3.FilterChainConfigPerRoute{FilterChain: &chainv3.FilterChain{
		Filters: []*corev3.TypedExtensionConfig{{Name: "envoy.filters.http.credential_injector", TypedConfig: injector}},
	}})
	return per
}
