package bundle

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/postern/postern/plan"
	"github.com/postern/postern/xds/api"
)

// plant puts an object into the store as somebody who has no key.
func (o *Operator) plant(t *testing.T, name, content string) {
	t.Helper()
	path := filepath.Join(o.folder(), name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
}

// authority makes an authority, has its reporters believed, and returns what
// makes one, for a stack.
func (o *Operator) authority(t *testing.T) func(stack string) *Reporter {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	o.Authority = func() (*x509.Certificate, error) { return cert, nil }
	return func(stack string) *Reporter {
		r, err := NewReporter(stack, cert, key, time.Now())
		require.NoError(t, err)
		return r
	}
}

// TestReportsForged: a report that the authority's key has not signed, for this
// stack and under this name, tells an operator nothing.
func TestReportsForged(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	reporter := o.authority(t)
	stranger := folder(t, "test").authority(t)
	require.NoError(t, o.Report(t.Context(), &api.Replica{ID: "a", Time: time.Now(), Seq: 1}, reporter("test")))
	genuine, err := os.ReadFile(filepath.Join(o.folder(), "replicas", "a.json"))
	require.NoError(t, err)
	unsigned, err := json.Marshal(api.Replica{ID: "u", Time: time.Now(), Seq: 9})
	require.NoError(t, err)
	o.plant(t, "replicas/u.json", string(unsigned))
	o.plant(t, "replicas/b.json", string(genuine))
	o.plant(t, "replicas/c.json", strings.Replace(string(genuine), `"seq":1,"version"`, `"seq":7,"version"`, 1))
	o.plant(t, "replicas/\x1b[2J.json", string(genuine))
	o.plant(t, "replicas/huge.json", strings.Repeat(" ", maxReport+1))
	require.NoError(t, o.Report(t.Context(), &api.Replica{ID: "s", Time: time.Now(), Seq: 9}, stranger("test")))
	prod := &Operator{Store: &Store{URL: o.URL, Stack: "prod", Trusted: o.Trusted}, Key: o.Key}
	require.NoError(t, prod.Report(t.Context(), &api.Replica{ID: "p", Time: time.Now(), Seq: 9}, reporter("prod")))
	all, err := o.Reports(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, "a", all[0].ID)
	v, err := o.Look(t.Context())
	require.NoError(t, err)
	require.NotContains(t, v.Reports, "\x1b[2J")

	o.Authority = nil
	_, err = o.Reports(t.Context())
	require.ErrorContains(t, err, "it is not known who signs it")
}

// TestListWhileReported: a folder can be listed at any moment of another
// replica's report.
func TestListWhileReported(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	report := func() error { return o.write(t.Context(), "replicas/a.json", []byte("{}"), false) }
	require.NoError(t, report())
	looked, reported := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-looked:
				reported <- nil
				return
			default:
				if err := report(); err != nil {
					reported <- err
					return
				}
			}
		}
	}()
	for range 2000 {
		v, err := o.Look(t.Context())
		require.NoError(t, err)
		require.Contains(t, v.Reports, "a")
	}
	close(looked)
	require.NoError(t, <-reported)
}

// TestReportReplayed: what a replica once reported of a publication that was
// withdrawn says nothing of another one under that number.
func TestReportReplayed(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	reporter := o.authority(t)
	b := o.store(t, policy("one.test"))
	require.NoError(t, o.Report(t.Context(), &api.Replica{ID: "a", Time: time.Now(), Seq: b.Seq, Hash: b.Hash()},
		reporter("test")))
	_, _, err := o.await(t.Context(), b, []string{"a"})
	require.NoError(t, err)
	require.NoError(t, o.withdraw(t.Context(), b.Seq))
	again := o.store(t, policy("two.test"))
	require.Equal(t, b.Seq, again.Seq)
	ctx, cancel := context.WithTimeout(t.Context(), 3*o.Interval())
	defer cancel()
	_, _, err = o.await(ctx, again, []string{"a"})
	require.ErrorContains(t, err, "control plane a has not taken publication 1")
}

// TestPlanted: what somebody without a key puts into the store does not keep
// marks from counting, nor a kill from being published.
func TestPlanted(t *testing.T) {
	t.Parallel()
	publish := func(t *testing.T) *Operator {
		o := folder(t, "test")
		require.NoError(t, o.mark(t.Context(), kindProven, o.store(t, policy("one.test")), ""))
		return o
	}
	kill := func(t *testing.T, o *Operator) {
		o.authority(t)
		_, err := o.Kill(t.Context(), Killed{Agents: []string{"a"}})
		// It is published, with a mark that counts; there is nobody to confirm it.
		require.ErrorContains(t, err, "no control plane has reported")
		v, err := o.Look(t.Context())
		require.NoError(t, err)
		require.Equal(t, v.Newest, v.Proven)
		b, err := o.Get(t.Context(), v.Newest)
		require.NoError(t, err)
		require.NoError(t, o.Proven(t.Context(), b))
		require.Equal(t, []string{"a"}, b.Killed.Agents)
		require.Len(t, b.Plan.Agents[0].Rules, 1)
	}
	t.Run("a mark of nothing", func(t *testing.T) {
		t.Parallel()
		o := publish(t)
		o.plant(t, object(9000, suffixProven), "{}")
		v, err := o.Look(t.Context())
		require.NoError(t, err)
		require.Equal(t, uint64(1), v.Proven)
		kill(t, o)
	})
	t.Run("the next mark, ahead", func(t *testing.T) {
		t.Parallel()
		o := publish(t)
		o.plant(t, object(2, suffixProven), "{}")
		kill(t, o)
	})
	t.Run("the next publication, with its mark", func(t *testing.T) {
		t.Parallel()
		o := publish(t)
		o.plant(t, object(2, suffixBundle), "{}")
		o.plant(t, object(2, suffixProven), "{}")
		kill(t, o)
	})
	t.Run("a number above all", func(t *testing.T) {
		t.Parallel()
		o := publish(t)
		o.plant(t, "18446744073709551615.json", "{}")
		kill(t, o)
		o.plant(t, object(maxSeq, suffixBundle), "{}")
		_, err := o.Kill(t.Context(), Killed{Stack: true})
		require.ErrorContains(t, err, "has an object with the number 9999999999999999, which belongs to no "+
			"publication: remove it")
	})
	t.Run("escapes", func(t *testing.T) {
		t.Parallel()
		o := publish(t)
		o.plant(t, object(2, suffixBundle), `{"postern":"\u001b[2Jbundle/1`+strings.Repeat("x",
			1<<20)+`","stack":"test","seq":2}`+"\n")
		_, err := o.Current(t.Context())
		require.Error(t, err)
		require.NotContains(t, err.Error(), "\x1b")
		require.Less(t, len(err.Error()), 1000)
	})
	t.Run("more than fits into memory", func(t *testing.T) {
		t.Parallel()
		o := publish(t)
		o.plant(t, object(2, suffixBundle), "")
		require.NoError(t, os.Truncate(o.file(2, suffixBundle), 1<<40))
		_, err := o.Current(t.Context())
		require.ErrorContains(t, err, "publication 2 cannot be used")
		require.ErrorContains(t, err, "it is larger than anything of its kind")
	})
}

// TestLost: in a store that was put back to an older copy the next number is
// above what replicas serve, and the operator is told.
func TestLost(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	reporter := o.authority(t)
	o.store(t, policy("one.test"))
	require.NoError(t, o.Report(t.Context(), &api.Replica{ID: "a", Time: time.Now(), Seq: 7}, reporter("test")))
	var said []string
	o.Say = func(line string) { said = append(said, line) }
	_, seq, err := o.base(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, uint64(8), seq)
	require.Len(t, said, 1)
	require.Contains(t, said[0], "lost publications up to 7, which control plane a serves")
}

// TestMistyped: nobody is told that an agent was stopped that does not exist, or
// let work again that was not stopped.
func TestMistyped(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	o.authority(t)
	p := policy("one.test")
	p.Agents = append(p.Agents, plan.Agent{Name: "b"})
	require.NoError(t, o.mark(t.Context(), kindProven, o.store(t, p), ""))
	_, err := o.Kill(t.Context(), Killed{Agents: []string{"a", "bb"}})
	require.EqualError(t, err, `the publication has no agent "bb", so nobody was stopped; its agents are: a, b`)
	_, err = o.Unkill(t.Context(), Killed{Agents: []string{"a"}})
	require.EqualError(t, err, `agent "a" is not killed; killed are: none; nothing changes`)
	_, err = o.Kill(t.Context(), Killed{Stack: true})
	require.ErrorContains(t, err, "no control plane has reported")
	_, err = o.Unkill(t.Context(), Killed{Agents: []string{"a"}})
	require.ErrorContains(t, err, "`postern unkill --stack` lets that work again; nothing changes")
}

// TestKeptIsNoPipe: an operator's command reads what a control plane keeps, which may have been
// taken over.
func TestKeptIsNoPipe(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "good.bundle")
	require.NoError(t, unix.Mkfifo(file, 0o600))
	_, err := ReadKept(file)
	var broken *BrokenError
	require.ErrorAs(t, err, &broken)
	require.ErrorContains(t, err, "is a pipe, not a regular file")
}
