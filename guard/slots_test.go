package guard

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLists: what is a slot, written out a second time. Whoever takes a name off a list
// sees here that an agent's own key then reaches whoever accepts it by that name.
func TestLists(t *testing.T) {
	t.Parallel()
	require.ElementsMatch(t, strings.Fields(`authorization proxy-authorization cookie cookie2 dpop signature signature-input x-api-key api-key apikey
		x-apikey x-auth-token x-auth-key x-auth-email x-auth-user-service-key x-subject-token x-access-token
		x-session-token x-user-token x-token x-id-token x-authorization x-original-authorization x-wsse
		x-goog-api-key x-goog-iam-authorization-token x-goog-iap-jwt-assertion x-serverless-authorization
		x-amz-security-token x-amz-date x-amz-s3session-token x-amz-access-token ocp-apim-subscription-key
		x-functions-key aeg-sas-key aeg-sas-token x-zumo-auth x-zumo-master x-ms-authorization-auxiliary
		x-ms-copy-source-authorization x-ms-token-aad-access-token x-ms-token-aad-id-token private-token job-token
		deploy-token x-vault-token x-consul-token x-nomad-token cf-access-token cf-access-client-id
		cf-access-client-secret cf-access-jwt-assertion dd-api-key dd-application-key x-insert-key x-query-key
		x-license-key x-honeycomb-team x-sentry-auth x-rollbar-access-token bugsnag-api-key lightstep-access-token
		x-sf-token npm-otp x-nuget-apikey x-jfrog-art-api circle-token xi-api-key x-openai-api-key x-cohere-api-key
		x-huggingface-api-key x-goog-vertex-api-key x-shopify-access-token x-shopify-storefront-access-token
		x-figma-token x-subscription-token x-postmark-server-token x-postmark-account-token x-algolia-api-key
		x-parse-rest-api-key x-parse-master-key x-parse-session-token x-rapidapi-key plaid-client-id plaid-secret
		x-sfdc-session x-trello-token x-portkey-config x-bf-vk`), headerSlots)
	require.ElementsMatch(t, strings.Fields(`key api_key apikey x-api-key api_token apitoken app_key appkey hapikey subscription-key access_token
		accesstoken oauth_token oauth_signature oauth_consumer_key id_token private_token job_token token auth
		auth_token authtoken authorization bearer jwt session_token user_token client_secret client_assertion secret
		password passwd x-amz-signature x-amz-credential x-amz-security-token x-amz-date x-amz-algorithm
		awsaccesskeyid signature key-pair-id x-goog-signature x-goog-credential googleaccessid sig skoid sktid
		sentry_key x-firebase-auth x-algolia-api-key refresh_token security_token jwt_assertion assertion
		subscription_key virtual_key license_key auth_key authkey access_key accesskey secret_key session_key
		sas_token private_key app_secret credential credentials appid`), parameterSlots)
	require.ElementsMatch(t, []string{"-api-key", "-apikey", "-api-token", "-access-token", "-auth-token", "-session-token", "-secret-key", "-client-secret"}, headerSuffixes)
	require.ElementsMatch(t, []string{"_api_key", "_apikey", "_api_token", "_access_token", "_auth_token", "_id_token", "_session_token", "_secret_key", "_access_key", "_client_secret", "_password", "_jwt"}, parameterSuffixes)
	require.Equal(t, []string{"base64url.bearer."}, protocolSlots)
	require.ElementsMatch(t, []string{"x-postern-", "x-envoy-", "x-forwarded-"}, proxyPrefixes)
	for _, name := range headerSlots {
		require.Equal(t, []Change{{name, ""}}, requested(t, []Header{{name, "own"}}, Rule{}), name)
		require.Equal(t, []Change{{name, ""}}, Response(nil, []Header{{name, "x"}}, Rule{Header: "authorization"}, nil), name)
	}
	for _, name := range parameterSlots {
		require.Equal(t, "/x?a", stripQuery("/x?a&"+strings.ToUpper(name)+"=own", ""), name)
	}
}

// TestHarmless: what is left alone although it sounds like a key, and that no other name is.
func TestHarmless(t *testing.T) {
	t.Parallel()
	list := strings.Fields(`sec-websocket-key lock-token idempotency-key x-idempotency-key idempotency-token x-idempotency-token
		x-csrf-token x-csrftoken csrf-token x-xsrf-token npm-auth-type x-ms-documentdb-partitionkey ce-partitionkey
		partition-key x-partition-key surrogate-key cache-key x-cache-key x-continuation-token
		x-ms-continuationtoken x-next-token x-page-token x-sync-token sync-token`)
	for _, name := range list {
		require.Empty(t, requested(t, []Header{{name, "1"}}, Rule{}), name)
	}
	require.Len(t, harmless, len(list))
	require.Equal(t, []string{"-encryption-", "-meta-"}, harmlessParts)
}

// TestProxysHeaders: no client sends what only a proxy may say, whosever keys are used.
func TestProxysHeaders(t *testing.T) {
	t.Parallel()
	for _, name := range strings.Fields(`proxy-authorization forwarded x-real-ip x-client-ip x-cluster-client-ip x-original-forwarded-for
		true-client-ip cf-connecting-ip fastly-client-ip x-postern-scope x-postern-anything x-envoy-anything x-forwarded-for x-forwarded-proto`) {
		require.Equal(t, []Change{{name, ""}}, requested(t, []Header{{name, "1"}}, Rule{Own: true}), name)
	}
}
