package attack

import (
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
)

// ambiguousPaths are below /v1/ as Envoy reads them, and elsewhere as some server does.
var ambiguousPaths = []string{
	"/v1/%252e%252e/secret", "/v1/..%252fsecret", "/v1/%25252e%25252e/secret", "/v1/%c0%ae%c0%ae/secret", "/v1/..%c0%afsecret", "/v1/..%f8%80%80%80%afsecret", "/v1/..%fc%80%80%80%80%afsecret",
	"/v1/..%ef%bc%8fsecret", "/v1/%ef%bc%8e%ef%bc%8e/secret", "/v1/%e2%80%a5/secret", "/v1/..%e2%88%95secret", "/v1/..%e2%80%8b/secret", "/v1/.%e2%80%8d./secret", "/v1/..%c2%a0/secret",
	"/v1/..%20/secret", "/v1/..%09/secret", "/v1/.../secret", "/v1/x%0d%0ay", "/v1/x%1f", "/v1/x%7f", "/v1/x%3f", "/v1/x%23", "/v1/%ff..%ff/secret",
	"/v1/..::$INDEX_ALLOCATION/secret", "/v1/::$DATA", "/v1/(S(x))secret", "/v1/%28a%28x%29%29/secret",
}

// readings are requests that say one thing to Envoy and another to some server
// (tests/decoders has the servers).
var readings = []Case{
	{ID: "E3", What: "a path that servers read differently is not what a wildcard allows (W14)", Ways: []Way{Explicit, Captured, Gateway, Balancer}, Run: func(s *seat) {
		for _, path := range ambiguousPaths {
			s.mustDeny(s.ask("GET", path), path)
			s.deny(plan.ReasonAmbiguous)
		}
		for _, path := range []string{"/v1/caf%C3%A9", "/v1/a%20b/c@d:e~f+g", "/v1/Items('1')/x(2)", "/v1/!cloud.google.com/x", "/v1/models/m:generate"} {
			require.Equal(s, 200, s.ask("GET", path).Status, "%s", path)
			s.allow("api")
		}
	}},
	{ID: "E3", What: "HTTP/2: a path that servers read differently is not what a wildcard allows (W14)", Ways: []Way{Explicit, Captured}, Run: func(s *seat) {
		for _, path := range ambiguousPaths {
			require.Equal(s, "403", s.http2("GET", path), "%s", path)
			s.deny(plan.ReasonAmbiguous)
		}
	}},
	{ID: "E3", What: "a repository's wildcard takes no other owner's (W14)", Ways: []Way{Explicit}, Rules: func(s string) []plan.Rule {
		r := rulesOf(s)
		r[0].Paths, r[0].Query = []string{"/acme/*/info/refs"}, []plan.Condition{{Name: "service", Value: "git-upload-pack"}}
		return r
	}, Run: func(s *seat) {
		for _, repository := range []string{"..%252fother", "..%252f..%252fother", "%252e%252e", "..%c0%afother", "..%ef%bc%8fother", "x%3f", "(S(x))"} {
			s.mustDeny(s.ask("GET", "/acme/"+repository+"/info/refs?service=git-upload-pack"), repository)
			s.deny(plan.ReasonAmbiguous)
		}
		require.Equal(s, 200, s.ask("GET", "/acme/app.git/info/refs?service=git-upload-pack").Status)
		s.allow("api")
	}},
	{ID: "E3", What: "a denied path in what only some servers decode (W17)", Ways: []Way{Explicit, Captured}, Rules: func(s string) []plan.Rule {
		admin := denial(s, "admin", nil, nil)
		admin.Paths = []string{"/administration/**"}
		return append(everything(s), admin)
	}, Run: func(s *seat) {
		for _, path := range []string{
			"/%f8%80%80%80%afadministration", "/%fc%80%80%80%80%afadministration", "/administration::$INDEX_ALLOCATION/x", "/administration::$DATA", "/administration:$I30:$INDEX_ALLOCATION/x",
			"/(S(x))/administration", "/admini/(S(x))stration", "/%28F%28x%29%29/administration", "/administration%c2%a0/x", "/admin%e2%80%8bistration", "/administration%e3%80%80", "/admin%adistration",
			"/%ef%bd%81dministration", "/x/..%ef%bc%8fadministration", "/ADMINI~1/x", "/admini%7e1",
		} {
			s.mustDeny(s.ask("GET", path), path)
			s.denyBy(plan.ReasonDenied, "admin")
		}
		for _, path := range []string{"/v1/models/m:generate", "/caf%C3%A9", "/%E6%97%A5", "/x~1", "/(a)/b", "/x:$y"} {
			require.Equal(s, 200, s.ask("GET", path).Status, "%s", path)
			s.allow("api")
		}
	}},
	{ID: "E4", What: "a header or parameter that names another method, URL, operation or source (W18)", Ways: []Way{Explicit, Captured, Gateway}, Run: func(s *seat) {
		for _, h := range []string{
			"X-HTTP-Method-Override: DELETE", "X-Method-Override: DELETE", "X-HTTP-Method: DELETE", "X-Original-URL: /secret", "X-Rewrite-URL: /secret", "X-Original-URI: /secret", "X-Host: evil.test",
			"X-Amz-Copy-Source: /other/key", "X-Amz-Target: DynamoDB_20120810.DeleteTable", "X-Ms-Copy-Source: https://evil.test/x", "Destination: /secret",
		} {
			s.mustDeny(s.ask("POST", "/v1/x", h, "Content-Length: 0"), h)
			s.deny(plan.ReasonAmbiguous)
		}
		for _, q := range []string{"_method=DELETE", "a=1&%5fmethod=DELETE", "X-HTTP-Method-Override=DELETE", "$httpMethod=DELETE", "rest_route=/secret"} {
			s.mustDeny(s.ask("POST", "/v1/x?"+q, "Content-Length: 0"), q)
			s.deny(plan.ReasonAmbiguous)
		}
		s.mustDeny(s.ask("DELETE", "/v1/x", "X-HTTP-Method-Override: GET"), "DELETE")
		s.deny(plan.ReasonMethod)
	}},
	{ID: "E4", What: "HTTP/2: TRACE and TRACK where every method is allowed", Ways: []Way{Explicit, Captured}, Rules: everything, Run: func(s *seat) {
		for _, method := range []string{"TRACE", "TRACK"} {
			require.Equal(s, "403", s.http2(method, "/v1/x"), method)
			s.deny(plan.ReasonMethod)
		}
	}},
	{ID: "E4", What: "the operation of an AWS service passes where a rule names it, and no other (W18)", Ways: []Way{Explicit}, Rules: func(s string) []plan.Rule {
		r := rulesOf(s)
		r[0].Headers = []plan.Condition{{Name: "x-amz-target", Value: "DynamoDB_20120810.GetItem"}}
		return r
	}, Run: func(s *seat) {
		require.Equal(s, 200, s.ask("POST", "/v1/x", "X-Amz-Target: DynamoDB_20120810.GetItem", "Content-Length: 0").Status)
		s.allow("api")
		require.Equal(s, "DynamoDB_20120810.GetItem", s.arrivals()[0].Header.Get("X-Amz-Target"))
		s.mustDeny(s.ask("POST", "/v1/x", "X-Amz-Target: DynamoDB_20120810.DeleteTable", "Content-Length: 0"), "another")
		s.deny(plan.ReasonCondition)
		s.mustDeny(s.ask("POST", "/v1/x", "X-Amz-Target: DynamoDB_20120810.GetItem", "X-Amz-Target: DynamoDB_20120810.DeleteTable", "Content-Length: 0"), "both")
		s.deny(plan.ReasonCondition)
	}},
	{ID: "E5", What: "a condition on a parameter is not met by what only some servers read as it (W14)", Ways: []Way{Explicit, Captured, Gateway}, Rules: func(s string) []plan.Rule {
		r := rulesOf(s)
		r[0].Query = []plan.Condition{{Name: "format", Value: "json"}}
		return r
	}, Run: func(s *seat) {
		for _, query := range []string{
			"format=json&;format=xml", "format=json&format[]=xml", "format=json&[format]=xml", "format=json&+format=xml", "format=json&format+=xml", "format=json&Format=xml", "format=json&for%256dat=xml",
			"format=json&format%5b%5d=xml", "format.=xml&format=json", strings.Repeat("a&", 100) + "format=json",
		} {
			s.mustDeny(s.ask("GET", "/v1/x?"+query), query)
			s.deny(plan.ReasonAmbiguous)
		}
		s.mustDeny(s.ask("GET", "/v1/x%3fformat=xml?format=json"), "a query in the path")
		s.deny(plan.ReasonAmbiguous)
		for _, query := range []string{"format=json;format=xml", "for%256dat=json", "f%6frmat=json", "FORMAT=json", "format[]=json", "format=js%6fn"} {
			s.mustDeny(s.ask("GET", "/v1/x?"+query), query)
			s.deny(plan.ReasonCondition)
		}
		require.Equal(s, 200, s.ask("GET", "/v1/x?a=1&format=json&b=xml").Status)
		s.allow("api")
	}},
}
