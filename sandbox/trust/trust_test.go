package trust

import (
	"crypto/sha1" //nolint:gosec // the format's
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBundle(t *testing.T) {
	t.Parallel()
	require.Equal(t, "system\nown", string(Bundle([]byte("system\n"), []byte("own"))))
	require.Equal(t, "system\nown", string(Bundle([]byte("system"), []byte("own"))))
	require.Equal(t, "own", string(Bundle(nil, []byte("own"))))
}

// TestKeyStore reads what Java would: two certificates, and the digest over all of it.
func TestKeyStore(t *testing.T) {
	t.Parallel()
	const cert = "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"
	store := KeyStore([]byte(cert + "noise\n" + cert))
	body, digest := store[:len(store)-sha1.Size], store[len(store)-sha1.Size:]
	entry := func(alias string) string {
		length := string(binary.BigEndian.AppendUint16(nil, uint16(len(alias))))
		return "\x00\x00\x00\x02" + length + alias + "\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00\x05X.509" + "\x00\x00\x00\x03ABC"
	}
	require.Equal(t, "\xfe\xed\xfe\xed\x00\x00\x00\x02\x00\x00\x00\x02"+entry("root0")+entry("root1"), string(body))
	//nolint:gosec // the format's
	want := sha1.Sum([]byte("\x00c\x00h\x00a\x00n\x00g\x00e\x00i\x00tMighty Aphrodite" + string(body)))
	require.Equal(t, want[:], digest)
}
