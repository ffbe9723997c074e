package target

// Overrides reports whether a header, named in lower case, can change the method, the URL, the
// operation, the source or the user of the request for some server.
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
	return namesUser(name)
}

// namesUser reports whether a header is named like one that says in whose name a request is made,
// if the credential may act for others: Kubernetes' Impersonate-User, GitLab's Sudo, Redmine's
// X-Redmine-Switch-User, Box's As-User, Dropbox' Select-User, Elasticsearch's runas-user; and like
// one in which a proxy vouches for a user: Remote-User, X-WebAuth-User, X-Auth-Request-Email.
func namesUser(name string) bool {
	before, word := "", 0
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '-' && name[i] != '_' && name[i] != '.' {
			continue
		}
		this := name[word:i]
		switch word = i + 1; this {
		case "impersonate", "impersonated", "impersonation", "sudo", "runas", "actas", "switchuser", "remoteuser", "onbehalfof":
			return true
		case "user", "users", "username", "userid", "uid", "email", "login", "group", "groups", "admin", "extra", "name":
			switch before {
			case "remote", "webauth", "authenticated", "as", "switch", "select", "effective", "proxy", "assume":
				return true
			}
		case "as":
			if before == "act" || before == "acting" || before == "run" || before == "login" {
				return true
			}
		case "behalf":
			if before == "on" {
				return true
			}
		case "principal":
			if before == "client" {
				return true
			}
		case "request":
			if before == "auth" {
				return true
			}
		}
		before = this
	}
	return false
}

// overridingParameters are query parameters, as [Parameter] returns them, that name a
// method, a path, an operation or a source: Symfony, Laravel and Rails; ASP.NET; Google;
// WordPress; S3, which takes headers of a signed URL from its query. The second line names a user:
// GitLab; Hadoop; others.
var overridingParameters = []string{
	"_method", "x_http_method_override", "x_http_method", "$httpmethod", "rest_route", "x_amz_target", "x_amz_copy_source",
	"sudo", "doas", "impersonate", "impersonate_user", "act_as", "run_as", "as_user", "on_behalf_of", "switch_user",
}

// overridingWords are those of overridingParameters that have only letters.
var overridingWords = []string{"sudo", "doas", "impersonate"}
