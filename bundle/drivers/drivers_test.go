package drivers_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/bundle"
	_ "github.com/postern/postern/bundle/drivers"
	"github.com/postern/postern/plan"
	"github.com/postern/postern/tests/moto"
	"github.com/postern/postern/xds/api"
)

// The drivers read these once, and for the whole process.
func TestMain(m *testing.M) {
	gcs := httptest.NewServer(&standInGCS{objects: map[string][]byte{}})
	for name, value := range map[string]string{
		"STORAGE_EMULATOR_HOST": gcs.Listener.Addr().String(),
		"AWS_ACCESS_KEY_ID":     "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	gcs.Close()
	os.Exit(code)
}

// startMoto starts a server that speaks S3, with a bucket, and returns its URL.
func startMoto(t *testing.T) string {
	t.Helper()
	address, stop, err := moto.Start()
	t.Cleanup(stop)
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, address+"/fleet", nil)
	require.NoError(t, err)
	resp, err := (&http.Client{}).Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	return address
}

func s3(server, prefix string) string {
	return "s3://fleet?" + url.Values{
		"prefix": {prefix}, "region": {"eu-west-1"}, "endpoint": {server}, "use_path_style": {"true"},
	}.Encode()
}

// operator has a key of its own; replica is a control plane of the test, which
// takes everything.
func operator(t *testing.T, store string) *bundle.Operator {
	t.Helper()
	dir := t.TempDir()
	o := &bundle.Operator{
		Store: &bundle.Store{URL: store, Stack: "test", Trusted: filepath.Join(dir, "trusted.pem")},
		Key:   filepath.Join(dir, "ed25519"),
	}
	err := bundle.MakeKey(o.Key, o.Trusted)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, o.Close()) })
	return o
}

func policy(host string) *plan.Plan {
	return &plan.Plan{Stack: "test", Agents: []plan.Agent{{Name: "a", Rules: []plan.Rule{
		{ID: "a/" + host, Host: host, Port: 443, Methods: []string{plan.AnyMethod}, Paths: []string{plan.AnyPath}},
	}}}}
}

// obedient reports as a replica whose nodes acknowledge everything at once but
// refused.test.
func obedient(t *testing.T, o *bundle.Operator, id string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	o.Authority = func() (*x509.Certificate, error) { return cert, nil }
	reporter, err := bundle.NewReporter("test", cert, key, time.Now())
	require.NoError(t, err)
	require.NoError(t, o.Report(t.Context(), &api.Replica{ID: id, Time: time.Now(), Connected: 1}, reporter))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	t.Cleanup(func() {
		cancel()
		<-done
	})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for last := uint64(0); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if v, err := o.Look(ctx); err == nil && v.Newest != last && (v.Try || v.Proven == v.Newest) {
				b, err := o.Get(ctx, v.Newest)
				if err != nil {
					continue
				}
				report := &api.Replica{ID: id, Time: time.Now(), Seq: v.Newest, Hash: b.Hash(), Connected: 1}
				if b.Plan.Agents[0].Rules[0].Host == "refused.test" {
					report.Seq, report.Failed, report.FailedHash, report.Problem = last, v.Newest, b.Hash(), "refused"
				}
				if o.Report(ctx, report, reporter) == nil {
					last = v.Newest
				}
			}
		}
	}()
}

// TestStores: what is published is there, in order and signed; a number is
// taken once, by whoever was first.
func TestStores(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) string{
		"s3, against moto":              func(t *testing.T) string { return s3(startMoto(t), "test/") },
		"gs, against a stand-in for it": func(*testing.T) string { return "gs://fleet?prefix=test/" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := open(t)
			o := operator(t, store)
			_, err := o.Current(t.Context())
			require.ErrorIs(t, err, bundle.ErrNone)
			_, err = o.Publish(t.Context(), policy("nobody.test"))
			require.ErrorContains(t, err, "no control plane has reported to the bundle store")
			_, err = o.Current(t.Context())
			require.ErrorIs(t, err, bundle.ErrNone, "it was withdrawn")

			obedient(t, o, "r1")
			v, err := o.Publish(t.Context(), policy("one.test"))
			require.NoError(t, err)
			require.Equal(t, 1, v.Nodes)
			p, err := o.Read(t.Context())
			require.NoError(t, err)
			require.Equal(t, policy("one.test"), p)

			results := make(chan error, 6)
			for i := range cap(results) {
				go func() {
					// Each like a process of its own.
					another := &bundle.Operator{Store: &bundle.Store{URL: store, Stack: "test", Trusted: o.Trusted, Authority: o.Authority}, Key: o.Key}
					_, err := another.Publish(t.Context(), policy(fmt.Sprintf("h%d.test", i)))
					results <- err
				}()
			}
			won := 0
			for range cap(results) {
				err := <-results
				var conflict *bundle.ConflictError
				if err == nil {
					won++
					continue
				}
				require.ErrorAs(t, err, &conflict)
				require.ErrorContains(t, err, "they changed: ")
			}
			require.Positive(t, won)
			history, err := o.History(t.Context())
			require.NoError(t, err)
			require.Len(t, history, won+1)
			for i, b := range history {
				require.NoError(t, b.Broken())
				require.Equal(t, uint64(len(history)-i), b.Seq)
			}
		})
	}
}

// TestSlowStore: reading takes a bounded time, and says what it waited for.
func TestSlowStore(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	defer close(stop)
	o := operator(t, s3(server.URL, "test/"))
	_, err := o.Current(t.Context()) // ten seconds
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "list the bundle store s3://fleet: ")
}

// before leads to the server, through a change of each request; nil refuses it
// as S3 does where nobody has allowed it.
func before(t *testing.T, server string, change func(*http.Request) *http.Request) string {
	t.Helper()
	target, err := url.Parse(server)
	require.NoError(t, err)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r = change(r); r == nil {
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
			return
		}
		r.URL.Scheme, r.URL.Host, r.RequestURI = target.Scheme, target.Host, ""
		resp, err := (&http.Client{}).Do(r)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		for name, values := range resp.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// TestCarelessStore: a server that replaces what exists is refused at the first
// publication.
func TestCarelessStore(t *testing.T) {
	t.Parallel()
	careless := before(t, startMoto(t), func(r *http.Request) *http.Request {
		r.Header.Del("If-None-Match")
		return r
	})
	o := operator(t, s3(careless, "careless/"))
	obedient(t, o, "r1")
	_, err := o.Publish(t.Context(), policy("one.test"))
	require.ErrorContains(t, err, "replaces objects that exist")
	_, err = o.Current(t.Context())
	require.ErrorIs(t, err, bundle.ErrNone)
}

// TestLostAnswer: if the answer to a publication is lost, the driver tries again and finds it.
// That is not somebody else's.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	server := startMoto(t)
	target, err := url.Parse(server)
	require.NoError(t, err)
	store := before(t, server, func(r *http.Request) *http.Request {
		if r.Method != http.MethodPut || r.Header.Get("If-None-Match") == "" {
			return r
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil
		}
		lost := r.Clone(r.Context())
		lost.URL.Scheme, lost.URL.Host, lost.RequestURI = target.Scheme, target.Host, ""
		lost.Body = io.NopCloser(strings.NewReader(string(body)))
		if resp, err := (&http.Client{}).Do(lost); err == nil { //nolint:gosec // the stand-in is here
			resp.Body.Close()
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		return r
	})
	o := operator(t, s3(store, "lost/"))
	obedient(t, o, "r1")
	_, err = o.Publish(t.Context(), policy("one.test"))
	require.NoError(t, err)
	_, err = o.Publish(t.Context(), policy("two.test"))
	require.NoError(t, err)
}

// TestNoDeletion: operators on AWS may delete nothing. What is not taken is
// taken back all the same.
func TestNoDeletion(t *testing.T) {
	t.Parallel()
	store := before(t, startMoto(t), func(r *http.Request) *http.Request {
		if r.Method == http.MethodDelete {
			return nil
		}
		return r
	})
	o := operator(t, s3(store, "kept/"))
	var said []string
	o.Say = func(line string) { said = append(said, line) }
	_, err := o.Publish(t.Context(), policy("nobody.test"))
	require.ErrorContains(t, err, "no control plane has reported to the bundle store")
	require.NotContains(t, err.Error(), "AccessDenied")
	require.Contains(t, strings.Join(said, "\n"), "publication 1 stays in the store")
	v, err := o.Look(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(1), v.Newest)
	require.Zero(t, v.Proven, "no replica takes it")

	obedient(t, o, "r1")
	_, err = o.Publish(t.Context(), policy("one.test"))
	require.NoError(t, err)
	_, err = o.Publish(t.Context(), policy("refused.test"))
	require.EqualError(t, err, "control plane r1: refused")
	b, err := o.Current(t.Context())
	require.NoError(t, err)
	require.Equal(t, policy("one.test"), b.Plan)
	require.Equal(t, uint64(4), b.Seq)
	require.Contains(t, b.Note, "takes back 3: ")
	require.NoError(t, o.Proven(t.Context(), b))
}

// TestPath: where in the bucket is said in one way only.
func TestPath(t *testing.T) {
	t.Parallel()
	_, err := operator(t, "s3://fleet/prod").Current(t.Context())
	require.ErrorContains(t, err, "such as s3://fleet?prefix=prod/")
}

// standInGCS is as much of the JSON API of Google Cloud Storage as the driver
// uses: list, read, delete, and create with ifGenerationMatch=0. It is not the
// real one; what that does is in
// https://cloud.google.com/storage/docs/request-preconditions.
type standInGCS struct {
	mu      sync.Mutex
	objects map[string][]byte
}

func (s *standInGCS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	path, q := r.URL.Path, r.URL.Query()
	if strings.HasPrefix(path, "/upload/") {
		s.create(w, r, q)
		return
	}
	_, name, _ := strings.Cut(strings.TrimPrefix(path, "/storage/v1"), "/o/")
	if name == "" && !strings.Contains(path, "/b/") {
		name = strings.TrimPrefix(path, "/fleet/") // a read has the XML API's path
	}
	if name == "" {
		items := []map[string]any{}
		for _, n := range slices.Sorted(keys(s.objects)) {
			if strings.HasPrefix(n, q.Get("prefix")) {
				items = append(items, s.describe(n))
			}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": "storage#objects", "items": items})
		return
	}
	content, there := s.objects[name]
	switch {
	case !there:
		fail(w, http.StatusNotFound)
	case r.Method == http.MethodDelete:
		delete(s.objects, name)
		w.WriteHeader(http.StatusNoContent)
	case strings.Contains(path, "/o/") && q.Get("alt") != "media":
		_ = json.NewEncoder(w).Encode(s.describe(name))
	default:
		_, _ = w.Write(content)
	}
}

func (s *standInGCS) create(w http.ResponseWriter, r *http.Request, q url.Values) {
	_, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || q.Get("uploadType") != "multipart" {
		fail(w, http.StatusBadRequest)
		return
	}
	parts := multipart.NewReader(r.Body, params["boundary"])
	var meta struct{ Name string }
	first, err := parts.NextPart()
	if err != nil || json.NewDecoder(first).Decode(&meta) != nil {
		fail(w, http.StatusBadRequest)
		return
	}
	second, err := parts.NextPart()
	if err != nil {
		fail(w, http.StatusBadRequest)
		return
	}
	content, err := io.ReadAll(second)
	if err != nil {
		fail(w, http.StatusBadRequest)
		return
	}
	if _, there := s.objects[meta.Name]; there && q.Get("ifGenerationMatch") == "0" {
		fail(w, http.StatusPreconditionFailed)
		return
	}
	s.objects[meta.Name] = content
	_ = json.NewEncoder(w).Encode(s.describe(meta.Name))
}

func (s *standInGCS) describe(name string) map[string]any {
	return map[string]any{
		"kind": "storage#object", "name": name, "bucket": "fleet", "generation": "1", "metageneration": "1",
		"size": fmt.Sprint(len(s.objects[name])), "updated": time.Now().UTC().Format(time.RFC3339Nano),
	}
}

func fail(w http.ResponseWriter, status int) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": status, "message": http.StatusText(status)}})
}

func keys(m map[string][]byte) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
