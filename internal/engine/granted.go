package engine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/graph"
	gitsource "github.com/slipway-build/slipway/internal/source/git"
	httpsource "github.com/slipway-build/slipway/internal/source/http"
)

// grantedTo tells which secrets and SSH agents a vertex is given by this run, and where they come from: two runs for which
// that is the same give it the same. It is "" for nearly all vertices.
func (r *Run) grantedTo(v *graph.Vertex) string {
	var ids, agents []string
	switch op := v.Op.Op.(type) {
	case *pb.Op_Exec:
		for _, m := range op.Exec.Mounts {
			switch m.MountType {
			case pb.MountType_SECRET:
				ids = append(ids, m.SecretOpt.GetID())
			case pb.MountType_SSH:
				agents = append(agents, m.SSHOpt.GetID())
			}
		}
		for _, s := range op.Exec.Secretenv {
			ids = append(ids, s.GetID())
		}
	case *pb.Op_Source:
		switch scheme, _, _ := strings.Cut(op.Source.Identifier, "://"); scheme {
		case "http", "https":
			if req, err := httpsource.Parse(op.Source); err == nil { // evaluating it will tell
				ids = req.Secrets()
			}
		case "git":
			if req, err := gitsource.Parse(op.Source); err == nil {
				ids, agents = req.Secrets(), req.Agents()
			}
		}
	}
	return r.granted(ids, agents)
}

// granted tells what secrets and agents are, by their IDs.
func (r *Run) granted(ids, agents []string) string {
	var all []string
	for _, id := range ids {
		if of := r.opt.Secrets.Origin(id); of != "" {
			all = append(all, fmt.Sprintf("secret %q %s", id, of))
		}
	}
	for _, id := range agents {
		if of := r.opt.SSH.Origin(id); of != "" {
			all = append(all, fmt.Sprintf("agent %q %s", id, of))
		}
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), "\n")
}

// grants are those of a node with those of all that it stands on or reads.
func (r *Run) grants(n *node) string {
	all := r.grantedTo(n.v)
	for _, in := range n.inputs {
		if in.n != nil && in.n.granted != "" && in.n.granted != all {
			lines := append(strings.Split(all, "\n"), strings.Split(in.n.granted, "\n")...)
			slices.Sort(lines)
			all = strings.TrimPrefix(strings.Join(slices.Compact(lines), "\n"), "\n")
		}
	}
	return all
}

// sourceKey says what a directory or an image is shared by: the operation, and what of its build decides what it gives. An image of a
// registry is shared by those whom that knows as the same.
func (r *Run) sourceKey(n *node) sourceKey {
	op := n.v.Op.GetSource()
	key := sourceKey{digest: n.v.Digest}
	scheme, _, _ := strings.Cut(op.Identifier, "://")
	switch scheme {
	case "local":
		var err error
		if key.dir, err = r.opt.Contexts.Context(op); err != nil { // evaluating it will tell
			key.dir, key.bound = nil, r.alone()
		}
		return key
	case "docker-image":
		key.bound = r.opt.Images.Account()
	case "oci-layout":
		key.bound = r.alone()
		if l, err := r.layout(op); err == nil {
			key.bound = l.Name()
		}
	}
	key.platform, key.pull = platformName(r, n.v.Op.Platform), r.opt.Pull
	return key
}

// alone is what no other run is called: what the run does not have it does not get from others.
func (r *Run) alone() string { return fmt.Sprintf("run %d", r.id) }

// httpQuestion is what a server is asked, and with what.
func (r *Run) httpQuestion(req *httpsource.Request) string { return req.Key() + "\n" + r.sentWith(req) }

// sentWith tells what of the run decides what a URL gives: an upload, or the secrets that the server is shown.
func (r *Run) sentWith(req *httpsource.Request) string {
	name, is := req.Upload()
	if !is {
		return r.granted(req.Secrets(), nil)
	}
	if files, ok := r.opt.Uploads.(httpsource.UploadedFiles); ok && files[name].Path != "" {
		return "upload " + files[name].Path
	}
	return r.alone() // it has none, and gets none from others, or the client's
}
