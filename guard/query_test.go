package guard

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/target"
)

func TestStripQuery(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ path, parameter, want string }{
		{"/x", "", "/x"},
		{"/x?", "", "/x?"},
		{"/x?a=1&b", "", "/x?a=1&b"},
		{"/x?&&a=1", "", "/x?&&a=1"},
		{"/x?key=1", "", "/x"},
		{"/x?a=1&key=1&b=2", "", "/x?a=1&b=2"},
		{"/x?KEY=1&a=%26key%3Dx+y", "", "/x?a=%26key%3Dx+y"},
		{"/x?k%65y=1;a=2", "", "/x?;a=2"},
		{"/x?c=1;apikey=2&d", "", "/x?c=1;&d"},
		{"/x?access%20token[]=1&a", "", "/x?a"},
		{"/x?auth+token=1&api.key=1&%41pi-Key", "", "/x"},
		{"/x?+key=1&key%00=1&key+=1&key._=1&a", "", "/x?a"},
		{"/x?keys=1&a?key=2", "", "/x?keys=1&a?key=2"},
		{"/x?%zzkey=1&%6=2&%", "", "/x?%zzkey=1&%6=2&%"},
		{"/x?mine=1&Mi.ne=2&a", "mi-ne", "/x?mine=1&a"},
		{"/x?a%2Bb=1&a+b=2&a%20b=3", "a+b", "/x?a+b=2&a%20b=3"},
		{"/x?api[key=1&my%5Bapi_key=1&my_api_key=1&refresh-token=1&k%2565y=1&[key]=1&a", "", "/x?a"},
		{"/x?page_token=1&next_token=1&sort_key=1&monkey=1&x[key]=1", "", "/x?page_token=1&next_token=1&sort_key=1&monkey=1&x[key]=1"},
		{"/x?%0Bkey=1&a", "", "/x?a"},
		{"/x?app_token=1&bot_token=1&user_key=1&wstoken=1&appid=1&botToken=1&x_passphrase=1&BOT-KEY=1&db_secret=1&a", "", "/x?a"},
		{"/x?$skiptoken=1&client_token=1&nextPageToken=1&token_type=1&max_tokens=1&hotkey=1&foreign_key=1&user=1&key_id=1", "", "/x?$skiptoken=1&client_token=1&nextPageToken=1&token_type=1&max_tokens=1&hotkey=1&foreign_key=1&user=1&key_id=1"},
		{"/x?=1&a", "", "/x?=1&a"},
		{"/x?=1&a", "mine", "/x?=1&a"},
	} {
		require.Equal(t, c.want, stripQuery(c.path, c.parameter), "%s %s", c.path, c.parameter)
	}
}

func TestPutQuery(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ path, want string }{
		{"/x", "/x?my%20key=a%26b%FF"},
		{"/x?", "/x?my%20key=a%26b%FF"},
		{"/x?a", "/x?a&my%20key=a%26b%FF"},
	} {
		got := putQuery(c.path, "my key", "a&b\xff")
		require.Equal(t, c.want, got)
		require.Equal(t, "a&b\xff", queryValue(got, "my key"))
	}
	require.Empty(t, queryValue("/x?a=1&b=2", "a"), "what is not last was not put there")
	require.Empty(t, queryValue("/x", "a"))
}

func TestStripProtocols(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ list, want string }{
		{"", ""},
		{"chat,v2", "chat,v2"},
		{"chat, openai-insecure-api-key.k, Bearer.k, v2", "chat, v2"},
		{"base64url.bearer.authorization.k8s.io.x", ""},
		{"Base64URL.bearer.", ""},
		{"bearer", "bearer"},
		{"token, k", ""},
		{"chat, Bearer, k, v2", "chat, v2"},
		{"access-token.k, jwt.k, apikey.k, x-api-key.k, chat.v2", "chat.v2"},
		{"eyJhbGciOiJIUzI1NiJ9.e30.x, graphql-transport-ws", "graphql-transport-ws"},
		{"v1.token-less, mqtt", "v1.token-less, mqtt"},
	} {
		require.Equal(t, c.want, stripProtocols(c.list), c.list)
	}
}

// FuzzStripQuery: no slot is left, however it is written, and what is not a slot is left
// as it was, in its order.
func FuzzStripQuery(f *testing.F) {
	for _, s := range []string{"/x?a=%26key%3Dx+y&k%65y=1", "/x?c=1;apikey=2", "/x?access%20token[]=1&a&&", "/?%", "/x?key%00[=&;"} {
		f.Add(s, "mine")
	}
	f.Fuzz(func(t *testing.T, path, parameter string) {
		got := stripQuery(path, parameter)
		named := func(p string, slots bool) (out []string) {
			_, query, _ := strings.Cut(p, "?")
			for _, piece := range strings.FieldsFunc(query, func(c rune) bool { return c == '&' || c == ';' }) {
				raw, _, _ := strings.Cut(piece, "=")
				slot := target.Called(raw, func(name string) bool {
					return isParameterSlot(name) || parameter != "" && name == target.Parameter(target.Escape(parameter))
				})
				if slot == slots {
					out = append(out, piece)
				}
			}
			return out
		}
		require.Empty(t, named(got, true))
		require.Equal(t, named(path, false), named(got, false))
		require.Equal(t, got, stripQuery(got, parameter), "once is enough")
		if len(named(path, true)) == 0 {
			require.Equal(t, path, got)
		}
	})
}
