package plan

import "strings"

// File is a file of the host that a plan names.
type File struct {
	// What says what the file is for, such as "the secret of credential github".
	What string
	// Path is absolute.
	Path string
	// Socket means that the file is a socket, which some service creates.
	Socket bool
}

// Files returns the files of the host that the plan names: secrets and helpers of credentials, and
// the sockets of destinations.
func (p *Plan) Files() []File {
	var files []File
	for _, c := range p.Credentials {
		switch r, err := ParseReference(c.Secret); {
		case err != nil: // the control plane closes the credential, and says why
		case r.Source == SourceFile:
			files = append(files, File{What: "the secret of credential " + c.Name, Path: r.Name})
		case r.Source == SourceExec:
			files = append(files, File{What: "the helper of credential " + c.Name, Path: r.Name})
		}
	}
	seen := map[string]bool{}
	for _, a := range p.Agents {
		for _, r := range a.Rules {
			if r.Upstream == nil {
				continue
			}
			if path, ok := strings.CutPrefix(r.Upstream.Address, "unix:"); ok && !seen[path] {
				seen[path] = true
				files = append(files, File{What: "the socket of " + r.Host, Path: path, Socket: true})
			}
		}
	}
	return files
}
