package ledger

import "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

// Kind is a resource type: its name for people and its type URL.
type Kind struct{ Name, URL string }

// Kinds are the served resource types, in the order of publication: a resource comes before the
// resources that refer to it.
var Kinds = []Kind{
	{"secrets", resource.SecretType},
	{"clusters", resource.ClusterType},
	{"scopes", resource.ScopedRouteType},
	{"listeners", resource.ListenerType},
}

// KindOther is the name of every type that is not served.
const KindOther = "other"

// KindName returns the name of the type at url.
func KindName(url string) string {
	for _, k := range Kinds {
		if k.URL == url {
			return k.Name
		}
	}
	return KindOther
}
