package engine

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/fileop"
	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/layer"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func shm(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "slipway-engine-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// parts are what a key is made of.
type parts struct {
	op       *pb.Op
	platform string
	fidelity string
	inputs   []inputIdentity
}

func (p *parts) exec() *pb.ExecOp         { return p.op.GetExec() }
func (p *parts) copy() *pb.FileActionCopy { return p.op.GetFile().Actions[0].GetCopy() }

func (p *parts) lines(t testing.TB) keyLines {
	t.Helper()
	data, err := (&graph.Vertex{Op: p.op, Meta: &pb.OpMetadata{}}).Canonical()
	must(t, err)
	return operationLines(p.op, data, p.platform, p.fidelity, p.inputs)
}

func execParts() *parts {
	return &parts{
		platform: "linux/amd64",
		inputs:   []inputIdentity{{key: "base"}, {content: digest.FromString("files")}},
		op: &pb.Op{
			Inputs: []*pb.Input{{Digest: "sha256:1"}, {Digest: "sha256:2"}},
			Op: &pb.Op_Exec{Exec: &pb.ExecOp{
				Meta: &pb.Meta{Args: []string{"sh", "-c", "make all"}, Env: []string{"A=1", "B=2"}, Cwd: "/src", User: "app"},
				Mounts: []*pb.Mount{
					{Dest: "/", Input: 0, Output: 0},
					{Dest: "/bind", Input: 1, Output: -1, Selector: "/sub", Readonly: true},
					{Dest: "/cache", Input: -1, Output: -1, MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "go"}},
				},
			}},
		},
	}
}

func copyParts() *parts {
	return &parts{
		platform: "linux/amd64",
		inputs:   []inputIdentity{{key: "base"}, {content: digest.FromString("files")}},
		op: &pb.Op{Op: &pb.Op_File{File: &pb.FileOp{Actions: []*pb.FileAction{{Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{
			Src: "/a", Dest: "/b", Mode: -1, Timestamp: -1,
		}}}}}}},
	}
}

func TestKeyChanges(t *testing.T) {
	tests := []struct {
		name   string
		make   func() *parts
		change func(p *parts)
		same   bool
		line   string // the line that a miss is explained with
	}{
		{"nothing", execParts, func(*parts) {}, true, ""},
		{"digest of an input's vertex", execParts, func(p *parts) { p.op.Inputs[0].Digest = "sha256:3" }, true, ""},
		{"proxy", execParts, func(p *parts) { p.exec().Meta.ProxyEnv = &pb.ProxyEnv{HttpProxy: "http://p", NoProxy: "x"} }, true, ""},
		{"constraints", execParts, func(p *parts) { p.op.Constraints = &pb.WorkerConstraints{Filter: []string{"x"}} }, true, ""},
		{"key of an input", execParts, func(p *parts) { p.inputs[0].key = "other" }, false, "input 0 other output 0"},
		{"output of an input", execParts, func(p *parts) { p.inputs[0].index = 1 }, false, "input 0 base output 1"},
		{"content of an input", execParts, func(p *parts) { p.inputs[1].content = digest.FromString("other") }, false, "files of input 1 " + digest.FromString("other").String()},
		{"order of inputs", execParts, func(p *parts) { p.inputs[0], p.inputs[1] = p.inputs[1], p.inputs[0] }, false, "files of input 0 " + digest.FromString("files").String()},
		{"platform", execParts, func(p *parts) { p.platform = "linux/arm64" }, false, "platform linux/arm64"},
		{"fidelity", execParts, func(p *parts) { p.fidelity = "in place" }, false, "fidelity in place"},
		{"copy: fidelity", copyParts, func(p *parts) { p.fidelity = "in place" }, true, ""},
		{"command", execParts, func(p *parts) { p.exec().Meta.Args[2] = "make" }, false, "command sh -c make"},
		{"split of the command", execParts, func(p *parts) { p.exec().Meta.Args = []string{"sh", "-c make all"} }, false, ""},
		{"environment", execParts, func(p *parts) { p.exec().Meta.Env[1] = "B=3" }, false, "environment B=3"},
		{"order of the environment", execParts, func(p *parts) { p.exec().Meta.Env = []string{"B=2", "A=1"} }, false, ""},
		{"split of the environment", execParts, func(p *parts) { p.exec().Meta.Env = []string{"A=1\nenvironment B=2"} }, false, `environment "A=1\nenvironment B=2"`},
		{"directory", execParts, func(p *parts) { p.exec().Meta.Cwd = "/" }, false, "directory /"},
		{"user", execParts, func(p *parts) { p.exec().Meta.User = "root" }, false, "user root"},
		{"network", execParts, func(p *parts) { p.exec().Network = pb.NetMode_NONE }, false, "network NONE"},
		{"security", execParts, func(p *parts) { p.exec().Security = pb.SecurityMode_INSECURE }, false, ""},
		{"hosts", execParts, func(p *parts) { p.exec().Meta.ExtraHosts = []*pb.HostIP{{Host: "a", IP: "1.2.3.4"}} }, false, ""},
		{"address of a host", func() *parts {
			p := execParts()
			p.exec().Meta.ExtraHosts = []*pb.HostIP{{Host: "a", IP: "1.2.3.4"}}
			return p
		}, func(p *parts) { p.exec().Meta.ExtraHosts[0].IP = "4.3.2.1" }, true, ""},
		{"valid exit codes", execParts, func(p *parts) { p.exec().Meta.ValidExitCodes = []int32{1} }, false, ""},
		{"place of a mount", execParts, func(p *parts) { p.exec().Mounts[1].Dest = "/other" }, false, "mount /other BIND from input 1 /sub"},
		{"selector of a mount", execParts, func(p *parts) { p.exec().Mounts[1].Selector = "/x" }, false, "mount /bind BIND from input 1 /x"},
		{"read-only mount", execParts, func(p *parts) { p.exec().Mounts[1].Readonly = false }, false, ""},
		{"one mount more", execParts, func(p *parts) {
			p.exec().Mounts = append(p.exec().Mounts, &pb.Mount{Dest: "/t", Input: -1, MountType: pb.MountType_TMPFS})
		}, false, "mount /t TMPFS from input -1 "},
		{"cache id", execParts, func(p *parts) { p.exec().Mounts[2].CacheOpt.ID = "npm" }, true, ""},
		{"cache sharing", execParts, func(p *parts) { p.exec().Mounts[2].CacheOpt.Sharing = pb.CacheSharingOpt_LOCKED }, true, ""},
		{"cache id of the mount's place", execParts, func(p *parts) { p.exec().Mounts[2].CacheOpt.ID = "ns/" + p.exec().Mounts[2].Dest }, false, ""},
		{"copy: nothing", copyParts, func(*parts) {}, true, ""},
		{"copy: source", copyParts, func(p *parts) { p.copy().Src = "/x" }, false, "action copy /x to /b"},
		{"copy: destination", copyParts, func(p *parts) { p.copy().Dest = "/x" }, false, "action copy /a to /x"},
		{"copy: owner", copyParts, func(p *parts) { p.copy().Owner = &pb.ChownOpt{} }, false, ""},
		{"copy: mode", copyParts, func(p *parts) { p.copy().Mode = 0o600 }, false, ""},
		{"copy: content", copyParts, func(p *parts) { p.inputs[1].content = digest.FromString("other") }, false, "files of input 1 " + digest.FromString("other").String()},
		{"another operation", copyParts, func(p *parts) { p.op = &pb.Op{Op: &pb.Op_Merge{Merge: &pb.MergeOp{}}} }, false, "operation merge"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := tt.make()
			tt.change(p)
			before, after := tt.make().lines(t), p.lines(t)
			if same := before.sum() == after.sum(); same != tt.same {
				t.Errorf("the key is the same: %t, want %t\n%s", same, tt.same, strings.Join(after, "\n"))
			}
			line := slices.IndexFunc(after, func(l string) bool { return !slices.Contains(before, l) && !strings.HasPrefix(l, "definition ") })
			if tt.line != "" && (line < 0 || after[line] != tt.line) {
				t.Errorf("the line that tells the change is number %d of\n%s\nwant %q", line, strings.Join(after, "\n"), tt.line)
			}
			if tt.line == "" && line >= 0 {
				t.Errorf("a line of its own tells the change: %s", after[line])
			}
		})
	}
}

// The format of a key is part of the on-disk format: when this fails, keyVersion must change.
func TestKeyIsStable(t *testing.T) {
	for name, want := range map[string]Key{
		"exec":  "fd744e9f5299e0cb3b0c2dd515127f45427af0a3802e73ab21a975be4b02967e",
		"copy":  "1556cfb924c7bc689735b56071a798877218184ec46a2050ee85bfab047b0b45",
		"image": "100378c8eb4af8a46e725536af778b412a1fd8f16f05f0618e4605d24478b7a0",
		"local": "b8cee2ba98d15fb6fcd9548cf65d923ca29af2312c62f20ac12b036a791acc25",
	} {
		lines := map[string]keyLines{
			"exec": execParts().lines(t), "copy": copyParts().lines(t),
			"image": imageLines(digest.FromString("m"), "linux/amd64"), "local": localLines(digest.FromString("c")),
		}[name]
		if got := lines.sum(); got != want {
			t.Errorf("the key of %s is %s, want %s; its lines:\n%s", name, got, want, strings.Join(lines, "\n"))
		}
	}
}

func TestKeyLinesAreLines(t *testing.T) {
	var one, two keyLines
	one.add("a", "b\nc d")
	two.add("a", "b")
	two.add("c", "d")
	if len(one) != 1 || strings.ContainsAny(one[0], "\n\r") {
		t.Errorf("a value with a line break gave %q", one)
	}
	if one.sum() == two.sum() {
		t.Error("a line break makes two lines of one")
	}
	seen := map[Key]bool{}
	for _, lines := range []keyLines{
		imageLines(digest.FromString("a"), "x"), imageLines(digest.FromString("b"), "x"),
		imageLines(digest.FromString("a"), "y"), localLines(digest.FromString("a")),
	} {
		seen[lines.sum()] = true
	}
	if len(seen) != 4 {
		t.Errorf("four different sources have %d keys", len(seen))
	}
}

// Which files a copy selects, and what of them counts, decides what its memo is found by.
func TestSelection(t *testing.T) {
	base := func() *pb.FileActionCopy { return &pb.FileActionCopy{Src: "/a", Dest: "/b", Mode: -1, Timestamp: -1} }
	tests := []struct {
		name   string
		change func(c *pb.FileActionCopy)
		same   bool
	}{
		{"nothing", func(*pb.FileActionCopy) {}, true},
		{"destination", func(c *pb.FileActionCopy) { c.Dest = "/c" }, true},
		{"time", func(c *pb.FileActionCopy) { c.Timestamp = 1 }, true},
		{"parents of the destination", func(c *pb.FileActionCopy) { c.CreateDestPath = true }, true},
		{"replacing", func(c *pb.FileActionCopy) { c.AlwaysReplaceExistingDestPaths = true }, true},
		{"source", func(c *pb.FileActionCopy) { c.Src = "/c" }, false},
		{"links", func(c *pb.FileActionCopy) { c.FollowSymlink = true }, false},
		{"contents", func(c *pb.FileActionCopy) { c.DirCopyContents = true }, false},
		{"archives", func(c *pb.FileActionCopy) { c.AttemptUnpackDockerCompatibility = true }, false},
		{"wildcard", func(c *pb.FileActionCopy) { c.AllowWildcard = true }, false},
		{"empty wildcard", func(c *pb.FileActionCopy) { c.AllowEmptyWildcard = true }, false},
		{"include", func(c *pb.FileActionCopy) { c.IncludePatterns = []string{"x"} }, false},
		{"exclude", func(c *pb.FileActionCopy) { c.ExcludePatterns = []string{"x"} }, false},
		{"required", func(c *pb.FileActionCopy) { c.RequiredPaths = []string{"x"} }, false},
		{"owner", func(c *pb.FileActionCopy) { c.Owner = &pb.ChownOpt{} }, false},
		{"mode", func(c *pb.FileActionCopy) { c.Mode = 0o644 }, false},
	}
	memo := func(c *pb.FileActionCopy) string { return contentMemoKey("source", 0, []*pb.FileActionCopy{c}) }
	for _, tt := range tests {
		c := base()
		tt.change(c)
		if same := selectionLine(c) == selectionLine(base()); same != tt.same {
			t.Errorf("with another %s the selection is the same: %t, want %t", tt.name, same, tt.same)
		}
		if same := memo(c) == memo(base()); same != tt.same {
			t.Errorf("with another %s the memo is the same: %t, want %t", tt.name, same, tt.same)
		}
	}
	two := []*pb.FileActionCopy{base(), base()}
	for what, other := range map[string]string{
		"another source": contentMemoKey("other", 0, two[:1]), "another output": contentMemoKey("source", 1, two[:1]), "two copies": contentMemoKey("source", 0, two),
	} {
		if other == memo(base()) {
			t.Errorf("%s has the same memo", what)
		}
	}
}

// Whatever changes the digest of the same files changes the line that it is remembered by.
func TestSelectionCoversDigest(t *testing.T) {
	dir := shm(t)
	must(t, os.Mkdir(dir+"/d", 0o755))
	for i, mode := range []os.FileMode{0o600, 0o644, 0o755} {
		must(t, os.WriteFile(fmt.Sprintf("%s/d/%d.x", dir, i), []byte{byte(i)}, mode))
	}
	must(t, os.Symlink("d", dir+"/link"))
	tree := layer.OpenDir(dir, layer.DirOptions{})
	digests := map[string]digest.Digest{}
	for n := range 1 << 8 {
		bit := func(i int) bool { return n>>i&1 == 1 }
		c := &pb.FileActionCopy{Src: "/d", Dest: "/x", Mode: -1, FollowSymlink: bit(0), DirCopyContents: bit(1), AllowWildcard: bit(2), CreateDestPath: bit(3)}
		if bit(4) {
			c.Owner = &pb.ChownOpt{}
		}
		if bit(5) {
			c.Mode = 0o700
		}
		if bit(6) {
			c.Src = "/link"
		}
		if bit(7) {
			c.ExcludePatterns = []string{"**/1.x"}
		}
		d, err := fileop.SourceDigest(context.Background(), tree, []*pb.FileActionCopy{c}, nil)
		must(t, err)
		line := selectionLine(c)
		if have, ok := digests[line]; ok && have != d {
			t.Errorf("the selection %s has two digests", line)
		}
		digests[line] = d
	}
}

func TestUses(t *testing.T) {
	n := &node{v: &graph.Vertex{Op: execParts().op}, inputs: make([]edge, 2)}
	n.v.Op.GetExec().Mounts = append(n.v.Op.GetExec().Mounts, &pb.Mount{Dest: "/again", Input: 1, Output: -1, Selector: "other"})
	uses, err := n.uses()
	must(t, err)
	if !uses[0].whole || uses[0].copies != nil {
		t.Errorf("the root is used as %+v", uses[0])
	}
	if uses[1].whole || len(uses[1].copies) != 2 || uses[1].copies[0].Src != "/sub" || uses[1].copies[1].Src != "/other" {
		t.Errorf("bind mounts use %+v", uses[1])
	}
	n.v.Op.GetExec().Mounts[1].Output = 1 // its changes become a layer
	if uses, _ := n.uses(); !uses[1].whole || uses[1].copies != nil {
		t.Errorf("a mount with an output uses %+v", uses[1])
	}
	n.v.Op.GetExec().Mounts[1].Input = 2
	if _, err := n.uses(); err == nil || !strings.Contains(err.Error(), "/bind uses input 2 of 2") {
		t.Errorf("an input that is not there gave %v", err)
	}
	merge := &node{v: &graph.Vertex{Op: &pb.Op{Op: &pb.Op_Merge{Merge: &pb.MergeOp{}}}}, inputs: make([]edge, 3)}
	if uses, _ := merge.uses(); len(uses) != 3 || !uses[0].whole || !uses[2].whole {
		t.Errorf("a merge uses %+v", uses)
	}
}
