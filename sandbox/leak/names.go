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
		".mylogin.cnf", "pgpass.conf", ".htdigest", "id_ecdsa_sk", "id_ed25519_sk", "secring.gpg", ".s3cfg",
		".passwd-s3fs", "rclone.conf", ".rclone.conf", ".terraformrc", "terraform.rc", "credentials.tfrc.json",
		"credentials.json", "client_secret.json", "service-account.json", "service_account.json", "serviceaccount.json",
		".databrickscfg", ".vault_pass", ".vault-pass", ".vault_pass.txt",
		".ansible_vault_pass", ".msmtprc", ".esmtprc", ".fetchmailrc", ".ftpconfig", "sftp-config.json",
		"settings-security.xml", "local.settings.json", ".psql_history", ".mysql_history", ".bash_history",
		".zsh_history", ".python_history", ".node_repl_history", ".sh_history", ".password-store",
	}
	secretPaths = []string{
		".aws/credentials", ".docker/config.json", ".kube/config", ".config/gcloud", ".cargo/credentials",
		".git/credentials",
		".config/gh/hosts.yml", ".config/hub", ".config/doctl/config.yaml", ".config/containers/auth.json",
		".composer/auth.json", ".gem/credentials", ".m2/settings.xml", ".oci/config", ".snowsql/config",
		".fly/config.yml", ".pulumi/credentials.json", ".aws/sso/cache", ".aws/cli/cache",
		".cargo/credentials.toml", ".claude/.credentials.json", ".codex/auth.json", ".gemini/oauth_creds.json",
	}
	secretEndings = []string{
		"-service-account.json", ".key", ".p12", ".pfx", ".jks", ".keystore", ".kdbx", ".ppk", ".p8", ".pkcs12",
		".jceks", ".bks", ".keytab", ".ovpn", "kubeconfig", "kubeconfig.yaml", "kubeconfig.yml", ".tfstate",
		".tfstate.backup", ".tfvars", ".tfvars.json", ".kdb",
	}
	// starts begin the names of keys that a cloud's console downloads as JSON.
	starts = []string{"client_secret_", "service-account-", "service_account_", "firebase-adminsdk"}
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
	begins := func(start string) bool { return strings.HasPrefix(name, start) }
	return !folder && (slices.ContainsFunc(secretEndings, ends) ||
		strings.HasSuffix(name, ".json") && slices.ContainsFunc(starts, begins) ||
		strings.HasPrefix(name, ".env.") && !slices.ContainsFunc(exampleEndings, ends))
}
