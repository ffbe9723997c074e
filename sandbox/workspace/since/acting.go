package since

import (
	"context"
	"os"
	"path"

	"github.com/postern/postern/sandbox/workspace/beneath"
	"github.com/postern/postern/sandbox/workspace/tool"
)

// Acting says who acts on paths in a folder, of which an overlay has another one.
type Acting struct{ merged, host Tools }

// Acts looks in the host's folder, and in what the layer upper makes of that, as [HostTools] does:
// somebody may apply a part of the layer.
func Acts(ctx context.Context, folder string, upper, host *os.File, personal []tool.Named) Acting {
	return Acting{
		merged: search(ctx, folder, beneath.Layers{upper, host}, personal),
		host:   search(ctx, folder, beneath.Layers{host}, personal),
	}
}

// Who says who acts on the file at the path, or "". It says nothing of where links lead.
func (a Acting) Who(at string) string {
	for ; ; at = path.Dir(at) {
		for _, found := range []Tools{a.merged, a.host} {
			if who := found[at].Who; who != "" && who != leadsOut && who != leadsHome {
				return who
			}
		}
		if at == "." {
			return ""
		}
	}
}
