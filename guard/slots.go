package guard

import (
	"slices"
	"strings"
)

// A slot is where some service accepts a credential. All slots are emptied on every inspected route
// before the policy's credential is put into one. With a key of its own, an agent could use an
// allowed host as a way out for data.

// headerSlots are headers, in lower case, grouped by the services that take them.
var headerSlots = []string{
	// RFC 9110, RFC 6265, RFC 2965: nearly all services.
	"authorization", "proxy-authorization", "cookie", "cookie2",
	// RFC 9449, RFC 9421: proofs of possession of the agent's own key.
	"dpop", "signature", "signature-input",
	// By custom: Anthropic, AWS API Gateway and many more; Azure OpenAI, Pinecone, New Relic;
	// Supabase, Kong.
	"x-api-key", "api-key", "apikey", "x-apikey",
	// OpenStack, Cloudflare's older API, Spring; what proxies and frameworks pass on.
	"x-auth-token", "x-auth-key", "x-auth-email", "x-auth-user-service-key", "x-subject-token", "x-access-token", "x-session-token", "x-user-token",
	"x-token", "x-id-token", "x-authorization", "x-original-authorization", "x-wsse",
	// Google: APIs, Cloud Run next to an Authorization of one's own, IAP.
	"x-goog-api-key", "x-goog-iam-authorization-token", "x-goog-iap-jwt-assertion", "x-serverless-authorization",
	// AWS: temporary keys, the date of a signature, S3 Express, Selling Partner.
	"x-amz-security-token", "x-amz-date", "x-amz-s3session-token", "x-amz-access-token",
	// Azure: API Management, Functions, Event Grid, App Service, a second identity, the source of a
	// copy.
	"ocp-apim-subscription-key", "x-functions-key", "aeg-sas-key", "aeg-sas-token", "x-zumo-auth", "x-zumo-master", "x-ms-authorization-auxiliary",
	"x-ms-copy-source-authorization", "x-ms-token-aad-access-token", "x-ms-token-aad-id-token",
	// GitLab: users, jobs, deployments.
	"private-token", "job-token", "deploy-token",
	// HashiCorp.
	"x-vault-token", "x-consul-token", "x-nomad-token",
	// Cloudflare Access.
	"cf-access-token", "cf-access-client-id", "cf-access-client-secret", "cf-access-jwt-assertion",
	// Telemetry: an account of the agent's own would be a way out.
	"dd-api-key", "dd-application-key", "x-insert-key", "x-query-key", "x-license-key", "x-honeycomb-team", "x-sentry-auth", "x-rollbar-access-token",
	"bugsnag-api-key", "lightstep-access-token", "x-sf-token",
	// Package registries and builds.
	"npm-otp", "x-nuget-apikey", "x-jfrog-art-api", "circle-token",
	// Model providers, and vector stores that pass their keys on.
	"xi-api-key", "x-openai-api-key", "x-cohere-api-key", "x-huggingface-api-key", "x-goog-vertex-api-key",
	// Others, by name: Shopify, Figma, Brave, Postmark, Algolia, Parse, RapidAPI, Plaid,
	// Salesforce, Trello.
	"x-shopify-access-token", "x-shopify-storefront-access-token", "x-figma-token", "x-subscription-token", "x-postmark-server-token",
	"x-postmark-account-token", "x-algolia-api-key", "x-parse-rest-api-key", "x-parse-master-key", "x-parse-session-token", "x-rapidapi-key",
	"plaid-client-id", "plaid-secret", "x-sfdc-session", "x-trello-token",
	// Gateways for models, whose names say nothing: Portkey's configuration has keys in it,
	// Bifrost's virtual key.
	"x-portkey-config", "x-bf-vk",
}

// harmless are headers that are named like slots and are not slots, by their whole name.
var harmless = table([]string{
	// RFC 6455, RFC 4918, the idempotency draft and its spellings.
	"sec-websocket-key", "lock-token", "idempotency-key", "x-idempotency-key", "idempotency-token", "x-idempotency-token",
	// Against cross-site request forgery: useless without a cookie, which is removed.
	"x-csrf-token", "x-csrftoken", "csrf-token", "x-xsrf-token",
	// npm's client; Azure Cosmos and CloudEvents; CDNs.
	"npm-auth-type", "x-ms-documentdb-partitionkey", "ce-partitionkey", "partition-key", "x-partition-key", "surrogate-key", "cache-key", "x-cache-key",
	// Places in lists.
	"x-continuation-token", "x-ms-continuationtoken", "x-next-token", "x-page-token", "x-sync-token", "sync-token",
})

// harmlessParts are parts of names of headers that an agent may set: keys for encrypting objects at
// rest, and metadata of objects.
var harmlessParts = []string{"-encryption-", "-meta-"}

// headerSuffixes make a header a slot if its name ends with one of them. They are for services that
// the lists do not have.
var headerSuffixes = []string{"-api-key", "-apikey", "-api-token", "-access-token", "-auth-token", "-session-token", "-secret-key", "-client-secret"}

// parameterSlots are query parameters, in lower case. Letter case does not count, because it does
// not count for some services; "-", "." and "_" are the same, too.
var parameterSlots = []string{
	// By custom: Google and Trello; everybody else.
	"key", "api_key", "apikey", "x-api-key", "api_token", "apitoken", "app_key", "appkey", "hapikey", "subscription-key",
	// RFC 6750, section 2.3, and OAuth 1; GitLab, Gitea, Trello.
	"access_token", "accesstoken", "oauth_token", "oauth_signature", "oauth_consumer_key", "id_token", "private_token", "job_token",
	"token", "auth", "auth_token", "authtoken", "authorization", "bearer", "jwt", "session_token", "user_token",
	// OAuth's client, and passwords.
	"client_secret", "client_assertion", "secret", "password", "passwd",
	// Signed URLs are credentials of whoever signed them. AWS, S3's older form, CloudFront; Google;
	// Azure (the signature is enough).
	"x-amz-signature", "x-amz-credential", "x-amz-security-token", "x-amz-date", "x-amz-algorithm", "awsaccesskeyid", "signature", "key-pair-id",
	"x-goog-signature", "x-goog-credential", "googleaccessid", "sig", "skoid", "sktid",
	// Sentry, Firebase, Algolia.
	"sentry_key", "x-firebase-auth", "x-algolia-api-key",
	// OAuth's other tokens, and what else services call a key.
	"refresh_token", "security_token", "jwt_assertion", "assertion", "subscription_key", "virtual_key", "license_key", "auth_key", "authkey", "access_key", "accesskey", "secret_key", "session_key", "sas_token",
	"private_key", "app_secret", "credential", "credentials",
	// OpenWeather, whose name says nothing.
	"appid",
}

// parameterSuffixes make a parameter a slot if its name ends with one of them. Shorter suffixes
// would match page_token, sort_key and the like.
var parameterSuffixes = []string{"_api_key", "_apikey", "_api_token", "_access_token", "_auth_token", "_id_token", "_session_token", "_secret_key", "_access_key", "_client_secret", "_password", "_jwt"}

// harmlessParameters are parameters that are named like slots and are not slots: places in lists,
// and what makes a request safe to repeat.
var harmlessParameters = table(strings.Fields(`page_token pagetoken next_token nexttoken next_page_token nextpagetoken
	continuation_token continuationtoken sync_token synctoken next_sync_token nextsynctoken starting_token
	startingtoken resume_token resumetoken cursor_token scroll_token skip_token skiptoken $skiptoken delta_token
	deltatoken $deltatoken change_token client_token clienttoken client_request_token clientrequesttoken
	idempotency_token csrf_token csrftoken xsrf_token authenticity_token`))

// parameterEnds are the last words of a parameter's name that make it a slot. "key" is not among
// them: it does so only after one of keyWords.
var (
	parameterEnds = []string{"token", "secret", "password", "passwd", "passphrase", "jwt", "credential", "credentials", "apikey", "authkey"}
	keyWords      = table(strings.Fields("api app application user auth access account secret private license service client master admin subscription bot project team"))
)

// isParameterSlot reports whether a parameter, as [target.Parameter] returns it, is a slot, or is
// named like one and not known to be harmless.
func isParameterSlot(name string) bool {
	start := strings.LastIndexByte(name, '_') + 1
	before, end := strings.TrimSuffix(name[:start], "_"), name[start:]
	if end == "key" && keyWords[before[strings.LastIndexByte(before, '_')+1:]] {
		return true
	}
	if slices.ContainsFunc(parameterEnds, func(word string) bool { return strings.HasSuffix(end, word) }) && !harmlessParameters[name] {
		return true
	}
	return parameters[name] || slices.ContainsFunc(parameterSuffixes, func(suffix string) bool { return strings.HasSuffix(name, suffix) })
}

// protocolSlots are prefixes of WebSocket subprotocols that hold a key, besides those
// named like a header's slot: Kubernetes.
var protocolSlots = []string{"base64url.bearer."}

// proxyPrefixes are prefixes of headers that no client may send, whatever its route says: ours,
// Envoy's own, and headers between proxies.
var proxyPrefixes = []string{"x-postern-", "x-envoy-", "x-forwarded-"}

var (
	headers    = table(headerSlots)
	parameters = table(spelled(parameterSlots))
)

func table(names []string) map[string]bool {
	s := make(map[string]bool, len(names))
	for _, n := range names {
		s[n] = true
	}
	return s
}

func spelled(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = strings.ReplaceAll(n, "-", "_") // as parameterName has it
	}
	return out
}

// suffixEnds has the last letters of suffixes, because most names end in none of them.
var suffixEnds = func() (ends [256]bool) {
	for _, s := range headerSuffixes {
		ends[s[len(s)-1]] = true
	}
	return ends
}()

// sizes has a bit for each length of a header slot, by its first letter, so that few other names
// are looked up.
var sizes = func() (sizes [256]uint64) {
	for _, s := range headerSlots {
		sizes[s[0]] |= 1 << len(s) // none is longer than 63 bytes
	}
	return sizes
}()

// soundsLikeSlot reports whether a request's header, in lower case, is named like a slot and not
// known to be harmless. No list has all slots.
func soundsLikeSlot(name string) bool {
	word := 0
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '-' && name[i] != '_' && name[i] != '.' {
			continue
		}
		if endsLikeSlot(name[word:i]) {
			return !harmless[name] && !slices.ContainsFunc(harmlessParts, func(part string) bool { return strings.Contains(name, part) })
		}
		word = i + 1
	}
	return false
}

// endsLikeSlot reports whether a word of a header's name ends like a slot's name.
func endsLikeSlot(word string) bool {
	if word == "" {
		return false
	}
	switch word[len(word)-1] {
	case 'n':
		return strings.HasSuffix(word, "token") || strings.HasSuffix(word, "authorization") || strings.HasSuffix(word, "assertion")
	case 't':
		return strings.HasSuffix(word, "jwt") || strings.HasSuffix(word, "secret")
	case 'y':
		return strings.HasSuffix(word, "key")
	case 'h':
		return strings.HasSuffix(word, "auth")
	case 'd':
		return strings.HasSuffix(word, "password") || strings.HasSuffix(word, "passwd")
	case 'l':
		return strings.HasSuffix(word, "credential")
	case 's':
		return strings.HasSuffix(word, "credentials")
	case 'e':
		return strings.HasSuffix(word, "signature") || strings.HasSuffix(word, "passphrase")
	case 'r':
		return word == "bearer"
	}
	return false
}

// isSlot reports whether a header, in lower case, is a slot.
func isSlot(name string) bool {
	switch {
	case name == "":
		return false
	case sizes[name[0]]>>min(len(name), 63)&1 == 1 && headers[name]:
		return true
	case !suffixEnds[name[len(name)-1]]:
		return false
	}
	for _, suffix := range headerSuffixes {
		if strings.HasSuffix(name, suffix) && len(name) > len(suffix) {
			return true
		}
	}
	return false
}

// isProxys reports whether no client may send the header, which is in lower case.
func isProxys(name string) bool {
	switch name {
	case
		// RFC 9110, RFC 7239.
		"proxy-authorization", "forwarded",
		// Headers in which one proxy or another tells the client's address.
		"x-real-ip", "x-client-ip", "x-cluster-client-ip", "x-original-forwarded-for", "true-client-ip", "cf-connecting-ip", "fastly-client-ip":
		return true
	}
	if !strings.HasPrefix(name, "x-") {
		return false
	}
	for _, prefix := range proxyPrefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
