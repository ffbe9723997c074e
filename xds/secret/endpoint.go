package secret

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/oauth2"

	"github.com/postern/postern/plan"
)

// maxAnswer bounds what a token endpoint may answer.
const maxAnswer = 1 << 20

// What the client of the token endpoints refuses to do.
var (
	errInsecure = errors.New("not https")
	errRedirect = errors.New("redirect to another host")
	errTooLong  = errors.New("answer too long")
)

// newClient returns the client for token endpoints. It connects only over https, or on loopback,
// for a bounded time, and reads an answer of bounded size. Whatever the endpoint says, it connects
// to no other place than the named one.
func newClient() *http.Client {
	return &http.Client{
		Timeout: mintTimeout,
		Transport: guarded{&http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			TLSHandshakeTimeout:    5 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
			// Minutes pass between two requests.
			DisableKeepAlives: true,
		}},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > 3 || req.URL.Host != via[0].URL.Host || req.URL.Scheme != via[0].URL.Scheme {
				return errRedirect
			}
			return nil
		},
	}
}

type guarded struct{ next http.RoundTripper }

func (g guarded) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !loopback(req.URL) {
		return nil, errInsecure
	}
	resp, err := g.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = &bounded{resp.Body, maxAnswer}
	return resp, nil
}

func loopback(u *url.URL) bool {
	return u.Scheme == "http" && plan.Loopback(u.Hostname())
}

// bounded fails where a limited reader would pass half an answer for a whole.
type bounded struct {
	io.ReadCloser
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errTooLong
	}
	return n, err
}

// codes are the errors of RFC 6749, section 5.2, and RFC 7523. A code that is
// not one of them is the endpoint's own words, and not repeated.
var codes = map[string]bool{
	"invalid_request": true, "invalid_client": true, "invalid_grant": true, "unauthorized_client": true, "unsupported_grant_type": true,
	"invalid_scope": true, "access_denied": true, "temporarily_unavailable": true, "server_error": true,
}

// explain says in our own words what went wrong at the endpoint with the given name.
func explain(err error, name string) *failure {
	var answered *oauth2.RetrieveError
	if errors.As(err, &answered) {
		return &failure{text: status(name, answered.Response.StatusCode, answered.ErrorCode)}
	}
	return &failure{text: transport(err, name, name+" answered something that is not a token")}
}

// transport says in our own words what went wrong on the way to or from name. otherwise is for all
// other errors.
func transport(err error, name, otherwise string) string {
	var certificate *tls.CertificateVerificationError
	var timeout net.Error
	var dial *net.OpError
	switch {
	case errors.Is(err, errInsecure):
		return name + " is not https: a secret would be readable on the way"
	case errors.Is(err, errRedirect):
		return name + " redirects to another place: name that place"
	case errors.Is(err, errTooLong):
		return fmt.Sprintf("%s answered more than %d bytes", name, maxAnswer)
	case errors.As(err, &certificate):
		return name + " has a certificate that is not trusted"
	case errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Sprintf("%s did not answer within %s", name, mintTimeout)
	case errors.As(err, &dial):
		return name + " cannot be reached"
	}
	return otherwise
}

func status(name string, code int, said string) string {
	if codes[said] {
		return fmt.Sprintf("%s answered %d and %s", name, code, said)
	}
	return fmt.Sprintf("%s answered %d", name, code)
}

// endpoint returns the name that explain uses for the endpoint at u, which is in the plan.
func endpoint(u string) string {
	p, err := url.Parse(u)
	if err != nil || p.Host == "" {
		return "the token endpoint"
	}
	return "the token endpoint " + p.Host
}
