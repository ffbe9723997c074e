package envoy

import (
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Remote says where a node finds a control plane on another machine, and how it recognises one.
type Remote struct {
	// Controls are the addresses of the replicas, HOST:PORT. When Envoy's stream ends, Envoy tries
	// another replica by itself.
	Controls []string
	// Authority is the PEM certificate of the fleet's authority.
	Authority string
	// ServerName and URI are the names in the control plane's certificate.
	ServerName, URI string
}

// IdentityPath is the path of the file with the node's certificate and key, relative to the node's
// working folder. [Identity] returns its content. Replace the file by renaming: Envoy uses the new
// content from its next connection on.
const IdentityPath = "identity.json"

// identityName is the name of the secret in IdentityPath.
const identityName = "identity"

// Identity returns the content of the file at [IdentityPath]: an Envoy secret with the PEM chain
// and the key. They are in one file, so that they always belong together.
func Identity(chain, key []byte) ([]byte, error) {
	b := &builder{}
	packed := b.any(&tlsv3.Secret{Name: identityName, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: chain}},
		PrivateKey:       &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: key}},
	}}})
	if len(b.errs) > 0 {
		return nil, fmt.Errorf("encode the node's identity: %w", b.errs[0])
	}
	secret, err := protojson.Marshal(packed)
	if err != nil {
		return nil, fmt.Errorf("encode the node's identity: %w", err)
	}
	return json.Marshal(map[string]any{"resources": []json.RawMessage{secret}})
}

// controlCluster leads to the control plane.
func (b *builder) controlCluster(n Node) *clusterv3.Cluster {
	http2 := &corev3.Http2ProtocolOptions{}
	c := &clusterv3.Cluster{Name: "xds"}
	if n.Remote == nil {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
		c.LoadAssignment = assignment("xds", &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: n.XDS}}})
	} else {
		b.remote(c, n.Remote)
		// If a control plane's machine is gone, only a missing answer tells.
		http2.ConnectionKeepalive = &corev3.KeepaliveSettings{Interval: durationpb.New(10 * time.Second), Timeout: durationpb.New(5 * time.Second)}
	}
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{
		optionsHTTP: b.any(&httpv3.HttpProtocolOptions{
			UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: http2},
			}},
		}),
	}
	return c
}

func (b *builder) remote(c *clusterv3.Cluster, r *Remote) {
	kind := clusterv3.Cluster_STATIC
	endpoints := &endpointv3.LocalityLbEndpoints{}
	for _, control := range r.Controls {
		host, portText, err := net.SplitHostPort(control)
		port, notPort := strconv.ParseUint(portText, 10, 16)
		if err != nil || notPort != nil || host == "" {
			b.errs = append(b.errs, fmt.Errorf("%q is not a valid address of a control plane: write HOST:PORT", control))
			continue
		}
		if net.ParseIP(host) == nil {
			kind = clusterv3.Cluster_STRICT_DNS
		}
		endpoints.LbEndpoints = append(endpoints.LbEndpoints, &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
			Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
			}}},
		}}})
	}
	c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: kind}
	// Random, so that the nodes of a fleet spread over the replicas.
	c.LbPolicy = clusterv3.Cluster_RANDOM
	c.ConnectTimeout = durationpb.New(2 * time.Second)
	c.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: c.Name, Endpoints: []*endpointv3.LocalityLbEndpoints{endpoints}}
	// Envoy passes over a replica that does not answer for a moment, but never over all replicas.
	c.OutlierDetection = &clusterv3.OutlierDetection{
		Consecutive_5Xx: wrapperspb.UInt32(2), Interval: durationpb.New(time.Second),
		BaseEjectionTime: durationpb.New(2 * time.Second), MaxEjectionTime: durationpb.New(10 * time.Second),
		MaxEjectionPercent: wrapperspb.UInt32(50),
	}
	c.TransportSocket = b.socket("envoy.transport_sockets.tls", b.any(&tlsv3.UpstreamTlsContext{
		Sni: r.ServerName,
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams:     &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3},
			AlpnProtocols: []string{"h2"},
			TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{
				Name: identityName,
				SdsConfig: &corev3.ConfigSource{
					ConfigSourceSpecifier: &corev3.ConfigSource_PathConfigSource{PathConfigSource: &corev3.PathConfigSource{
						// Envoy watches the folder in the path, so there must be one.
						Path: "./" + IdentityPath,
					}},
					ResourceApiVersion: corev3.ApiVersion_V3,
				},
			}},
			ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: r.Authority}},
				MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
					SanType: tlsv3.SubjectAltNameMatcher_URI,
					Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: r.URI}},
				}},
			}},
		},
	}))
}
