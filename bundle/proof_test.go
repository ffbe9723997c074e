package bundle

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestProofsAreSigned: a report counts for the publication for which an operator signed it, and for
// no other.
func TestProofsAreSigned(t *testing.T) {
	t.Parallel()
	o := folder(t, "test")
	first := o.store(t, policy("one.test"))
	require.NoError(t, o.KeepProof(t.Context(), first, []byte(`{"result":"holds"}`)))
	p, err := o.Proof(t.Context(), first)
	require.NoError(t, err)
	require.JSONEq(t, `{"result":"holds"}`, string(p.Report))
	require.NotEmpty(t, p.By)

	second := o.store(t, policy("two.test"))
	_, err = o.Proof(t.Context(), second)
	require.Error(t, err, "nobody has signed one")

	attack := func(what, says string, sealed []byte) {
		o.plant(t, object(second.Seq, suffixProof), string(sealed))
		_, err := o.Proof(t.Context(), second)
		require.ErrorContains(t, err, says, what)
	}
	kept, err := o.fetch(t.Context(), object(first.Seq, suffixProof), maxBundle)
	require.NoError(t, err)
	attack("that of another publication", "in the place of proof/1 number", kept)
	attack("a publication", "in the place of proof/1 number", second.Sealed())
	attack("torn", "it is torn", kept[:20])

	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	forge := func(key ed25519.PrivateKey, hash string) []byte {
		payload, err := json.Marshal(&Proof{Hash: hash, Report: []byte(`{"result":"holds"}`)})
		require.NoError(t, err)
		sealed, err := seal(key, kindProof, o.Stack, second.Seq, payload)
		require.NoError(t, err)
		return sealed
	}
	attack("somebody else's", "not one of the operators' keys", forge(stranger, second.Hash()))
	own, err := readKey(o.Key)
	require.NoError(t, err)
	attack("of another one with that number", "for another publication of that number", forge(own, first.Hash()))
}
