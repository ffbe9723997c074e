package plan

import (
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
)

// InCloud reports whether the source is a service of a cloud, which is read with that cloud's SDK.
func InCloud(source string) bool {
	return source == SourceAWSSecretsManager || source == SourceAWSParamStore || source == SourceGCPSecretManager
}

// The sources of secrets, for [Reference.Source].
const (
	SourceEnv               = "env"
	SourceFile              = "file"
	SourceAWSSecretsManager = "awssecretsmanager"
	SourceAWSParamStore     = "awsparamstore"
	SourceGCPSecretManager  = "gcpsecretmanager"
	SourceHTTPS             = "https"
	SourceVault             = "vault"
	SourceExec              = "exec"
)

// Reference says where a secret is. The reference is not secret itself.
type Reference struct {
	// Source is one of the Source constants.
	Source string
	// Name identifies the secret in its source: the name of a variable, of an AWS secret or
	// parameter, a GCP resource (projects/P/secrets/S), an absolute and clean path of a file or a
	// helper, a mount and path in Vault, or a URL.
	Name string
	// Region is the region of the AWS sources.
	Region string
	// Args are the arguments of a helper.
	Args []string
	// Digest is the SHA-256 of a helper's file, in hexadecimal. A helper without a digest is not
	// run.
	Digest string
	// Every is the interval at which the source is read, from a second to a day. Zero means the
	// source's default. A file is watched, and a variable never changes.
	Every time.Duration
	// Field is the path of a field in the source's JSON. nil means that the secret is all of it.
	Field []string
}

// ReferenceError says what is wrong with the URL of a secret, and what to write instead. It quotes
// nothing, because somebody may have written the secret itself there.
type ReferenceError struct{ Text, Hint string }

func (e *ReferenceError) Error() string { return e.Text + "; " + e.Hint }

// ReferenceHint describes the form of a reference.
const ReferenceHint = `write where it is, such as "env://NAME", "file:///absolute/path" or "file:path/next/to/this/file"; docs/credentials.md has all sources; never the secret itself`

const (
	maxReference = 2048
	minEvery     = time.Second
	maxEvery     = 24 * time.Hour
)

var (
	variableName  = Matching(`^[A-Za-z_][A-Za-z0-9_]*$`)
	awsSecretName = Matching(`^[A-Za-z0-9/_+=.@-]{1,512}$`)
	awsParamName  = Matching(`^([A-Za-z0-9_.-]+|(/[A-Za-z0-9_.-]+)+)$`)
	awsRegion     = Matching(`^[a-z]{2,4}(-[a-z]+)+-[0-9]$`)
	gcpSecretName = Matching(`^projects/[a-z][a-z0-9_-]{4,28}[a-z0-9]/secrets/[A-Za-z0-9_-]{1,255}$`)
	vaultName     = Matching(`^[A-Za-z0-9_@+=.-]+(/[A-Za-z0-9_@+=.-]+)+$`)
	helperDigest  = Matching(`^[0-9a-f]{64}$`)
	fieldName     = Matching(`^[^.\x00-\x20\x7f]+(\.[^.\x00-\x20\x7f]+)*$`)
)

// forms holds, for each source, the form of its name.
var forms = map[string]struct {
	valid      func(string) bool
	text, hint string
	// keys are its query parameters, in addition to every.
	keys []string
}{
	SourceEnv:               {variableName, "secret does not name an environment variable", `write "env://NAME"`, nil},
	SourceFile:              {absolute, "secret does not name an absolute file", `write "file:///absolute/path"`, nil},
	SourceAWSSecretsManager: {awsSecretName, "secret does not name a secret of AWS Secrets Manager", `write "awssecretsmanager://NAME?region=eu-west-1", with the name, not the ARN`, []string{"region"}},
	SourceAWSParamStore:     {awsParamName, "secret does not name a parameter of AWS Systems Manager", `write "awsparamstore://NAME?region=eu-west-1"; with a path in the name, "awsparamstore:///path/name?region=eu-west-1"`, []string{"region"}},
	SourceGCPSecretManager:  {gcpSecretName, "secret does not name a secret of GCP Secret Manager", `write "gcpsecretmanager://projects/P/secrets/S", without a version`, nil},
	SourceVault:             {cleanVault, "secret does not name a secret of Vault", `write "vault://MOUNT/PATH#FIELD", for a mount of KV version 2, without "data"`, nil},
	SourceExec:              {absolute, "secret does not name an absolute program", `write "exec:///absolute/path?arg=first&arg=second"`, []string{"arg", "sha256"}},
}

func absolute(p string) bool {
	return path.IsAbs(p) && p == path.Clean(p) && p != "/" && !strings.ContainsFunc(p, control)
}

// cleanVault refuses what would lead out of the mount.
func cleanVault(p string) bool { return vaultName(p) && "/"+p == path.Clean("/"+p) }

func control(r rune) bool { return r < ' ' || r == 0x7f }

// ParseReference reads the URL of a secret. The error is a [*ReferenceError].
func ParseReference(s string) (Reference, error) {
	r := Reference{}
	no := func(text, hint string) (Reference, error) { return Reference{}, &ReferenceError{text, hint} }
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || len(s) > maxReference || strings.ContainsFunc(s, control) {
		return no("secret is not a reference", ReferenceHint)
	}
	rest, fragment, selects := strings.Cut(rest, "#")
	rest, query, asks := strings.Cut(rest, "?")
	r.Source = scheme
	if selects {
		field, err := url.PathUnescape(fragment)
		if err != nil || !fieldName(field) {
			return no("secret selects no valid field", `write "#field", or "#outer.inner", after the rest`)
		}
		r.Field = strings.Split(field, ".")
	}
	params, err := url.ParseQuery(query)
	if err != nil || asks && query == "" {
		return no("secret has a query that is not valid", "write parameters as in ?name=value&name=value")
	}
	if scheme == "http" || scheme == SourceHTTPS {
		r.Source = SourceHTTPS
		if e := r.web(scheme, rest); e != nil {
			return Reference{}, e
		}
	} else {
		form, known := forms[scheme]
		if !known {
			return no("secret is not at a known kind of place", ReferenceHint)
		}
		name, err := url.PathUnescape(rest)
		if err != nil || !form.valid(name) {
			return no(form.text, form.hint)
		}
		r.Name = name
	}
	if e := r.query(params, forms[scheme].keys); e != nil {
		return Reference{}, e
	}
	return r, nil
}

// web reads a URL that the secret is asked for at.
func (r *Reference) web(scheme, rest string) *ReferenceError {
	u, err := url.Parse(scheme + "://" + rest)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Path == "" || u.Path == "/" {
		return &ReferenceError{"secret is not a URL with a host and a path, and without a user", `write "https://HOST/PATH"`}
	}
	if scheme != SourceHTTPS && !Loopback(u.Hostname()) {
		return &ReferenceError{"secret would be readable on the way", `write "https://HOST/PATH"; http:// is for this machine's loopback only`}
	}
	r.Name = u.String()
	return nil
}

// query reads the parameters. Only keys and every are allowed.
func (r *Reference) query(params url.Values, keys []string) *ReferenceError {
	for name, values := range params {
		switch {
		case name == "arg" && slices.Contains(keys, name):
			if len(values) > 32 || slices.ContainsFunc(values, func(v string) bool { return strings.ContainsFunc(v, control) }) {
				return &ReferenceError{"secret has more than 32 arguments, or a control character in one", "put them into the helper"}
			}
			r.Args = values
		case name == "sha256" && slices.Contains(keys, name):
			if r.Digest = values[0]; len(values) > 1 || !helperDigest(r.Digest) {
				return &ReferenceError{"secret names no SHA-256 of its helper", "remove the parameter: `postern push` adds the right one when it publishes"}
			}
		case name == "region" && slices.Contains(keys, name):
			if r.Region = values[0]; len(values) > 1 || !awsRegion(r.Region) {
				return &ReferenceError{"secret names no AWS region", `write "?region=eu-west-1"`}
			}
		case name == "every" && r.Source != SourceEnv && r.Source != SourceFile:
			var err error
			if r.Every, err = time.ParseDuration(values[0]); err != nil || len(values) > 1 || r.Every < minEvery || r.Every > maxEvery {
				return &ReferenceError{"secret is not asked for at an interval between a second and a day", `write "every=5m"`}
			}
		default:
			return &ReferenceError{"secret has a query parameter that its source does not have", "remove it"}
		}
	}
	if slices.Contains(keys, "region") && r.Region == "" {
		return &ReferenceError{"secret names no AWS region", `write "?region=eu-west-1"`}
	}
	return nil
}

// Loopback reports whether the host of a URL, without port, is this machine.
func Loopback(host string) bool {
	ip, _ := netip.ParseAddr(host)
	return host == "localhost" || ip.IsLoopback()
}
