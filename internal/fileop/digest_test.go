package fileop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"github.com/slipway-build/slipway/internal/layer"
	"golang.org/x/sys/unix"
)

func sourceDigest(t *testing.T, tree layer.Tree, copies ...*pb.FileActionCopy) digest.Digest {
	t.Helper()
	d, err := SourceDigest(context.Background(), tree, copies, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The digest changes with what a copy reads, and with nothing else.
func TestSourceDigest(t *testing.T) {
	base := []string{"app/main.go=main", "app/a/b/c.txt=c", "app/a/x@600:5:6=x", "one@750:7:8=1", "two=2", "link->app", "other=o"}
	noDir := func(c *pb.FileActionCopy) { c.DirCopyContents = false }
	chown := func(c *pb.FileActionCopy) { c.Owner = byID(1, 1) }
	chmod := func(c *pb.FileActionCopy) { c.Mode = 0o644 }
	symbolic := func(c *pb.FileActionCopy) { c.ModeStr = "u+x" }
	noFollow := func(c *pb.FileActionCopy) { c.FollowSymlink = false }
	only := func(c *pb.FileActionCopy) { c.IncludePatterns = []string{"a/b"} }
	without := func(c *pb.FileActionCopy) { c.ExcludePatterns = []string{"a/b"} }
	tests := []struct {
		name   string
		copy   *pb.FileActionCopy
		from   string // a line of base
		to     string
		differ bool
	}{
		{"content", cp("one", "/"), "one@750:7:8=1", "one@750:7:8=2", true},
		{"mode", cp("one", "/"), "one@750:7:8=1", "one@700:7:8=1", true},
		{"mode overridden", cp("one", "/", chmod), "one@750:7:8=1", "one@700:7:8=1", false},
		{"mode changed", cp("one", "/", symbolic), "one@750:7:8=1", "one@700:7:8=1", true},
		{"owner", cp("one", "/"), "one@750:7:8=1", "one@750:7:9=1", true},
		{"owner overridden", cp("one", "/", chown), "one@750:7:8=1", "one@750:0:9=1", false},
		{"not selected", cp("one", "/"), "other=o", "other=p", false},
		{"below", cp("app", "/x"), "app/a/b/c.txt=c", "app/a/b/c.txt=d", true},
		{"name below", cp("app", "/x"), "app/a/b/c.txt=c", "app/a/b/d.txt=c", true},
		{"moved below", cp("app", "/x"), "app/a/b/c.txt=c", "app/a/c.txt=c", true},
		{"through a link", cp("link/main.go", "/x"), "app/main.go=main", "app/main.go=niam", true},
		{"link itself", cp("link", "/x", noFollow), "link->app", "link->one", true},
		{"target of link itself", cp("link", "/x", noFollow), "app/main.go=main", "app/main.go=niam", false},
		{"wildcard", cp("/*o*", "/"), "two=2", "two=3", true},
		{"wildcard name", cp("/*o*", "/"), "two=2", "owt=2", true},
		{"not in wildcard", cp("/*n*", "/x/"), "two=2", "two=3", false},
		{"included", cp("app", "/x", only), "app/a/b/c.txt=c", "app/a/b/c.txt=d", true},
		{"not included", cp("app", "/x", only), "app/main.go=main", "app/main.go=niam", false},
		{"excluded", cp("app", "/x", without), "app/a/b/c.txt=c", "app/a/b/c.txt=d", false},
		{"not excluded", cp("app", "/x", without), "app/main.go=main", "app/main.go=niam", true},
		{"type", cp("/", "/x"), "two=2", "two->2", true},
		{"dir itself", cp("app", "/x", noDir), "app/main.go=main", "app/main.go=niam", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var changed []string
			for _, l := range base {
				if l == tt.from {
					l = tt.to
				}
				changed = append(changed, l)
			}
			before, after := sourceDigest(t, memory(t, base...), tt.copy), sourceDigest(t, memory(t, changed...), tt.copy)
			if (before != after) != tt.differ {
				t.Errorf("%s -> %s: digests differ: %v, want %v", tt.from, tt.to, before != after, tt.differ)
			}
		})
	}
	// The root of a copied directory brings its attributes only when it becomes a directory itself.
	a, b := memory(t, "d@700:1:1", "d/f=1"), memory(t, "d@755:2:2", "d/f=1")
	if sourceDigest(t, a, cp("d", "/x")) != sourceDigest(t, b, cp("d", "/x")) {
		t.Error("attributes of a directory count of which only the contents are copied")
	}
	if sourceDigest(t, a, cp("d", "/x", noDir)) == sourceDigest(t, b, cp("d", "/x", noDir)) {
		t.Error("attributes of a directory that is copied do not count")
	}
}

// The lines are part of keys that outlive the program: when they change, sourceVersion must.
func TestSourceLines(t *testing.T) {
	if sourceVersion != "slipway copy source v1" {
		t.Fatal("another version has other lines: change this test")
	}
	p := newPlan(memory(t, "d@2755:1:2", "d/empty@600:0:0=", "d/\"\u00e9\"@4711:0:4294967295=x", "d/up->../\n", "f=1"), "")
	two := &linkSet{}
	file := layer.Entry{Mode: unix.S_IFREG | 0o640, Size: 1, Content: layer.Bytes("z"), Xattrs: map[string]string{"user.b": "\x00", "user.a": "a"}}
	for name, links := range map[string]*linkSet{"d/one": two, "d/two": two} {
		if err := p.put(name, file, links); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.put("d/dev", layer.Entry{Mode: unix.S_IFCHR | 0o666, Major: 5, Minor: 300}, nil); err != nil {
		t.Fatal(err)
	}
	const lines = `copy 0
match "d"
directory "" mode 2755 owner 1:2
file "\"é\"" mode 4711 owner 0:4294967295 content sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881
special 20000 "dev" mode 0666 owner 0:0 device 5:300
file "empty" mode 0600 owner 0:0 content sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
file "one" mode 0640 owner 0:0 xattr "user.a"="a" xattr "user.b"="\x00" content sha256:594e519ae499312b29433b7dd8a97ff068defcba9755b6d5d00e84c524d67b06
file "two" same file as "one"
symlink "up" owner 0:0 target "../\n"
copy 1
match ""
directory ""
file "\"é\"" content sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881
copy 2
match "f"
file "" mode 0644 owner 0:0 content sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b
`
	copies := []*pb.FileActionCopy{
		cp("/d", "/", func(c *pb.FileActionCopy) { c.DirCopyContents = false }),
		cp("/d", "/", func(c *pb.FileActionCopy) {
			c.IncludePatterns, c.Owner, c.Mode = []string{"\"*"}, byID(1, 1), 0o644
		}),
		cp("/f", "/"),
	}
	for _, known := range []bool{false, true} { // contents that are known go another way
		var tree layer.Tree = p
		if known {
			tree = digested{p}
		}
		var b strings.Builder
		if err := describeSources(context.Background(), &b, tree, copies, nil, nil); err != nil || b.String() != lines {
			t.Errorf("known contents %v: got\n%s%v, want\n%s", known, b.String(), err, lines)
		}
	}
}

// digested knows the contents of every other file.
type digested struct{ layer.Tree }

func (d digested) ReadDir(name string) ([]*layer.Entry, error) {
	list, err := d.Tree.ReadDir(name)
	for i, e := range list {
		if i%2 == 0 && e.IsRegular() && e.Digest == "" {
			if e.Digest, err = layer.HashContent(e); err != nil {
				return nil, err
			}
		}
	}
	return list, err
}

// A long description is written in pieces, wherever contents are not known.
func TestSourceOfManyFiles(t *testing.T) {
	var files []string
	for i := range 3000 {
		files = append(files, fmt.Sprintf("%s/%d=%d", strings.Repeat("d", i%50+1), i, i))
	}
	tree := memory(t, files...)
	var want, got strings.Builder
	for w, tree := range map[*strings.Builder]layer.Tree{&want: tree, &got: digested{tree}} {
		if err := describeSources(context.Background(), w, tree, []*pb.FileActionCopy{cp("/", "/")}, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if want.String() != got.String() || strings.Count(got.String(), "content sha256:") != 3000 {
		t.Error("the lines depend on which contents are known")
	}
}

func TestSourceDigestMissing(t *testing.T) {
	tree := memory(t, "a=1")
	for _, c := range []*pb.FileActionCopy{
		cp("missing.txt", "/"),
		cp("/z*", "/", func(c *pb.FileActionCopy) { c.AllowEmptyWildcard = false }),
		cp("/", "/", func(c *pb.FileActionCopy) { c.IncludePatterns, c.RequiredPaths = []string{"q"}, []string{"/q"} }),
	} {
		_, err := SourceDigest(context.Background(), tree, []*pb.FileActionCopy{c}, nil)
		_, made := act(t, memory(t), tree, c)
		if err == nil || made == nil || !strings.Contains(made.Error(), err.Error()) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v: digest fails with %v, copy with %v", c, err, made)
		}
	}
	sourceDigest(t, tree, cp("/z*", "/")) // nothing matches, and that is fine
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := SourceDigest(ctx, tree, []*pb.FileActionCopy{cp("a", "/")}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestSourceDigestHasher(t *testing.T) {
	tree := memory(t, "a=1", "b=2", "empty=")
	var calls atomic.Int32
	count := func(e *layer.Entry) (digest.Digest, error) {
		calls.Add(1)
		return layer.HashContent(e)
	}
	copies := []*pb.FileActionCopy{cp("/", "/")}
	d, err := SourceDigest(context.Background(), tree, copies, count)
	if err != nil || d != sourceDigest(t, tree, copies...) || calls.Load() != 2 {
		t.Errorf("%v, %v after %d calls", d, err, calls.Load())
	}
	failing := func(*layer.Entry) (digest.Digest, error) { return "", errors.New("unreadable") }
	if _, err := SourceDigest(context.Background(), tree, copies, failing); err == nil || !strings.Contains(err.Error(), `digesting "/`) {
		t.Errorf("failing hasher: %v", err)
	}
	var b bytes.Buffer
	if err := describeSources(context.Background(), &b, tree, copies, nil, nil); err != nil || !strings.Contains(b.String(), `file "a" mode 0644 owner 0:0 content sha256:6b86b273`) {
		t.Errorf("explained as %s, %v", b.String(), err)
	}
}

func TestUsage(t *testing.T) {
	c, named := cp("a", "/"), cp("b", "/", func(c *pb.FileActionCopy) {
		c.Owner = byName("u", "")
		c.Owner.User.GetByName().Input = 2
	})
	op := &pb.FileOp{Actions: []*pb.FileAction{
		{Input: 0, SecondaryInput: 1, Output: -1, Action: &pb.FileAction_Copy{Copy: c}},
		{Input: 4, SecondaryInput: 1, Output: 0, Action: &pb.FileAction_Copy{Copy: named}},
	}}
	u, err := Usage(op, 4)
	if err != nil {
		t.Fatal(err)
	}
	if !u[0].Whole || u[1].Whole || !u[2].Whole || u[3].Whole || len(u[1].Copies) != 2 || u[1].Copies[1] != named || len(u[0].Copies) != 0 {
		t.Errorf("usage %+v", u)
	}
	for _, bad := range []int64{-2, 7} {
		if _, err := Usage(&pb.FileOp{Actions: []*pb.FileAction{{Input: bad}}}, 4); err == nil {
			t.Errorf("input %d was accepted", bad)
		}
	}
}

// Several outputs, and actions that read what others made.
func TestMakeOutputs(t *testing.T) {
	mkfile := func(name string) *pb.FileAction_Mkfile {
		return &pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{Path: name, Data: []byte(name), Mode: 0o644}}
	}
	op := &pb.FileOp{Actions: []*pb.FileAction{
		{Input: -1, SecondaryInput: -1, Output: -1, Action: mkfile("doc")},                                // value 1
		{Input: 0, SecondaryInput: 1, Output: 1, Action: &pb.FileAction_Copy{Copy: cp("doc", "/copied")}}, // value 2
		{Input: 2, SecondaryInput: -1, Output: -1, Action: mkfile("x")},                                   // value 3
		{Input: 3, SecondaryInput: -1, Output: 0, Action: mkfile("y")},
	}}
	out, err := Make(context.Background(), op, []layer.Tree{memory(t, "base=b")}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) != 2 || out[0].Index != 0 || out[0].Base != 0 || len(out[0].Plans) != 2 || len(out[1].Plans) != 1 || out[0].Plans[0] != out[1].Plans[0] {
		t.Fatalf("outputs %+v", out)
	}
	for i, want := range []string{"copied@644:0:0=doc", "x@644:0:0=x y@644:0:0=y"} {
		var l lines
		if err := out[0].Plans[i].WriteTo(&l); err != nil || strings.Join(l, " ") != want {
			t.Errorf("plan %d: %v, %v, want %s", i, l, err, want)
		}
	}
	for name, bad := range map[string]*pb.FileOp{
		"no output": {Actions: []*pb.FileAction{{Input: -1, SecondaryInput: -1, Output: -1, Action: mkfile("a")}}},
		"loop":      {Actions: []*pb.FileAction{{Input: 0, SecondaryInput: -1, Output: 0, Action: mkfile("a")}}},
		"gap":       {Actions: []*pb.FileAction{{Input: -1, SecondaryInput: -1, Output: 1, Action: mkfile("a")}}},
		"empty":     {},
		"nothing":   {Actions: []*pb.FileAction{{Input: -1, SecondaryInput: -1}}},
	} {
		if _, err := Make(context.Background(), bad, nil, Options{}); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	var ae *ActionError
	_, err = Make(context.Background(), &pb.FileOp{Actions: []*pb.FileAction{
		{Input: -1, SecondaryInput: -1, Output: -1, Action: mkfile("a")},
		{Input: 0, SecondaryInput: -1, Output: 0, Action: mkfile("no/b")},
	}}, nil, Options{})
	if !errors.As(err, &ae) || ae.Index != 1 {
		t.Errorf("error %v does not name action 1", err)
	}
}

// listing notes which directories are read.
type listing struct {
	layer.Tree
	mu   sync.Mutex
	read map[string]int
}

func (l *listing) ReadDir(name string) ([]*layer.Entry, error) {
	l.mu.Lock()
	l.read[name]++
	l.mu.Unlock()
	return l.Tree.ReadDir(name)
}

// Directories that a copy leaves out are not read, those that it takes once.
func TestExcludedDirectoriesAreNotRead(t *testing.T) {
	tree := memory(t, "x/a/b/f=1", "x/a/node_modules/m/f=1", "x/node_modules/m/f=1", "x/c/d/f=1", "y/f=1")
	for _, tt := range []struct {
		exclude []string
		want    string
	}{
		{nil, "map[x:1 x/a:1 x/a/b:1 x/a/node_modules:1 x/a/node_modules/m:1 x/c:1 x/c/d:1 x/node_modules:1 x/node_modules/m:1]"},
		{[]string{"**/node_modules"}, "map[x:1 x/a:1 x/a/b:1 x/c:1 x/c/d:1]"},
		{[]string{"a", "c/d"}, "map[x:1 x/c:1 x/node_modules:1 x/node_modules/m:1]"},
	} {
		l := &listing{Tree: tree, read: map[string]int{}}
		sourceDigest(t, l, cp("x", "/", func(c *pb.FileActionCopy) { c.ExcludePatterns = tt.exclude }))
		if got := fmt.Sprint(l.read); got != tt.want {
			t.Errorf("without %q: read %s, want %s", tt.exclude, got, tt.want)
		}
	}
}
