package envoy

import (
	_ "embed" // the scripts
	"fmt"
	"strings"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	matchingv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	actionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/matcher/action/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Names of the filters that take the agent's own keys out of a request: routes
// of rules with their own credentials have scrub instead. Of the one that is in the
// place of query where a credential has to be put into one, or a signature replaced.
// And of those that take the policy's out of a response: routes with a credential
// turn them on.
const (
	filterSlots    = "slots"
	filterScrub    = "scrub"
	filterQuery    = "query"
	filterPut      = "put"
	filterEcho     = "echo"
	filterInjected = "injected"
)

// secretHeader takes a credential from the injector to the query, and
// injectedHeader one from the request to echo.lua. They are of those that are
// removed from whatever a client sends, or is sent.
const (
	secretHeader   = "x-postern-secret"
	injectedHeader = "x-postern-injected"
)

// A slot is where some service accepts a credential. All are emptied on every
// inspected route before the policy's own credential is put into one, so that an
// agent's own key never reaches an allowed host: with it, an allowed host would
// be a way out for data.

// headerSlots are headers, in lower case, by who takes them.
var headerSlots = []string{
	// RFC 9110, RFC 6265, RFC 2965: nearly everybody.
	"authorization", "proxy-authorization", "cookie", "cookie2",
	// RFC 9449, RFC 9421: proofs of possession of the agent's own key.
	"dpop", "signature", "signature-input",
	// By custom: Anthropic, AWS API Gateway and many more; Azure OpenAI, Pinecone, New Relic; Supabase, Kong.
	"x-api-key", "api-key", "apikey", "x-apikey",
	// OpenStack, Cloudflare's older API, Spring; what proxies and frameworks pass on.
	"x-auth-token", "x-auth-key", "x-auth-email", "x-auth-user-service-key", "x-subject-token", "x-access-token", "x-session-token", "x-user-token",
	"x-token", "x-id-token", "x-authorization", "x-original-authorization", "x-wsse",
	// Google: APIs, Cloud Run beside an Authorization of one's own, IAP.
	"x-goog-api-key", "x-goog-iam-authorization-token", "x-goog-iap-jwt-assertion", "x-serverless-authorization",
	// AWS: temporary keys, the date of a signature, S3 Express, Selling Partner.
	"x-amz-security-token", "x-amz-date", "x-amz-s3session-token", "x-amz-access-token",
	// Azure: API Management, Functions, Event Grid, App Service, a second identity, the source of a copy.
	"ocp-apim-subscription-key", "x-functions-key", "aeg-sas-key", "aeg-sas-token", "x-zumo-auth", "x-zumo-master", "x-ms-authorization-auxiliary",
	"x-ms-copy-source-authorization", "x-ms-token-aad-access-token", "x-ms-token-aad-id-token",
	// GitLab: users, jobs, deployments.
	"private-token", "job-token", "deploy-token",
	// HashiCorp.
	"x-vault-token", "x-consul-token", "x-nomad-token",
	// Cloudflare Access.
	"cf-access-token", "cf-access-client-id", "cf-access-client-secret", "cf-access-jwt-assertion",
	// Where telemetry goes: an account of the agent's own is a way out.
	"dd-api-key", "dd-application-key", "x-insert-key", "x-query-key", "x-license-key", "x-honeycomb-team", "x-sentry-auth", "x-rollbar-access-token",
	"bugsnag-api-key", "lightstep-access-token", "x-sf-token",
	// Package registries and builds.
	"npm-otp", "x-nuget-apikey", "x-jfrog-art-api", "circle-token",
	// Model providers, and vector stores that pass their keys on.
	"xi-api-key", "x-openai-api-key", "x-cohere-api-key", "x-huggingface-api-key", "x-goog-vertex-api-key",
	// Others, by name: Shopify, Figma, Brave, Postmark, Algolia, Parse, RapidAPI, Plaid, Salesforce, Trello.
	"x-shopify-access-token", "x-shopify-storefront-access-token", "x-figma-token", "x-subscription-token", "x-postmark-server-token",
	"x-postmark-account-token", "x-algolia-api-key", "x-parse-rest-api-key", "x-parse-master-key", "x-parse-session-token", "x-rapidapi-key",
	"plaid-client-id", "plaid-secret", "x-sfdc-session", "x-trello-token",
}

// headerSuffixes make slots of headers that are named like one, for the
// services that nobody has thought of.
var headerSuffixes = []string{"-api-key", "-apikey", "-api-token", "-access-token", "-auth-token", "-session-token", "-secret-key", "-client-secret"}

// parameterSlots are query parameters, in lower case: case counts nowhere, as
// it does not for some services, nor does which of "-", "." and "_" it is.
var parameterSlots = []string{
	// By custom: Google and Trello; everybody else.
	"key", "api_key", "apikey", "x-api-key", "api_token", "apitoken", "app_key", "appkey", "hapikey", "subscription-key",
	// RFC 6750, section 2.3, and OAuth 1; GitLab, Gitea, Trello.
	"access_token", "accesstoken", "oauth_token", "oauth_signature", "oauth_consumer_key", "id_token", "private_token", "job_token",
	"token", "auth", "auth_token", "authtoken", "authorization", "bearer", "jwt", "session_token", "user_token",
	// OAuth's client, and passwords.
	"client_secret", "client_assertion", "secret", "password", "passwd",
	// Signed URLs are credentials of whoever signed them. AWS, S3's older form, CloudFront; Google; Azure (the signature is enough).
	"x-amz-signature", "x-amz-credential", "x-amz-security-token", "x-amz-date", "x-amz-algorithm", "awsaccesskeyid", "signature", "key-pair-id",
	"x-goog-signature", "x-goog-credential", "googleaccessid", "sig", "skoid", "sktid",
	// Sentry, Firebase, Algolia.
	"sentry_key", "x-firebase-auth", "x-algolia-api-key",
}

// protocolSlots are prefixes of WebSocket subprotocols that hold a key:
// Kubernetes, OpenAI, Supabase.
var protocolSlots = []string{"base64url.bearer.", "openai-insecure-api-key.", "bearer.", "access_token.", "authorization.", "apikey."}

var (
	//go:embed slots.lua
	slotsScript string
	//go:embed echo.lua
	echoScript string
)

// proxyHeaders match the headers that no client may send, whatever its route says:
// ours and Envoy's own, and what is for a proxy, which this is.
const proxyHeaders = "x-(?:postern|envoy|forwarded)-.*|proxy-authorization"

// slotHeaders match header slots.
func slotHeaders() string {
	return strings.Join(headerSlots, "|") + "|.+(?:" + strings.Join(headerSuffixes, "|") + ")"
}

// slotFilters empty header slots, of requests and of all trailers. One expression
// for all of them: it is matched once for each header.
func (b *builder) slotFilters(more string) []*hcmv3.HttpFilter {
	ours := []*mutationv3.HeaderMutation{removePrefix("x-postern-")}
	slots := remove(slotHeaders())
	return []*hcmv3.HttpFilter{
		b.filter(filterSlots, &headermutationv3.HeaderMutation{Mutations: &headermutationv3.Mutations{
			RequestMutations: remove(more + proxyHeaders + "|" + slotHeaders()), ResponseMutations: ours,
			RequestTrailersMutations: slots, ResponseTrailersMutations: slots,
		}}),
		off(b.filter(filterScrub, &headermutationv3.HeaderMutation{Mutations: &headermutationv3.Mutations{
			RequestMutations: remove(proxyHeaders), ResponseMutations: ours,
		}})),
	}
}

// queryFilter runs slots.lua only for requests that have something for it to do,
// as a script costs more than all other filters together.
func (b *builder) queryFilter() *hcmv3.HttpFilter {
	query := &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
		SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
			Input: &xdscorev3.TypedExtensionConfig{
				Name: "envoy.matching.inputs.request_headers", TypedConfig: b.any(&matcherv3.HttpRequestHeaderMatchInput{HeaderName: ":path"}),
			},
			Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: &xdsmatcherv3.StringMatcher{
				MatchPattern: &xdsmatcherv3.StringMatcher_Contains{Contains: "?"},
			}},
		},
	}}
	return b.filter(filterQuery, &matchingv3.ExtensionWithMatcher{
		ExtensionConfig: &corev3.TypedExtensionConfig{Name: "envoy.filters.http.lua", TypedConfig: b.any(slotsLua(filterQuery))},
		XdsMatcher: &xdsmatcherv3.Matcher{MatcherType: &xdsmatcherv3.Matcher_MatcherList_{MatcherList: &xdsmatcherv3.Matcher_MatcherList{
			Matchers: []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher{{
				Predicate: &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_NotMatcher{NotMatcher: query}},
				OnMatch: &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{Action: &xdscorev3.TypedExtensionConfig{
					Name: "skip", TypedConfig: b.any(&actionv3.SkipFilter{}),
				}}},
			}},
		}}},
	})
}

type predicate = xdsmatcherv3.Matcher_MatcherList_Predicate

func slotsLua(name string) *luav3.Lua {
	list := func(names []string, format string) string {
		var s strings.Builder
		for _, n := range names {
			fmt.Fprintf(&s, format, n)
		}
		return "{" + s.String() + "}"
	}
	spelled := make([]string, len(parameterSlots))
	for i, n := range parameterSlots {
		spelled[i] = strings.ReplaceAll(n, "-", "_") // as decode has it
	}
	return script(name, fmt.Sprintf("local parameters = %s\nlocal protocols = %s\nlocal secret = %q\n",
		list(spelled, "[%q]=true,"), list(protocolSlots, "%q,"), secretHeader)+slotsScript)
}

// echoFilters take a credential out of a response: from the slots, and from
// whatever header its value is in. The order is that of requests; responses
// pass them the other way round.
func (b *builder) echoFilters() []*hcmv3.HttpFilter {
	return []*hcmv3.HttpFilter{
		off(b.filter(filterEcho, script(filterEcho, fmt.Sprintf("local injected = %q\n", injectedHeader)+echoScript))),
		off(b.filter(filterInjected, &headermutationv3.HeaderMutation{Mutations: &headermutationv3.Mutations{ResponseMutations: remove(slotHeaders())}})),
	}
}

func script(name, source string) *luav3.Lua {
	// Calls into Envoy are most of what a script does, and those are never
	// compiled: going back and forth costs more than it saves (docs/performance.md).
	source = "if jit then jit.off() end\n" + source
	return &luav3.Lua{
		DefaultSourceCode: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: source}},
		// The route was chosen by the path as it came, and stays.
		ClearRouteCache: wrapperspb.Bool(false),
		// One interpreter for all agents: from one request to the next, it keeps
		// nothing but how else a credential can be written, by the credential.
		SharedVmId: name,
	}
}

// remove removes the headers whose names a regular expression matches.
func remove(regex string) []*mutationv3.HeaderMutation {
	return []*mutationv3.HeaderMutation{removeOnMatch(&matcherv3.StringMatcher{
		MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: regex}},
	})}
}

func removePrefix(prefix string) *mutationv3.HeaderMutation {
	return removeOnMatch(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix}, IgnoreCase: true})
}

func removeOnMatch(m *matcherv3.StringMatcher) *mutationv3.HeaderMutation {
	return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_RemoveOnMatch_{
		RemoveOnMatch: &mutationv3.HeaderMutation_RemoveOnMatch{KeyMatcher: m},
	}}
}
