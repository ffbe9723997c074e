package workspace

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEverySecret: each name that a secret usually has, in any folder and in any case.
func TestEverySecret(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	content := map[string]string{
		"a.pem": "x\n-----BEGIN PRIVATE KEY-----", "a/.npmrc": "//r/:_auth=x", "b/.npmrc": "//r/:_password=x",
		".yarnrc.yml": "npmAuthToken: x",
	}
	for _, name := range strings.Fields(`.env .git-credentials application_default_credentials.json .azure .pypirc
		.netrc _netrc .vault-token .pgpass .htpasswd id_rsa id_dsa id_ecdsa id_ed25519 .ssh .gnupg
		.aws/credentials .docker/config.json .kube/config .config/gcloud .cargo/credentials.toml
		.cargo/credentials .claude/.credentials.json .codex/auth.json .gemini/oauth_creds.json .dockercfg .my.cnf .boto
		.dev.vars .mylogin.cnf pgpass.conf .htdigest id_ecdsa_sk id_ed25519_sk secring.gpg .s3cfg .passwd-s3fs
		rclone.conf
		.rclone.conf .terraformrc terraform.rc credentials.tfrc.json credentials.json client_secret.json
		service-account.json service_account.json serviceaccount.json kubeconfig kubeconfig.yaml kubeconfig.yml
		.databrickscfg .vault_pass .vault-pass .vault_pass.txt .ansible_vault_pass .msmtprc .esmtprc .fetchmailrc
		.ftpconfig sftp-config.json settings-security.xml local.settings.json .psql_history .mysql_history
		.bash_history .zsh_history .python_history .node_repl_history .sh_history .password-store .config/gh/hosts.yml
		.config/hub .config/doctl/config.yaml .config/containers/auth.json .composer/auth.json .gem/credentials
		.m2/settings.xml .oci/config .snowsql/config .fly/config.yml .pulumi/credentials.json
		.aws/sso/cache .aws/cli/cache x.p8 x.pkcs12 x.jceks x.bks x.keytab x.ovpn x.kubeconfig x.tfstate
		x.tfstate.backup x.tfvars x.tfvars.json x.kdb client_secret_x.json service-account-x.json
		service_account_x.json firebase-adminsdk-x.json x.ppk x-service-account.json
		x.key x.p12 x.pfx x.jks x.keystore x.kdbx .env.production`) {
		content[name] = ""
	}
	var want []string
	for name, text := range content {
		for _, at := range []string{filepath.Join("low", name), filepath.Join("UP", strings.ToUpper(name))} {
			write(t, filepath.Join(dir, at), text)
			want = append(want, at)
		}
	}
	for name, text := range map[string]string{
		".env.example": "", ".env.sample": "", ".env.template": "", ".env.dist": "", "public.pem": "CERTIFICATE",
		"service-account-x.go": "", "kubeconfig.go": "", "auth.json": "", "x.tfvars/file": "",
		"kubeconfig/file.go": "",
		".yarnrc.yml":        "nodeLinker: x", ".npmrc": "registry=x", "folder.key/file": "", "xaws/credentials": "",
		"x.aws/credentials": "",
	} {
		write(t, filepath.Join(dir, "none", name), text)
	}
	found, err := Search{}.Secrets(t.Context(), dir)
	require.NoError(t, err)
	require.ElementsMatch(t, want, found.Paths())
}
