package envoy

import (
	"fmt"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	awsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/aws/v3"
	signingv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/aws_request_signing/v3"
	injectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/credential_injector/v3"
	codecv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	genericv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/injected_credentials/generic/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/postern/postern/guard"
	"github.com/postern/postern/plan"
)

const (
	optionsHTTP   = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	filterSigning = "envoy.filters.http.aws_request_signing"
)

// credential returns the credential of a rule, and whether the rule has one.
func (b *builder) credential(r plan.Rule) (plan.Credential, bool) {
	if r.Credential == "" || r.Deny {
		return plan.Credential{}, false
	}
	c, ok := b.credentials[r.Credential]
	if !ok {
		b.errs = append(b.errs, fmt.Errorf("rule %s: there is no credential %q", r.ID, r.Credential))
	}
	return c, ok
}

// injected returns the header into which Envoy injects the secret of c, and the text before the
// secret. If c signs requests, the injected secret only says that there are keys. Without it the
// request ends at the injector; the cluster's filter overwrites it with the signature.
func injected(c plan.Credential) (header, prefix string, err error) {
	switch slot := c.Slot(); {
	case slot.Parameter != "":
		return guard.SecretHeader, "", nil
	case slot.Header != "":
		return slot.Header, slot.Prefix, nil
	}
	return "", "", fmt.Errorf("credential %s: %q is not a known kind", c.Name, c.Kind)
}

// credentialFilters inject the credential of a rule, if it has one.
func (b *builder) credentialFilters(r plan.Rule) []*corev3.TypedExtensionConfig {
	c, ok := b.credential(r)
	if !ok {
		return nil
	}
	header, prefix, err := injected(c)
	if err != nil {
		b.errs = append(b.errs, err)
		return nil
	}
	injector := b.any(&injectorv3.CredentialInjector{
		// Envoy's default keeps what the client sent.
		Overwrite: true,
		Credential: &corev3.TypedExtensionConfig{
			Name: "envoy.http.injected_credentials.generic",
			TypedConfig: b.any(&genericv3.Generic{
				Header:            header,
				HeaderValuePrefix: prefix,
				Credential:        &tlsv3.SdsSecretConfig{Name: SecretName(c.Name), SdsConfig: ads()},
			}),
		},
	})
	return []*corev3.TypedExtensionConfig{{Name: "envoy.filters.http.credential_injector", TypedConfig: injector}}
}

// signedName returns the name of the cluster that signs the rule's requests and otherwise is like
// the cluster called name. If the rule's requests are not signed, it returns name.
func (b *builder) signedName(r plan.Rule, name string) string {
	if c, ok := b.credentials[r.Credential]; ok && c.Slot().Signs {
		return signedPrefix + c.Name + "/" + name
	}
	return name
}

const signedPrefix = "signed/"

// Signs reports whether the cluster with that name needs [Sign].
func Signs(name string) bool { return strings.HasPrefix(name, signedPrefix) }

// sign makes c sign every request if the credential of r is of such a kind. The plan does not have
// the keys. The control plane fills them in with [Sign] when it publishes the cluster.
func (b *builder) sign(c *clusterv3.Cluster, r plan.Rule) {
	cred, ok := b.credentials[r.Credential]
	if !ok || !cred.Slot().Signs {
		return
	}
	exact := func(s string) *matcherv3.StringMatcher {
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
	}
	options := &httpv3.HttpProtocolOptions{}
	if err := c.TypedExtensionProtocolOptions[optionsHTTP].UnmarshalTo(options); err != nil {
		b.errs = append(b.errs, fmt.Errorf("cluster %s: %w", c.Name, err))
		return
	}
	options.HttpFilters = []*hcmv3.HttpFilter{
		b.filter(filterSigning, &signingv3.AwsRequestSigning{
			ServiceName:        cred.Service,
			Region:             cred.Region,
			UseUnsignedPayload: !signsBody(cred),
			// And the host, always. What a proxy may change is left out.
			MatchIncludedHeaders: []*matcherv3.StringMatcher{
				{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "x-amz-"}}, exact("content-type"), exact("content-md5"),
			},
			CredentialProvider: &awsv3.AwsCredentialProvider{InlineCredential: noKeys()},
		}),
		b.filter("envoy.filters.http.upstream_codec", &codecv3.UpstreamCodec{}),
	}
	c.TypedExtensionProtocolOptions[optionsHTTP] = b.any(options)
	if signsBody(cred) {
		c.PerConnectionBufferLimitBytes = wrapperspb.UInt32(maxSigned)
	}
	c.Metadata = metadata(map[string]string{"credential": cred.Name})
}

// signsBody reports whether the digest of the body is signed, so that Envoy has to read it first.
// S3 takes bodies without it, of any size, as TLS protects them. Other services insist on it.
func signsBody(c plan.Credential) bool {
	return c.Slot().Signs && !strings.HasPrefix(c.Service, "s3")
}

// SignedWith returns the name of the credential that a cluster signs with, or "".
func SignedWith(c *clusterv3.Cluster) string {
	return c.GetMetadata().GetFilterMetadata()[metadataNamespace].GetFields()["credential"].GetStringValue()
}

// Sign returns a copy of c that signs with the keys. If keys is nil, the copy has keys that no
// service accepts.
func Sign(c *clusterv3.Cluster, keys *awsv3.InlineCredentialProvider) (*clusterv3.Cluster, error) {
	c = proto.CloneOf(c)
	if keys == nil {
		keys = noKeys()
	}
	options, signing := &httpv3.HttpProtocolOptions{}, &signingv3.AwsRequestSigning{}
	if err := c.GetTypedExtensionProtocolOptions()[optionsHTTP].UnmarshalTo(options); err != nil {
		return nil, fmt.Errorf("sign cluster %s: %w", c.GetName(), err)
	}
	for _, f := range options.GetHttpFilters() {
		if f.GetName() != filterSigning {
			continue
		}
		if err := f.GetTypedConfig().UnmarshalTo(signing); err != nil {
			return nil, fmt.Errorf("sign cluster %s: %w", c.GetName(), err)
		}
		signing.CredentialProvider = &awsv3.AwsCredentialProvider{InlineCredential: keys}
		if err := pack(f.GetTypedConfig(), signing); err != nil {
			return nil, fmt.Errorf("sign cluster %s: %w", c.GetName(), err)
		}
		if err := pack(c.GetTypedExtensionProtocolOptions()[optionsHTTP], options); err != nil {
			return nil, fmt.Errorf("sign cluster %s: %w", c.GetName(), err)
		}
		return c, nil
	}
	return nil, fmt.Errorf("sign cluster %s: it does not sign", c.GetName())
}

// noKeys returns keys for a cluster whose credential is unavailable. Without keys Envoy would look
// for some in its environment and on the metadata service. The cluster's routes are closed, so
// nothing is signed with these.
func noKeys() *awsv3.InlineCredentialProvider {
	return &awsv3.InlineCredentialProvider{AccessKeyId: "none", SecretAccessKey: "none"}
}

// pack encodes deterministically, because the bytes are hashed.
func pack(a *anypb.Any, m proto.Message) error {
	return anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true})
}
