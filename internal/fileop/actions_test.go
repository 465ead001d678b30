package fileop

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/moby/buildkit/solver/pb"
	"github.com/slipway-build/slipway/internal/layer"
	"golang.org/x/sys/unix"
)

var testTime = time.Unix(1700000000, 0)

// memory makes a tree of lines: "dir/", "file=content", "link->target", with "@mode:uid:gid" after
// the name if need be.
func memory(t testing.TB, lines ...string) layer.Tree {
	t.Helper()
	p := newPlan(layer.Merged(nil), "")
	for _, l := range lines {
		var e layer.Entry
		name, content, isFile := strings.Cut(l, "=")
		name, link, isLink := strings.Cut(name, "->")
		name, attrs, _ := strings.Cut(name, "@")
		e.ModTime = testTime.Add(-time.Hour)
		switch {
		case isLink:
			e.Mode, e.Link = unix.S_IFLNK|0o777, link
		case isFile:
			e.Mode = unix.S_IFREG | 0o644
			if content != "" {
				e.Content, e.Size = layer.Bytes(content), int64(len(content))
			}
		default:
			e.Mode = unix.S_IFDIR | 0o755
		}
		if attrs != "" {
			var perm uint32
			if _, err := fmt.Sscanf(attrs, "%o:%d:%d", &perm, &e.UID, &e.GID); err != nil {
				t.Fatal(l, err)
			}
			e.Mode = e.Type() | perm
		}
		name = strings.TrimSuffix(name, "/")
		dir, _ := splitPath(name)
		if err := p.mkdirs(dir, 0o755, nil, e.ModTime); err != nil {
			t.Fatal(l, err)
		}
		if err := p.put(name, e, nil); err != nil {
			t.Fatal(l, err)
		}
	}
	return p
}

// lines is what a plan writes, in the notation of memory.
type lines []string

func (l *lines) Close() error { return nil }

func (l *lines) Add(e *layer.Entry) error {
	s := e.Path
	if e.Whiteout {
		*l = append(*l, s+" removed")
		return nil
	}
	if e.IsDir() {
		s += "/"
	}
	s += fmt.Sprintf("@%o:%d:%d", e.Perm(), e.UID, e.GID)
	switch {
	case e.Hardlink:
		s += " same as " + e.Link
	case e.IsRegular():
		r, err := layer.OpenContent(e)
		if err != nil {
			return err
		}
		defer r.Close()
		var b bytes.Buffer
		if _, err := b.ReadFrom(r); err != nil {
			return err
		}
		s += "=" + b.String()
	case e.IsSymlink():
		s += "->" + e.Link
	}
	if e.Opaque {
		s += " opaque"
	}
	*l = append(*l, s)
	return nil
}

// act runs actions one after the other on a base; copies take from source.
func act(t testing.TB, base, source layer.Tree, actions ...any) ([]string, error) {
	t.Helper()
	op := &pb.FileOp{}
	for i, a := range actions {
		fa := &pb.FileAction{SecondaryInput: -1, Output: -1}
		if i > 0 {
			fa.Input = int64(2 + i - 1)
		}
		if i == len(actions)-1 {
			fa.Output = 0
		}
		switch a := a.(type) {
		case *pb.FileActionCopy:
			fa.Action, fa.SecondaryInput = &pb.FileAction_Copy{Copy: a}, 1
		case *pb.FileActionMkDir:
			fa.Action = &pb.FileAction_Mkdir{Mkdir: a}
		case *pb.FileActionMkFile:
			fa.Action = &pb.FileAction_Mkfile{Mkfile: a}
		case *pb.FileActionSymlink:
			fa.Action = &pb.FileAction_Symlink{Symlink: a}
		case *pb.FileActionRm:
			fa.Action = &pb.FileAction_Rm{Rm: a}
		}
		op.Actions = append(op.Actions, fa)
	}
	out, err := Make(context.Background(), op, []layer.Tree{base, source}, Options{Now: testTime, TempDir: t.TempDir()})
	if err != nil {
		return nil, err
	}
	if len(out) != 1 || out[0].Base != 0 || len(out[0].Plans) != 1 {
		t.Fatalf("outputs %+v, want one with one plan on input 0", out)
	}
	p := out[0].Plans[0]
	defer p.Close()
	var l lines
	if err := p.WriteTo(&l); err != nil {
		t.Fatal(err)
	}
	if p.Empty() != (len(l) == 0) {
		t.Errorf("Empty is %v of %v", p.Empty(), l)
	}
	return l, nil
}

func byID(uid, gid uint32) *pb.ChownOpt {
	return &pb.ChownOpt{
		User:  &pb.UserOpt{User: &pb.UserOpt_ByID{ByID: uid}},
		Group: &pb.UserOpt{User: &pb.UserOpt_ByID{ByID: gid}},
	}
}

func byName(user, group string) *pb.ChownOpt {
	o := &pb.ChownOpt{}
	if user != "" {
		o.User = &pb.UserOpt{User: &pb.UserOpt_ByName{ByName: &pb.NamedUserOpt{Name: user}}}
	}
	if group != "" {
		o.Group = &pb.UserOpt{User: &pb.UserOpt_ByName{ByName: &pb.NamedUserOpt{Name: group}}}
	}
	return o
}

// cp is a copy as the Dockerfile frontend makes it.
func cp(src, dest string, change ...func(*pb.FileActionCopy)) *pb.FileActionCopy {
	c := &pb.FileActionCopy{
		Src: src, Dest: dest, Mode: -1, Timestamp: -1, FollowSymlink: true, DirCopyContents: true,
		CreateDestPath: true, AllowWildcard: true, AllowEmptyWildcard: true,
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func add(c *pb.FileActionCopy) { c.AttemptUnpackDockerCompatibility = true }

func TestActions(t *testing.T) {
	base := []string{
		"bin->usr/bin", "usr/bin/sh@755:0:0=sh", "tmp@1777:0:0", "wdir/old=1", "wdir/sub/deep=2",
		"loop->loop", "away->/wdir", "up->../../../wdir", "etc/passwd=root:x:0:0::/:\nbob:x:1001:1002::/:\n",
		"etc/group=root:x:0:\nstaff:x:50:\n", "file=f", "sgid/@2775:0:9",
	}
	source := []string{
		"app/main.go=main", "app/a/b/c.txt=c", "app/a/x@600:5:6=x", "app/.hidden=h", "one@750:7:8=1", "two=2",
		"link->app", "abs->/app/a", "app/l->main.go", "dir/empty/",
	}
	tests := []struct {
		name    string
		actions []any
		want    string // entries, separated by blanks
		err     string
	}{
		{"mkdir", []any{&pb.FileActionMkDir{Path: "/new", Mode: 0o750, Timestamp: -1}}, "new/@750:0:0", ""},
		{"mkdir existing", []any{&pb.FileActionMkDir{Path: "/tmp", Mode: 0o700, Timestamp: -1}}, "", ""},
		{"mkdir existing with parents", []any{&pb.FileActionMkDir{Path: "/wdir/sub", Mode: 0o700, MakeParents: true}}, "", ""},
		{"mkdir no parent", []any{&pb.FileActionMkDir{Path: "/no/new", Timestamp: -1}}, "", `"/no": not found`},
		{"mkdir parents", []any{&pb.FileActionMkDir{Path: "/x/y", Mode: 0o711, MakeParents: true, Owner: byID(3, 4)}}, "x/@711:3:4 x/y/@711:3:4", ""},
		{"mkdir through link", []any{&pb.FileActionMkDir{Path: "/bin/d", Mode: 0o755, MakeParents: true}}, "usr/@755:0:0 usr/bin/@755:0:0 usr/bin/d/@755:0:0", ""},
		{"mkdir on file", []any{&pb.FileActionMkDir{Path: "/file/d", MakeParents: true}}, "", "not a directory"},
		{"mkdir in loop", []any{&pb.FileActionMkDir{Path: "/loop/d", MakeParents: true}}, "", "too many links"},
		{"mkdir escapes not", []any{&pb.FileActionMkDir{Path: "/up/d", Mode: 0o755}}, "wdir/@755:0:0 wdir/d/@755:0:0", ""},
		{"mkdir setgid", []any{&pb.FileActionMkDir{Path: "/sgid/d", Mode: 0o755}}, "sgid/@2775:0:9 sgid/d/@2755:0:9", ""},
		{"mkfile", []any{&pb.FileActionMkFile{Path: "/f", Mode: 0o4755, Data: []byte("d"), Owner: byName("bob", "")}}, "f@755:1001:1002=d", ""},
		{"mkfile group", []any{&pb.FileActionMkFile{Path: "/f", Mode: 0o644, Owner: byName("", "staff")}}, "f@644:0:50=", ""},
		{"mkfile over", []any{&pb.FileActionMkFile{Path: "/wdir/old", Mode: 0o600, Data: []byte("n")}}, "wdir/@755:0:0 wdir/old@644:0:0=n", ""},
		{"mkfile on dir", []any{&pb.FileActionMkFile{Path: "/wdir"}}, "", "is a directory"},
		{"mkfile no parent", []any{&pb.FileActionMkFile{Path: "/no/f"}}, "", `"/no": not found`},
		{"unknown user", []any{cp("one", "/", func(c *pb.FileActionCopy) { c.Owner = byName("eve", "") })}, "", `unknown user "eve"`},
		{"mkfile unknown user", []any{&pb.FileActionMkFile{Path: "/f", Mode: 0o644, Owner: byName("eve", "eves")}}, "f@644:0:0=", ""},
		{"unknown group", []any{cp("one", "/", func(c *pb.FileActionCopy) { c.Owner = byName("bob", "eves") })}, "", `unknown group "eves"`},
		{"symlink", []any{&pb.FileActionSymlink{Oldpath: "../x", Newpath: "/wdir/l", Owner: byID(1, 2)}}, "wdir/@755:0:0 wdir/l@777:1:2->../x", ""},
		{"symlink exists", []any{&pb.FileActionSymlink{Oldpath: "x", Newpath: "/file"}}, "", "file already exists"},
		{"rm", []any{&pb.FileActionRm{Path: "/wdir/sub"}}, "wdir/@755:0:0 wdir/sub removed", ""},
		{"rm missing", []any{&pb.FileActionRm{Path: "/wdir/nope"}}, "", `"/wdir/nope": not found`},
		{"rm missing allowed", []any{&pb.FileActionRm{Path: "/wdir/nope", AllowNotFound: true}}, "", ""},
		{"rm link itself", []any{&pb.FileActionRm{Path: "/away"}}, "away removed", ""},
		{"rm through link", []any{&pb.FileActionRm{Path: "/away/old"}}, "wdir/@755:0:0 wdir/old removed", ""},
		{"rm wildcard", []any{&pb.FileActionRm{Path: "/*/o*", AllowWildcard: true}}, "wdir/@755:0:0 wdir/old removed", ""},
		{"rm wildcard nothing", []any{&pb.FileActionRm{Path: "/zz*", AllowWildcard: true}}, "", ""},
		{"rm root", []any{&pb.FileActionRm{Path: "/"}}, "", "root cannot be removed"},
		{"rm then mkdir", []any{&pb.FileActionRm{Path: "/wdir"}, &pb.FileActionMkDir{Path: "/wdir", Mode: 0o755}}, "wdir/@755:0:0 opaque", ""},
		{"rm then mkfile", []any{&pb.FileActionRm{Path: "/wdir"}, &pb.FileActionMkFile{Path: "/wdir", Mode: 0o644}}, "wdir@644:0:0=", ""},
		{"make then rm", []any{&pb.FileActionMkFile{Path: "/f"}, &pb.FileActionRm{Path: "/f"}}, "", ""},
		{"make then rm below opaque", []any{&pb.FileActionRm{Path: "/wdir"}, &pb.FileActionMkDir{Path: "/wdir", Mode: 0o755}, &pb.FileActionMkDir{Path: "/wdir/sub", Mode: 0o755}, &pb.FileActionRm{Path: "/wdir/sub"}}, "wdir/@755:0:0 opaque", ""},
		{"hidden by opaque", []any{&pb.FileActionRm{Path: "/wdir"}, &pb.FileActionMkDir{Path: "/wdir", Mode: 0o755}, &pb.FileActionRm{Path: "/wdir/old"}}, "", `"/wdir/old": not found`},
		{"copy file", []any{cp("one", "/")}, "one@750:7:8=1", ""},
		{"copy file to name", []any{cp("/one", "/uno")}, "uno@750:7:8=1", ""},
		{"copy file into dir", []any{cp("one", "/wdir")}, "wdir/@755:0:0 wdir/one@750:7:8=1", ""},
		{"copy through link", []any{cp("one", "/bin/")}, "usr/@755:0:0 usr/bin/@755:0:0 usr/bin/one@750:7:8=1", ""},
		{"copy makes parents", []any{cp("one", "/p/q/")}, "p/@755:0:0 p/q/@755:0:0 p/q/one@750:7:8=1", ""},
		{"copy over file", []any{cp("one", "/file")}, "file@750:7:8=1", ""},
		{"copy file on dir", []any{cp("app/a", "/tmp"), cp("one", "/tmp/b", func(c *pb.FileActionCopy) {}), cp("app", "/x"), cp("dir", "/x/main.go/")}, "", "not a directory"},
		{"copy no parent", []any{cp("one", "/no/where/x", func(c *pb.FileActionCopy) { c.CreateDestPath = false })}, "", `checking destination "/no/where/x"`},
		{"copy dir contents", []any{cp("app/a", "/new")}, "new/@755:0:0 new/b/@755:0:0 new/b/c.txt@644:0:0=c new/x@600:5:6=x", ""},
		{"copy dir itself", []any{cp("app/a", "/wdir", func(c *pb.FileActionCopy) { c.DirCopyContents = false })},
			"wdir/@755:0:0 wdir/a/@755:0:0 wdir/a/b/@755:0:0 wdir/a/b/c.txt@644:0:0=c wdir/a/x@600:5:6=x", ""},
		{"copy link followed", []any{cp("abs", "/n")}, "n/@755:0:0 n/b/@755:0:0 n/b/c.txt@644:0:0=c n/x@600:5:6=x", ""},
		{"copy link", []any{cp("abs", "/n", func(c *pb.FileActionCopy) { c.FollowSymlink = false })}, "n@777:0:0->/app/a", ""},
		{"copy chown", []any{cp("one", "/", func(c *pb.FileActionCopy) { c.Owner = byName("bob", "staff") })}, "one@750:1001:50=1", ""},
		{"copy chown id", []any{cp("app/a/x", "/p/", func(c *pb.FileActionCopy) { c.Owner = byID(9, 9) })}, "p/@755:9:9 p/x@600:9:9=x", ""},
		{"copy chmod", []any{cp("one", "/", func(c *pb.FileActionCopy) { c.Mode = 0o4711 })}, "one@4711:7:8=1", ""},
		{"copy chmod symbolic", []any{cp("one", "/", func(c *pb.FileActionCopy) { c.ModeStr = "go-rwx,u+s" })}, "one@4700:7:8=1", ""},
		{"copy chmod bad", []any{cp("one", "/", func(c *pb.FileActionCopy) { c.ModeStr = "zz" })}, "", `reading mode "zz"`},
		{"copy wildcard", []any{cp("/*o*", "/")}, "one@750:7:8=1 two@644:0:0=2", ""},
		{"copy wildcard none", []any{cp("/zz*", "/")}, "", ""},
		{"copy wildcard none refused", []any{cp("/zz*", "/", func(c *pb.FileActionCopy) { c.AllowEmptyWildcard = false })}, "", `"/zz*": not found`},
		{"copy missing", []any{cp("missing.txt", "/")}, "", `"/missing.txt": not found`},
		{"copy below file", []any{cp("one/x", "/")}, "", `"/one/x": not found`},
		{"copy include", []any{cp("/", "/n/", func(c *pb.FileActionCopy) { c.IncludePatterns = []string{"app/a/b"} })},
			"n/@755:0:0 n/app/@755:0:0 n/app/a/@755:0:0 n/app/a/b/@755:0:0 n/app/a/b/c.txt@644:0:0=c", ""},
		{"copy exclude", []any{cp("/app", "/n/", func(c *pb.FileActionCopy) { c.ExcludePatterns = []string{"a", ".*", "!a/x", "l"} })},
			"n/@755:0:0 n/a/@755:0:0 n/a/x@600:5:6=x n/main.go@644:0:0=main", ""},
		{"copy required", []any{cp("/", "/n/", func(c *pb.FileActionCopy) {
			c.IncludePatterns, c.RequiredPaths = []string{"app/nope"}, []string{"/app/nope"}
		})}, "", `"/app/nope": not found`},
		{"copy replaces", []any{cp("/app", "/n"), cp("/dir", "/n/", func(c *pb.FileActionCopy) {}), cp("one", "/n/a", func(c *pb.FileActionCopy) { c.AlwaysReplaceExistingDestPaths = true })},
			"n/@755:0:0 n/.hidden@644:0:0=h n/a/@755:0:0 n/a/b/@755:0:0 n/a/b/c.txt@644:0:0=c n/a/one@750:7:8=1 n/a/x@600:5:6=x n/empty/@755:0:0 n/l@777:0:0->main.go n/main.go@644:0:0=main", ""},
		{"copy empty dir", []any{cp("dir", "/e/")}, "e/@755:0:0 e/empty/@755:0:0", ""},
		{"add no archive", []any{cp("one", "/", add)}, "one@750:7:8=1", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := act(t, memory(t, base...), memory(t, source...), tt.actions...)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q; got %q", err, tt.err, got)
				}
				if strings.HasSuffix(tt.err, "not found") != errors.Is(err, fs.ErrNotExist) && !strings.Contains(tt.err, "checking") && !strings.Contains(tt.err, "unknown") {
					t.Errorf("errors.Is(%v, fs.ErrNotExist) is wrong", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("got  %s\nwant %s", s, tt.want)
			}
		})
	}
}

// Directories that are only on the way to what a pattern selects.
func TestPassedDirectories(t *testing.T) {
	source := memory(t, "a@750:1:1", "a/b@711:2:2", "a/b/f=1", "a/c/g=2", "d/e=3")
	only := func(c *pb.FileActionCopy) { c.IncludePatterns = []string{"a/b/f"} }
	replace := func(c *pb.FileActionCopy) { c.AlwaysReplaceExistingDestPaths = true }
	// What exists takes their permission bits and nothing else.
	got, err := act(t, memory(t, "a@1777:9:9"), source, cp("/", "/", only))
	if s := strings.Join(got, " "); err != nil || s != "a/@750:9:9 a/b/@711:2:2 a/b/f@644:0:0=1" {
		t.Errorf("got %s, %v", s, err)
	}
	// A selected one brings everything.
	got, err = act(t, memory(t, "a@1777:9:9"), source, cp("/", "/", func(c *pb.FileActionCopy) { c.IncludePatterns = []string{"a"} }))
	if s := strings.Join(got, " "); err != nil || !strings.HasPrefix(s, "a/@750:1:1 a/b/") {
		t.Errorf("got %s, %v", s, err)
	}
	// They replace nothing.
	if got, err := act(t, memory(t, "a=file"), source, cp("/", "/", only, replace)); err == nil {
		t.Errorf("a file was replaced by a directory on the way: %v", got)
	}
	if got, err = act(t, memory(t, "a=file"), source, cp("/", "/", replace)); err != nil || len(got) != 7 {
		t.Errorf("a file was not replaced by a selected directory: %v, %v", got, err)
	}
	// One that leads to nothing does not come along with a later one.
	got, err = act(t, memory(t), source, cp("/", "/", func(c *pb.FileActionCopy) { c.IncludePatterns = []string{"d/e", "a/c/none"} }))
	if s := strings.Join(got, " "); err != nil || s != "d/@755:0:0 d/e@644:0:0=3" {
		t.Errorf("got %s, %v", s, err)
	}
}

func TestTimes(t *testing.T) {
	at := time.Unix(1234567890, 500)
	base, source := memory(t, "wdir/old=1"), memory(t, "d/f=1")
	op := &pb.FileOp{Actions: []*pb.FileAction{
		{Input: 0, SecondaryInput: -1, Output: -1, Action: &pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{Path: "/wdir/f", Timestamp: -1}}},
		{Input: 2, SecondaryInput: 1, Output: -1, Action: &pb.FileAction_Copy{Copy: cp("d", "/c", func(c *pb.FileActionCopy) { c.Timestamp = at.UnixNano() })}},
		{Input: 3, SecondaryInput: 1, Output: 0, Action: &pb.FileAction_Copy{Copy: cp("d", "/k")}},
	}}
	out, err := Make(context.Background(), op, []layer.Tree{base, source}, Options{Now: testTime})
	if err != nil {
		t.Fatal(err)
	}
	old := testTime.Add(-time.Hour)
	for name, want := range map[string]time.Time{"wdir": old, "wdir/f": testTime, "c": at, "c/f": at, "k": old, "k/f": old} {
		if e, err := out[0].Plans[0].Lstat(name); err != nil || !e.ModTime.Equal(want) {
			t.Errorf("%s: %v, %v, want %v", name, e, err, want)
		}
	}
}

// archive makes a tar archive with everything that unpacking must deal with.
func archive(t testing.TB) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "./", Mode: 0o700},
		{Typeflag: tar.TypeReg, Name: "bin/tool", Mode: 0o755, Uid: 3, Gid: 4, Size: 4},
		{Typeflag: tar.TypeLink, Name: "bin/same", Linkname: "bin/tool", Mode: 0o755, Uid: 3, Gid: 4},
		{Typeflag: tar.TypeDir, Name: "wdir/", Mode: 0o711},
		{Typeflag: tar.TypeSymlink, Name: "s", Linkname: "bin/tool", Mode: 0o777},
		{Typeflag: tar.TypeReg, Name: "file", Mode: 0o600, Size: 4},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			fmt.Fprint(w, "data")
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestUnpack(t *testing.T) {
	plain := archive(t)
	var gz, zst bytes.Buffer
	gw := gzip.NewWriter(&gz)
	gw.Write(plain)
	gw.Close()
	zw, _ := zstd.NewWriter(&zst)
	zw.Write(plain)
	zw.Close()
	archives := map[string][]byte{"plain": plain, "gzip": gz.Bytes(), "zstd": zst.Bytes()}
	for _, program := range []string{"xz", "bzip2"} {
		if _, err := exec.LookPath(program); err == nil {
			cmd := exec.Command(program, "-c")
			cmd.Stdin = bytes.NewReader(plain)
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			archives[program] = out
		}
	}
	base := []string{"bin->usr/bin", "usr/bin/sh=sh", "wdir@1777:1:1", "wdir/old=1", "file/x=1"}
	base[2] = "wdir/@1777:1:1"
	for name, data := range archives {
		t.Run(name, func(t *testing.T) {
			got, err := act(t, memory(t, base...), memory(t, "a.tar="+string(data)), cp("a.tar", "/", add))
			if err != nil {
				t.Fatal(err)
			}
			want := "file@600:0:0=data s@777:0:0->bin/tool usr/@755:0:0 usr/bin/@755:0:0 usr/bin/same@755:3:4=data usr/bin/tool@755:3:4 same as usr/bin/same wdir/@711:0:0"
			if s := strings.Join(got, " "); s != want {
				t.Errorf("got  %s\nwant %s", s, want)
			}
		})
	}
	got, err := act(t, memory(t), memory(t, "a.tar="+string(plain)), cp("a.tar", "/n/", add, func(c *pb.FileActionCopy) { c.Owner = byID(8, 9) }))
	if err != nil {
		t.Fatal(err)
	}
	if s := strings.Join(got, " "); !strings.HasPrefix(s, "n/@755:8:9 n/bin/@755:0:0 n/bin/same@755:8:9=data") {
		t.Errorf("with an owner: %s", s)
	}
	// What only looks like an archive at its beginning is an error, what does not is a file.
	if _, err := act(t, memory(t), memory(t, "a.tar="+string(plain[:1026])), cp("a.tar", "/n/", add)); err == nil {
		t.Error("a truncated archive was accepted")
	}
	if got, err := act(t, memory(t), memory(t, "a.gz="+string(gz.Bytes()[:20])), cp("a.gz", "/", add)); err != nil || len(got) != 1 {
		t.Errorf("a damaged gzip file: %v, %v", got, err)
	}
}

func TestUnpackLeavesNoFiles(t *testing.T) {
	dir := t.TempDir()
	op := &pb.FileOp{Actions: []*pb.FileAction{{Input: -1, SecondaryInput: 0, Output: 0, Action: &pb.FileAction_Copy{Copy: cp("a", "/", add)}}}}
	out, err := Make(context.Background(), op, []layer.Tree{memory(t, "a="+string(archive(t)))}, Options{TempDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if out[0].Base != -1 {
		t.Errorf("base is %d", out[0].Base)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	p := out[0].Plans[0]
	if err := errors.Join(p.Close(), p.Close()); err != nil {
		t.Error(err)
	}
	if err := p.WriteTo(&lines{}); err == nil {
		t.Error("the content can be read after Close")
	}
}

// Names and links of an archive stay below the destination, and links on the way are followed there.
func TestUnpackLinks(t *testing.T) {
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
	sym := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}
	}
	hard := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to, Mode: 0o644}
	}
	for _, tt := range []struct {
		name    string
		base    []string
		headers []tar.Header
		want    string
	}{
		{"dot dot", nil, []tar.Header{file("../../x"), file("a/../../y")}, "n/@755:0:0 n/x@644:0:0= n/y@644:0:0="},
		{"empty name", nil, []tar.Header{{Typeflag: tar.TypeDir, Format: tar.FormatPAX}, file("a")}, "n/@755:0:0 n/a@644:0:0="},
		{"link of the archive", nil, []tar.Header{sym("l", "d"), file("l/a")}, "n/@755:0:0 n/d/@755:0:0 n/d/a@644:0:0= n/l@777:0:0->d"},
		{"absolute link", []string{"d/x=x"}, []tar.Header{sym("l", "/d"), file("l/a")}, "n/@755:0:0 n/d/@755:0:0 n/d/a@644:0:0= n/l@777:0:0->/d"},
		{"link that climbs", []string{"d/x=x"}, []tar.Header{sym("l", "../../d"), file("l/a")}, "n/@755:0:0 n/d/@755:0:0 n/d/a@644:0:0= n/l@777:0:0->../../d"},
		{"absolute link of the image", []string{"n/l->/d", "n/d/x=x", "d/x=x"}, []tar.Header{file("l/a")}, "n/@755:0:0 n/d/@755:0:0 n/d/a@644:0:0="},
		{"loop", nil, []tar.Header{sym("a", "b"), sym("b", "a"), file("a/x")}, "too many links"},
		{"below a file", nil, []tar.Header{file("a"), file("a/x")}, "not a directory"},
		{"link to a file of the image", []string{"n/low=data"}, []tar.Header{hard("h", "low")}, "n/@755:0:0 n/h@644:0:0=data n/low@644:0:0 same as n/h"},
		{"link through a link", []string{"n/d/low=data"}, []tar.Header{sym("l", "d"), hard("h", "l/low")}, "n/@755:0:0 n/d/@755:0:0 n/d/low@644:0:0=data n/h@644:0:0 same as n/d/low n/l@777:0:0->d"},
		{"link out of the destination", []string{"etc/passwd=data"}, []tar.Header{hard("h", "../../etc/passwd")}, `"/n/etc/passwd": not found`},
		{"link to a directory", []string{"n/d/x=x"}, []tar.Header{hard("h", "d")}, `"/n/d": not found`},
		{"link in place of its directory", nil, []tar.Header{file("d/a"), hard("d", "d/a")}, `"/n/d/a": not found`},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range tt.headers {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := act(t, memory(t, tt.base...), memory(t, "a.tar="+b.String()), cp("a.tar", "/n/", add))
		s := strings.Join(got, " ")
		if err != nil {
			s = err.Error()
		}
		if s != tt.want && (err == nil || !strings.Contains(s, tt.want)) {
			t.Errorf("%s: got  %s\nwant %s", tt.name, s, tt.want)
		}
	}
}
