package sandbox

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSettingsStayHidden: what the host renames while an agent runs shows the agent no settings: a
// file that is replaced, a folder that is, and a file that is renamed to a name that was shown.
func TestSettingsStayHidden(t *testing.T) {
	t.Parallel()
	eachCaller(t, func(t *testing.T, b *box) {
		node := ".nvm/versions/node/v20/"
		npmrc := b.write(t, node+"etc/npmrc", canary)
		builtin := b.write(t, node+"lib/node_modules/npm/npmrc", canary)
		plain := b.write(t, node+"lib/node_modules/npm/package.json", "{}")
		program := b.write(t, node+"bin/node", "#!/bin/sh\necho node\n")
		hidden := b.write(t, node+"bin/.env", canary)
		require.NoError(t, os.Chmod(program, 0o755))
		b.env = append(b.env, "PATH="+filepath.Dir(program)+":/usr/bin:/bin")
		cmd := b.command(t, "sh", "-c", `node; cat ~/.nvm/versions/node/v20/lib/node_modules/npm/package.json; echo; read x; cd ~/.nvm; cat $(find . -type f) || true; echo end`)
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		cmd.Stderr = os.Stderr
		require.NoError(t, cmd.Start())
		line := lineReader(out)
		require.Equal(t, "node", line(t))
		require.Equal(t, "{}", line(t))
		for _, path := range []string{npmrc, builtin, hidden} {
			require.NoError(t, os.WriteFile(path+".new", []byte(canary), 0o644))
			require.NoError(t, os.Rename(path+".new", path))
		}
		for _, dir := range []string{filepath.Dir(npmrc), filepath.Dir(builtin)} {
			require.NoError(t, os.Rename(dir, dir+".old"))
			require.NoError(t, os.Mkdir(dir, 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "npmrc"), []byte(canary), 0o644))
		}
		require.NoError(t, os.WriteFile(plain+".new", []byte(canary), 0o644))
		require.NoError(t, os.Rename(plain+".new", plain))
		_, err = io.WriteString(in, "go\n")
		require.NoError(t, err)
		require.NoError(t, in.Close())
		for {
			said := line(t)
			require.NotContains(t, said, canary)
			if said == "end" {
				break
			}
		}
		require.NoError(t, cmd.Wait())
	})
}
