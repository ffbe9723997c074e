package plan

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSlot(t *testing.T) {
	t.Parallel()
	want := map[Kind]Slot{
		KindHeader:                  {Header: "x-api-key", Prefix: "Key "},
		KindBearer:                  {Header: "authorization", Prefix: "Bearer "},
		KindBasic:                   {Header: "authorization", Prefix: "Basic ", Basic: true},
		KindQuery:                   {Parameter: "key"},
		KindOAuth2ClientCredentials: {Header: "authorization", Prefix: "Bearer "},
		KindOAuth2RefreshToken:      {Header: "authorization", Prefix: "Bearer "},
		KindGitHubApp:               {Header: "authorization", Prefix: "Basic ", Basic: true},
		KindAWSSigV4:                {Header: "authorization", Signs: true},
		KindGCPAccessToken:          {Header: "authorization", Prefix: "Bearer "},
		KindGCPIDToken:              {Header: "authorization", Prefix: "Bearer "},
	}
	require.Len(t, Kinds(), len(want))
	for kind, slot := range want {
		c := &Credential{Kind: kind, Header: "x-api-key", Prefix: "Key ", Parameter: "key", Username: "u"}
		require.Equal(t, slot, c.Slot(), kind)
	}
	require.Equal(t, want[KindBearer], (&Credential{Kind: KindGitHubApp}).Slot())
	for _, kind := range []Kind{"", "Header", "none"} {
		require.Zero(t, (&Credential{Kind: kind, Header: "x-api-key", Parameter: "key"}).Slot(), kind)
		require.False(t, kind.Mints(), kind)
	}
}
