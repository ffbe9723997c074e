package plan

import (
	"maps"
	"slices"
)

// Kind says how a credential authenticates. Only the Kind constants are valid. A new kind is a
// constant and a row of kinds here, its keys in package stacks and, if it mints, a function in
// package xds/secret.
type Kind string

// The kinds of credential. If a kind has tokens, the control plane mints them, renews them before
// they expire, and sends them to the nodes.
const (
	// KindHeader sets Header to Prefix and the secret.
	KindHeader Kind = "header"
	// KindBearer sets authorization to "Bearer " and the secret.
	KindBearer Kind = "bearer"
	// KindBasic sets authorization to Basic of Username and the secret (RFC 7617).
	KindBasic Kind = "basic"
	// KindQuery sets the query parameter Parameter to the secret.
	KindQuery Kind = "query"
	// KindOAuth2ClientCredentials mints by RFC 6749, section 4.4; the secret is the client's.
	KindOAuth2ClientCredentials Kind = "oauth2-client-credentials"
	// KindOAuth2RefreshToken mints by RFC 6749, section 6; the secret is JSON
	// {"refresh_token", "client_secret"}.
	KindOAuth2RefreshToken Kind = "oauth2-refresh-token"
	// KindGitHubApp mints an installation token; the secret is the app's PEM key. With a
	// Username the token is sent as git sends passwords.
	KindGitHubApp Kind = "github-app"
	// KindAWSSigV4 signs each request at the node; the secret is JSON
	// {"access_key_id", "secret_access_key", "session_token"}.
	KindAWSSigV4 Kind = "aws-sigv4"
	// KindGCPAccessToken and KindGCPIDToken mint from a service account's JSON key.
	KindGCPAccessToken Kind = "gcp-access-token"
	KindGCPIDToken     Kind = "gcp-id-token"
)

// Slot is the part of a request that a credential sets. The zero Slot sets nothing.
type Slot struct {
	// Header is the name of a request header, in lower case, or "".
	Header string
	// Prefix precedes the secret in Header, such as "Bearer ".
	Prefix string
	// Basic says that the credential's Username, a colon and the secret follow Prefix, together
	// in base64 (RFC 7617), instead of the secret alone.
	Basic bool
	// Parameter is the name of a query parameter, or "".
	Parameter string
	// Signs says that Header gets a signature over each request instead of the secret.
	Signs bool
}

type kind struct {
	mints bool
	slot  func(*Credential) Slot
}

var kinds = map[Kind]kind{
	KindHeader:                  {slot: func(c *Credential) Slot { return Slot{Header: c.Header, Prefix: c.Prefix} }},
	KindBearer:                  {slot: bearer},
	KindBasic:                   {slot: basic},
	KindQuery:                   {slot: func(c *Credential) Slot { return Slot{Parameter: c.Parameter} }},
	KindOAuth2ClientCredentials: {slot: bearer, mints: true},
	KindOAuth2RefreshToken:      {slot: bearer, mints: true},
	KindGitHubApp: {mints: true, slot: func(c *Credential) Slot {
		if c.Username != "" {
			return basic(c)
		}
		return bearer(c)
	}},
	KindAWSSigV4:       {slot: func(*Credential) Slot { return Slot{Header: "authorization", Signs: true} }},
	KindGCPAccessToken: {slot: bearer, mints: true},
	KindGCPIDToken:     {slot: bearer, mints: true},
}

func bearer(*Credential) Slot { return Slot{Header: "authorization", Prefix: "Bearer "} }

func basic(*Credential) Slot { return Slot{Header: "authorization", Prefix: "Basic ", Basic: true} }

// Kinds returns all kinds, sorted.
func Kinds() []Kind { return slices.Sorted(maps.Keys(kinds)) }

// Mints reports whether the control plane mints what is sent from the secret.
func (k Kind) Mints() bool { return kinds[k].mints }

// Slot returns what the credential sets: the zero Slot if its Kind is not valid.
func (c *Credential) Slot() Slot {
	if k, ok := kinds[c.Kind]; ok {
		return k.slot(c)
	}
	return Slot{}
}
