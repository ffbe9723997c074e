package leak

import (
	"path"
	"slices"
	"strings"
)

// The names of files and folders that hold secrets, in lower case.
var (
	secretNames = []string{
		".env", ".git-credentials", "application_default_credentials.json", ".azure", ".pypirc", ".netrc", "_netrc",
		".vault-token", ".pgpass", ".htpasswd", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", ".ssh", ".gnupg",
		".dockercfg", ".my.cnf", ".boto", ".dev.vars",
	}
	secretPaths = []string{
		".aws/credentials", ".docker/config.json", ".kube/config", ".config/gcloud", ".cargo/credentials",
		".git/credentials",
		".cargo/credentials.toml", ".claude/.credentials.json", ".codex/auth.json", ".gemini/oauth_creds.json",
	}
	secretEndings = []string{"-service-account.json", ".key", ".p12", ".pfx", ".jks", ".keystore", ".kdbx", ".ppk"}
	// patterns of .env files are harmless.
	exampleEndings = []string{".example", ".sample", ".template", ".dist"}
)

// Named reports whether a file, or a folder, at the path has a name that secrets have. Case does
// not count.
func Named(at string, folder bool) bool {
	at = strings.ToLower(at)
	name := path.Base(at)
	ends := func(ending string) bool { return strings.HasSuffix(name, ending) }
	if slices.Contains(secretNames, name) ||
		slices.ContainsFunc(secretPaths, func(p string) bool { return strings.HasSuffix("/"+at, "/"+p) }) {
		return true
	}
	return !folder && (slices.ContainsFunc(secretEndings, ends) ||
		strings.HasPrefix(name, ".env.") && !slices.ContainsFunc(exampleEndings, ends))
}
