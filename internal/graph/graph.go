// Package graph reads LLB definitions into vertices.
//
// An LLB definition is a list of serialised operations that name each other by digest; the last
// one only points at the result. [Load] turns it into a graph of [Vertex] values and checks that
// it is one: every input exists, nothing depends on itself.
package graph

import (
	"fmt"
	"strings"

	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"github.com/slipway-build/slipway/internal/outbound"
)

// Vertex is one operation with its inputs.
type Vertex struct {
	Digest digest.Digest // of the serialised operation; the vertex's name in progress events
	Op     *pb.Op
	Meta   *pb.OpMetadata // never nil
	Inputs []Edge
	// Sources are the places in Dockerfiles that the operation comes from.
	Sources []*errdefs.Source
}

// Edge is one output of a vertex. The zero Edge is the empty filesystem.
type Edge struct {
	Vertex *Vertex
	Index  int
}

// Name returns what a display calls the vertex. It has no passwords of URLs.
func (v *Vertex) Name() string { return outbound.Redact(v.name()) }

func (v *Vertex) name() string {
	if n := v.Meta.GetDescription()["llb.customname"]; n != "" {
		return n
	}
	switch op := v.Op.Op.(type) {
	case *pb.Op_Source:
		return op.Source.Identifier
	case *pb.Op_Exec:
		return fmt.Sprintf("%q", op.Exec.Meta.GetArgs())
	case *pb.Op_File:
		return fileOpName(op.File)
	case *pb.Op_Merge:
		return "merge"
	case *pb.Op_Diff:
		return "diff"
	}
	return v.Digest.String()
}

// fileOpName has BuildKit's words.
func fileOpName(op *pb.FileOp) string {
	var names []string
	for _, action := range op.Actions {
		switch a := action.Action.(type) {
		case *pb.FileAction_Mkdir:
			names = append(names, "mkdir "+a.Mkdir.Path)
		case *pb.FileAction_Mkfile:
			names = append(names, "mkfile "+a.Mkfile.Path)
		case *pb.FileAction_Symlink:
			names = append(names, "symlink "+a.Symlink.Newpath+" -> "+a.Symlink.Oldpath)
		case *pb.FileAction_Rm:
			names = append(names, "rm "+a.Rm.Path)
		case *pb.FileAction_Copy:
			names = append(names, "copy "+a.Copy.Src+" "+a.Copy.Dest)
		}
	}
	if len(names) == 0 {
		return "file operation"
	}
	return strings.Join(names, ", ")
}

// IgnoreCache reports whether the vertex must run even when its result is known.
func (v *Vertex) IgnoreCache() bool { return v.Meta.GetIgnoreCache() }

// Canonical returns the bytes of the operation without what says nothing of its result: the
// inputs' digests, session names, worker constraints; and without what BuildKit leaves out: proxies,
// the addresses of additional hosts, which cache a mount with an id of its own shows.
func (v *Vertex) Canonical() ([]byte, error) {
	op := v.Op.CloneVT()
	op.Inputs = nil
	op.Constraints = nil
	if exec := op.GetExec(); exec != nil && exec.Meta != nil {
		exec.Meta.ProxyEnv = nil // BuildKit's rule: predefined proxy arguments are in no key
		for _, h := range exec.Meta.ExtraHosts {
			h.IP = ""
		}
		for _, m := range exec.Mounts {
			if namedCache(m) {
				m.CacheOpt.ID, m.CacheOpt.Sharing = "", 0
			}
		}
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(op)
	if err != nil {
		return nil, fmt.Errorf("serialising operation %s: %w", v.Digest, err)
	}
	return data, nil
}

// namedCache reports whether a cache mount has an id or a sharing mode that the Dockerfile gives. The
// id of others is the mount point, maybe below the namespace BUILDKIT_CACHE_MOUNT_NS, and counts: it
// always has (checkShouldClearCacheOpts in BuildKit).
func namedCache(m *pb.Mount) bool {
	if m.CacheOpt == nil {
		return false
	}
	_, inNamespace, _ := strings.Cut(m.CacheOpt.ID, "/")
	return m.CacheOpt.Sharing != pb.CacheSharingOpt_SHARED || m.CacheOpt.ID != m.Dest && inNamespace != m.Dest
}

// Load reads a definition and returns the edge that is its result.
func Load(def *pb.Definition) (Edge, error) {
	if def == nil || len(def.Def) == 0 {
		return Edge{}, nil
	}
	l := loader{def: def, ops: map[digest.Digest]*pb.Op{}, done: map[digest.Digest]*Vertex{}}
	var last *pb.Op
	for _, data := range def.Def {
		op, err := ReadOp(data)
		if err != nil {
			return Edge{}, err
		}
		l.ops[digest.FromBytes(data)] = op
		last = op
	}
	if last.Op != nil || len(last.Inputs) != 1 {
		return Edge{}, fmt.Errorf("reading LLB: the last operation has %d inputs and is no pointer to the result", len(last.Inputs))
	}
	return l.edge(last.Inputs[0])
}

type loader struct {
	def  *pb.Definition
	ops  map[digest.Digest]*pb.Op
	done map[digest.Digest]*Vertex // nil while its inputs are being loaded
}

func (l *loader) edge(in *pb.Input) (Edge, error) {
	v, err := l.vertex(digest.Digest(in.Digest))
	if err != nil {
		return Edge{}, err
	}
	if in.Index < 0 {
		return Edge{}, fmt.Errorf("reading LLB: negative output index %d", in.Index)
	}
	return Edge{Vertex: v, Index: int(in.Index)}, nil
}

func (l *loader) vertex(d digest.Digest) (*Vertex, error) {
	if v, ok := l.done[d]; ok {
		if v == nil {
			return nil, fmt.Errorf("reading LLB: operation %s depends on itself", d)
		}
		return v, nil
	}
	op, ok := l.ops[d]
	if !ok {
		return nil, fmt.Errorf("reading LLB: operation %s is missing", d)
	}
	if err := validate(op); err != nil {
		return nil, fmt.Errorf("reading LLB: operation %s: %w", d, err)
	}
	l.done[d] = nil
	v := &Vertex{Digest: d, Op: op, Meta: l.def.Metadata[d.String()], Sources: l.sources(d)}
	if v.Meta == nil {
		v.Meta = &pb.OpMetadata{}
	}
	for _, in := range op.Inputs {
		e, err := l.edge(in)
		if err != nil {
			return nil, err
		}
		v.Inputs = append(v.Inputs, e)
	}
	l.done[d] = v
	return v, nil
}

func (l *loader) sources(d digest.Digest) []*errdefs.Source {
	src := l.def.Source
	if src == nil || src.Locations[d.String()] == nil {
		return nil
	}
	var all []*errdefs.Source
	for _, loc := range src.Locations[d.String()].Locations {
		// The images of "--mount=from=" have a location without a line.
		if int(loc.SourceIndex) < 0 || int(loc.SourceIndex) >= len(src.Infos) || len(Ranges(loc.Ranges)) == 0 {
			continue
		}
		all = append(all, &errdefs.Source{Info: src.Infos[loc.SourceIndex], Ranges: Ranges(loc.Ranges)})
	}
	return all
}

// Ranges are those of some ranges that have a beginning. Each has an end as well, as whoever prints them takes for granted:
// where none is said, the beginning.
func Ranges(all []*pb.Range) []*pb.Range {
	var whole []*pb.Range
	for _, r := range all {
		switch {
		case r == nil || r.Start == nil:
		case r.End == nil:
			whole = append(whole, &pb.Range{Start: r.Start, End: r.Start})
		default:
			whole = append(whole, r)
		}
	}
	return whole
}
