package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// keyVersion changes whenever the same lines would no longer mean the same result. Under those of version 1 there
// may be what an imported cache said.
const keyVersion = "slipway key v2"

// Key is the identity of a vertex's result, known before the vertex runs. Equal keys mean equal
// results, on every machine.
type Key string

// identity is a vertex's key with the lines it was made of.
type identity struct {
	key   Key
	lines []string
	// fresh says that the vertex must run whatever the store holds: its cache is to be ignored,
	// or that of something it consists of.
	fresh bool
}

// keyLines collects labelled lines. A line never contains a line break, so the lines of two keys
// are equal only when all their values are.
type keyLines []string

func (k *keyLines) add(label, value string) {
	if strings.ContainsAny(value, "\n\r") {
		value = fmt.Sprintf("%q", value)
	}
	*k = append(*k, label+" "+value)
}

func (k *keyLines) sum() Key {
	h := sha256.New()
	fmt.Fprintln(h, keyVersion)
	for _, line := range *k {
		fmt.Fprintln(h, line)
	}
	return Key(hex.EncodeToString(h.Sum(nil)))
}

// inputIdentity is what one input contributes to a key: the key of its vertex when the whole of
// it counts, the digest of the selected files otherwise.
type inputIdentity struct {
	index   int
	key     Key
	content digest.Digest
}

// operationLines writes the key of an operation. The digest of the canonical operation alone
// would do; the lines before it are what a miss is explained with.
func operationLines(op *pb.Op, canonical []byte, platform, fidelity string, inputs []inputIdentity) keyLines {
	var k keyLines
	switch o := op.Op.(type) {
	case *pb.Op_Exec:
		k.add("operation", "exec")
		k.add("platform", platform)
		if fidelity != "" { // a result of root's serves everybody who runs as root does, and nobody else
			k.add("fidelity", fidelity)
		}
		k.add("command", strings.Join(o.Exec.Meta.Args, " "))
		for _, env := range o.Exec.Meta.Env {
			k.add("environment", env)
		}
		k.add("directory", o.Exec.Meta.Cwd)
		k.add("user", o.Exec.Meta.User)
		k.add("network", o.Exec.Network.String())
		for _, m := range o.Exec.Mounts {
			k.add("mount", fmt.Sprintf("%s %s from input %d %s", m.Dest, m.MountType, m.Input, m.Selector))
		}
	case *pb.Op_File:
		k.add("operation", "file")
		for _, a := range o.File.Actions {
			k.add("action", actionLine(a))
		}
	case *pb.Op_Merge:
		k.add("operation", "merge")
	case *pb.Op_Diff:
		k.add("operation", "diff")
	case *pb.Op_Passthrough:
		k.add("operation", "passthrough")
	}
	k.add("definition", digest.FromBytes(canonical).String())
	for i, in := range inputs {
		if in.content != "" {
			k.add(fmt.Sprintf("files of input %d", i), in.content.String())
		} else {
			k.add(fmt.Sprintf("input %d", i), fmt.Sprintf("%s output %d", in.key, in.index))
		}
	}
	return k
}

func actionLine(a *pb.FileAction) string {
	switch o := a.Action.(type) {
	case *pb.FileAction_Copy:
		return "copy " + o.Copy.Src + " to " + o.Copy.Dest
	case *pb.FileAction_Mkdir:
		return "mkdir " + o.Mkdir.Path
	case *pb.FileAction_Mkfile:
		return "mkfile " + o.Mkfile.Path
	case *pb.FileAction_Rm:
		return "rm " + o.Rm.Path
	case *pb.FileAction_Symlink:
		return "symlink " + o.Symlink.Newpath
	}
	return "unknown"
}

// imageLines writes the key of an image source: its manifest and the platform.
func imageLines(manifest digest.Digest, platform string) keyLines {
	var k keyLines
	k.add("operation", "image")
	k.add("platform", platform)
	k.add("manifest", manifest.String())
	return k
}

// localLines writes the key of a local source of which everything counts.
func localLines(content digest.Digest) keyLines {
	var k keyLines
	k.add("operation", "local")
	k.add("content", content.String())
	return k
}

// contentMemoKey is the key under which the digest of a selection of files is remembered.
func contentMemoKey(source Key, output int, copies []*pb.FileActionCopy) string {
	var k keyLines
	k.add("operation", "content")
	k.add("source", string(source))
	k.add("output", fmt.Sprint(output))
	for _, c := range copies {
		k.add("selection", selectionLine(c))
	}
	return string(k.sum())
}

// selectionLine holds all fields of a copy that decide which files it reads, and what of them
// counts: owners and modes that the copy sets itself do not ([fileop.SourceDigest]).
func selectionLine(c *pb.FileActionCopy) string {
	return fmt.Sprintf("%q follow=%t contents=%t unpack=%t wildcard=%t/%t include=%q exclude=%q required=%q owners=%t modes=%t",
		c.Src, c.FollowSymlink, c.DirCopyContents, c.AttemptUnpackDockerCompatibility,
		c.AllowWildcard, c.AllowEmptyWildcard, c.IncludePatterns, c.ExcludePatterns, c.RequiredPaths,
		c.Owner == nil, c.ModeStr != "" || c.Mode == -1)
}

func platformName(r *Run, p *pb.Platform) string {
	return platforms.FormatAll(platforms.Normalize(r.platform(p)))
}
