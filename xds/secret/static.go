package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/postern/postern/plan"
)

// maxLength bounds a value: a longer one does not fit into a header.
const maxLength = 16 << 10

// signs is the value that Envoy gets for a credential that signs. It is not secret: its presence
// opens the route.
const signs = "aws-sigv4"

// compose makes what Envoy injects of a source's content, for the kinds that need no minting.
func compose(c plan.Credential, r reading) material {
	if r.value == nil {
		return material{problem: r.problem}
	}
	value, version, problem := r.value(), r.version, stale(r.problem)
	switch slot := c.Slot(); {
	case c.Kind.Mints() || slot == plan.Slot{}:
		return material{problem: fmt.Sprintf("%q is not a kind that is sent as it is", c.Kind)}
	case slot.Signs:
		if problem := checkKeys(value); problem != "" {
			return material{problem: problem}
		}
		return material{value: seal([]byte(signs)), keys: r.value, version: version, problem: problem}
	case slot.Basic:
		if problem := check(value); problem != "" {
			return material{problem: problem}
		}
		value = basic(c.Username, value)
	}
	if problem := check(value); problem != "" {
		return material{problem: problem}
	}
	return material{value: seal(value), version: version, problem: problem}
}

// stale says that the value that was read before the problem stays in use.
func stale(problem string) string {
	if problem == "" {
		return ""
	}
	return problem + "; the value that was read before stays in use"
}

// basic is the token of RFC 7617, without the scheme.
func basic(user string, password []byte) []byte {
	return base64.StdEncoding.AppendEncode(nil, append([]byte(user+":"), password...))
}

// check says what is wrong with a value that would become part of a header.
func check(value []byte) string {
	switch {
	case len(value) == 0:
		return "the secret is empty"
	case len(value) > maxLength:
		return fmt.Sprintf("the secret has more than %d bytes", maxLength)
	case bytes.ContainsFunc(value, func(r rune) bool { return r < 0x20 && r != '\t' || r == 0x7f }):
		return "the secret has a line break or another control character in it"
	}
	return ""
}

// awsKeys is the source of a [plan.KindAWSSigV4].
type awsKeys struct {
	AccessKeyID     string `json:"access_key_id"`
	SecretAccessKey string `json:"secret_access_key"`
	SessionToken    string `json:"session_token"`
}

func checkKeys(source []byte) string {
	var k awsKeys
	switch {
	case json.Unmarshal(source, &k) != nil:
		return `the secret is not JSON: {"access_key_id": ..., "secret_access_key": ..., "session_token": ...}`
	case k.AccessKeyID == "" || k.SecretAccessKey == "":
		return "the secret's access_key_id or secret_access_key is missing"
	}
	for _, v := range []string{k.AccessKeyID, k.SecretAccessKey, k.SessionToken} {
		if len(v) > maxLength || bytes.ContainsFunc([]byte(v), func(r rune) bool { return r <= 0x20 || r >= 0x7f }) {
			return "a field of the secret is too long or has a character in it that no AWS key has"
		}
	}
	return ""
}
