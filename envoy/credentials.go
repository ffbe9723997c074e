package envoy

import (
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	injectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/credential_injector/v3"
	genericv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/injected_credentials/generic/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/postern/postern/plan"
)

// credentialFilters inject the credential of a rule, if it has one.
func (b *builder) credentialFilters(r plan.Rule) []*corev3.TypedExtensionConfig {
	if r.Credential == "" {
		return nil
	}
	c, ok := b.credentials[r.Credential]
	if !ok {
		b.errs = append(b.errs, fmt.Errorf("rule %s: there is no credential %q", r.ID, r.Credential))
		return nil
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
	return []*corev3.TypedExtensionConfig{{Name: "envoy.filters.http.credential_injector", TypedConfig: injector}}
}
