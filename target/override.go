package target

// Overrides reports whether a header, named in lower case, can change the method, the URL, the
// operation or the source of the request for some server.
func Overrides(name string) bool {
	switch name {
	case
		// A method: nearly every framework takes one of these.
		"x-http-method-override", "x-http-method", "x-method-override",
		// A URL: Symfony and Laminas took these (CVE-2018-14773); IIS's rewriting; nginx ingress;
		// Azure App Service.
		"x-original-url", "x-rewrite-url", "x-original-uri", "x-waws-unencoded-url", "x-override-url", "x-original-path",
		// A host.
		"x-host", "x-original-host", "x-http-host-override",
		// An upstream, to gateways for models: Helicone, Portkey.
		"helicone-target-url", "helicone-openai-api-base", "x-portkey-custom-host",
		// Another object, in object stores and WebDAV (RFC 4918).
		"x-amz-copy-source", "x-amz-rename-source", "x-ms-copy-source", "x-ms-rename-source", "x-goog-copy-source", "x-oss-copy-source",
		"x-cos-copy-source", "x-obs-copy-source", "destination",
		// An operation: AWS services that speak JSON have one path for all.
		"x-amz-target":
		return true
	}
	return false
}

// overridingParameters are query parameters, as [Parameter] returns them, that name a
// method, a path, an operation or a source: Symfony, Laravel and Rails; ASP.NET; Google;
// WordPress; S3, which takes headers of a signed URL from its query.
var overridingParameters = []string{"_method", "x_http_method_override", "x_http_method", "$httpmethod", "rest_route", "x_amz_target", "x_amz_copy_source"}
