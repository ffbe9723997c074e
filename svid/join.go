package svid

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// maxCSR is more bytes than any of our certificate requests needs.
const maxCSR = 8 << 10

// joinPath is the path at which a certificate is requested: the first one with a token, the next
// ones with the previous certificate.
const joinPath = "/v1/certificate"

// request asks for a certificate.
type request struct {
	// Name is the beginning of the node's ID. It does not count for a renewal.
	Name string `json:"name"`
	// CSR is a DER certificate request (RFC 2986), which proves that the node
	// has the key. Nothing but the key is taken from it.
	CSR []byte `json:"csr"`
}

// answer is a certificate, or the reason for a refusal.
type answer struct {
	ID          string `json:"id,omitempty"`
	Certificate string `json:"certificate,omitempty"`
	// Authority is the PEM of the signing authority. The node compares it with its own.
	Authority string `json:"authority,omitempty"`
	Error     string `json:"error,omitempty"`
}

type connKey struct{}

func (s *Server) handler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("POST "+joinPath, func(w http.ResponseWriter, r *http.Request) {
		a, code := s.join(r)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		// If this fails, the node is gone, and will ask again.
		_ = json.NewEncoder(w).Encode(a)
	})
	return m
}

func (s *Server) join(r *http.Request) (answer, int) {
	no := func(code int, text string) (answer, int) { return answer{Error: text}, code }
	c, ok := r.Context().Value(connKey{}).(*tls.Conn)
	if !ok {
		return no(http.StatusInternalServerError, "the connection is not one of a node")
	}
	node, code, text := s.authenticate(r, c)
	if code != http.StatusOK {
		return no(code, text)
	}
	// Each kind of client has a rate of its own. A client without token and certificate takes
	// nothing from those with one, and a client with a token takes nothing from nodes that renew.
	limit := s.joins
	if node != "" {
		limit = s.renewals
	}
	if !limit.Allow() {
		s.refused.Rate.Add(1)
		return no(http.StatusTooManyRequests, "too many nodes join at once: try again")
	}
	var q request
	if json.NewDecoder(io.LimitReader(r.Body, maxCSR)).Decode(&q) != nil {
		return no(http.StatusBadRequest, "this is not a request for a certificate")
	}
	key, err := requestedKey(q.CSR)
	if err != nil {
		return no(http.StatusBadRequest, err.Error())
	}
	if node == "" {
		if node, err = Joined(q.Name, key); err != nil {
			return no(http.StatusBadRequest, err.Error())
		}
	}
	if s.Removed(node) {
		s.refuse(&s.refused.Identities, "removed", c.RemoteAddr(), errors.New("node "+node+" was removed"))
		return no(http.StatusForbidden, "node "+node+" was removed from this stack")
	}
	cert, err := s.Authority.Issue(node, key, time.Now())
	if err != nil {
		s.Log.Error("issue a node's certificate", "node", node, "error", err)
		return no(http.StatusInternalServerError, "the certificate could not be signed")
	}
	s.Log.Info("issued a node's certificate", "node", node, "from", c.RemoteAddr().String())
	return answer{ID: node, Certificate: string(cert), Authority: string(s.Authority.PEM)}, http.StatusOK
}

// authenticate returns the node by its certificate, or "" for a client with a token. Otherwise it
// returns the status and text of the refusal.
func (s *Server) authenticate(r *http.Request, c *tls.Conn) (node string, code int, text string) {
	state := c.ConnectionState()
	if len(state.VerifiedChains) > 0 {
		id, err := s.peer(state)
		if err != nil {
			s.refuse(&s.refused.Identities, "identity", c.RemoteAddr(), err)
			return "", http.StatusForbidden, "this certificate is not one of a node of this stack"
		}
		return id.Node, http.StatusOK, ""
	}
	tokens, err := s.Tokens()
	if err != nil {
		s.Log.Error("read the join tokens", "error", err)
		return "", http.StatusServiceUnavailable, "the control plane cannot read its join tokens"
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || !tokens.match(token) {
		s.refuse(&s.refused.Tokens, "token", c.RemoteAddr(), errors.New("the token is not one of this stack's"))
		return "", http.StatusUnauthorized, "the token is not one of this stack's"
	}
	return "", http.StatusOK, ""
}

// requestedKey returns the key of a certificate request that is signed with it.
func requestedKey(der []byte) (*ecdsa.PublicKey, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, errors.New("this is not a certificate request")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, errors.New("the certificate request is not signed with its key")
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("a node's key is on the curve P-256")
	}
	return key, nil
}

// checkAddress reports what is wrong with the address of a control plane.
func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || port == "" {
		return fmt.Errorf("%q is not a valid address of a control plane: write HOST:PORT", address)
	}
	return nil
}
