package dataplane

import (
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/fleet"
)

// TestSignedOperations: nothing is signed for an agent that names an operation or a
// source which its rule does not (red team W18); what the rule names is, and is signed.
func TestSignedOperations(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := newEcho(t, f, "s3.test", "db.test", "all.test")
	source := `{"access_key_id": "AKIA", "secret_access_key": "canary-aws"}`
	path := f.Secret("aws", source)
	const get = "DynamoDB_20120810.GetItem"
	rule := func(name, method, path string, headers ...plan.Condition) plan.Rule {
		return plan.Rule{
			ID: "a/" + name, Host: name + ".test", Port: 443, Methods: []string{method}, Paths: []string{path},
			Headers: headers, Upstream: up.pin, Credential: "aws",
		}
	}
	f.MustPublish(&plan.Plan{
		Stack: "test",
		Credentials: []plan.Credential{{
			Name: "aws", Kind: plan.KindAWSSigV4, Service: "dynamodb", Region: "eu-west-1", Secret: "file://" + path,
		}},
		Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{
			rule("s3", "PUT", "/mine/**"), rule("db", "POST", "/", plan.Condition{Name: "x-amz-target", Value: get}),
			rule("all", plan.AnyMethod, plan.AnyPath),
		}}},
	})
	for _, c := range []struct {
		what, method, url, header, value string
		reason                           plan.Reason
	}{
		{
			"a copy of another's object", "PUT", "https://s3.test/mine/x", "X-Amz-Copy-Source", "/theirs/secret",
			plan.ReasonAmbiguous,
		},
		{"an operation that no rule names", "PUT", "https://s3.test/mine/x", "X-Amz-Target", get, plan.ReasonAmbiguous},
		{"an object", "PUT", "https://s3.test/mine/x", "X-Amz-Meta-Name", "x", ""},
		{"the operation", "POST", "https://db.test/", "X-Amz-Target", get, ""},
		{
			"another operation", "POST", "https://db.test/", "X-Amz-Target", "DynamoDB_20120810.DeleteTable",
			plan.ReasonCondition,
		},
		{
			"where everything is allowed", "POST", "https://all.test/", "X-Amz-Target", "DynamoDB_20120810.DeleteTable",
			"",
		},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, c.url, strings.NewReader("{}"))
		require.NoError(t, err)
		req.Header.Set(c.header, c.value)
		resp, err := f.Client("n1", "a").Do(req)
		require.NoError(t, err, c.what)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		r := up.take()
		if c.reason != "" {
			require.Equal(t, 403, resp.StatusCode, c.what)
			require.Contains(t, string(body), string(c.reason), c.what)
			require.Nil(t, r, c.what)
			continue
		}
		require.Equal(t, 200, resp.StatusCode, "%s: %s", c.what, body)
		require.Equal(t, c.value, r.Header.Get(c.header))
		require.Contains(t, r.Header.Get("Authorization"), strings.ToLower(c.header), "%s is signed", c.what)
		require.Empty(t, signature("dynamodb", "eu-west-1")(r, source), c.what)
	}
}

// TestSignedEcho: an upstream that shows its callers what it was sent, under other names and in
// trailers, shows an agent neither the session token, nor the keys' ID, nor the signature.
func TestSignedEcho(t *testing.T) {
	t.Parallel()
	f := fleet.New(t, 1)
	up := newEcho(t, f, "db.test")
	const id, token = "AKIACANARY0123456789", "canary-session-token"
	path := f.Secret("aws", `{"access_key_id": "`+id+`", "secret_access_key": "canary-aws", "session_token": "`+token+`"}`)
	f.MustPublish(&plan.Plan{
		Stack: "test",
		Credentials: []plan.Credential{{
			Name: "aws", Kind: plan.KindAWSSigV4, Service: "dynamodb", Region: "eu-west-1", Secret: "file://" + path,
		}},
		Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{{
			ID: "a/db", Host: "db.test", Port: 443, Methods: []string{"POST"}, Paths: []string{plan.AnyPath},
			Upstream: up.pin, Credential: "aws",
		}}}},
	})
	up.answer(func(w http.ResponseWriter, r *http.Request) {
		_, signature, _ := strings.Cut(r.Header.Get("Authorization"), "Signature=")
		for name, value := range map[string]string{
			"Whole": r.Header.Get("Authorization"), "Signature": signature, "Id": id, "Token": r.Header.Get("X-Amz-Security-Token"),
			"Base64": base64.StdEncoding.EncodeToString([]byte("token: " + r.Header.Get("X-Amz-Security-Token"))),
		} {
			w.Header().Set("X-Echo-"+name, value)
			w.Header().Set(http.TrailerPrefix+"X-Echo-"+name, value)
		}
		w.Header().Set("X-Note", "stays")
		_, _ = io.WriteString(w, "ok")
		w.(http.Flusher).Flush() //nolint:forcetypeassert // Go's server can
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://db.test/", strings.NewReader("{}"))
	require.NoError(t, err)
	resp, err := f.Client("n1", "a").Do(req)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, token, up.take().Header.Get("X-Amz-Security-Token"), "the upstream has it")
	require.Equal(t, "stays", resp.Header.Get("X-Note"))
	for _, hs := range []http.Header{resp.Header, resp.Trailer} {
		for name := range hs {
			require.NotContains(t, name, "Echo", "%s", hs)
		}
	}
}
