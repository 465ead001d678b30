package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/fileop"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/layer/layertest"
	"github.com/slipway-build/slipway/internal/source/local"
	"github.com/slipway-build/slipway/internal/store"
)

func TestMain(m *testing.M) {
	logrus.SetOutput(io.Discard) // BuildKit tells there of sessions that end
	os.Exit(m.Run())
}

// server is where clients' sessions arrive.
type server struct {
	t        testing.TB
	sessions *session.Manager
	store    *store.Store
	kept     *Kept
}

func newServer(t testing.TB) *server {
	t.Helper()
	sessions, err := session.NewManager()
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &server{t, sessions, s, NewKept(s)}
}

// counted counts what goes through a connection.
type counted struct {
	net.Conn
	sent, received atomic.Int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.received.Add(int64(n))
	return n, err
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.sent.Add(int64(n))
	return n, err
}

// visitor is a client's own side of its session.
type visitor struct {
	t       testing.TB
	id      string
	session *session.Session
	wire    *counted // received: by the client
	over    chan error
}

// connect has a client with some services arrive.
func (s *server) connect(sharedKey string, services ...session.Attachable) *visitor {
	s.t.Helper()
	here, there := pipe(s.t)
	v := &visitor{t: s.t, wire: &counted{Conn: there}, over: make(chan error, 1)}
	var err error
	if v.session, err = session.NewSession(s.t.Context(), sharedKey); err != nil {
		s.t.Fatal(err)
	}
	v.id = v.session.ID()
	for _, a := range services {
		v.session.Allow(a)
	}
	go func() {
		v.over <- v.session.Run(context.Background(), func(ctx context.Context, _ string, meta map[string][]string) (net.Conn, error) {
			ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
			go s.sessions.HandleConn(ctx, &ending{here, cancel}, meta) //nolint:errcheck // the client sees it end
			return v.wire, nil
		})
	}()
	s.t.Cleanup(v.leave)
	if _, err := s.sessions.Get(s.t.Context(), v.id, false); err != nil {
		s.t.Fatal(err)
	}
	return v
}

// ending tells the server when a connection has ended, as the stream does in which it comes.
type ending struct {
	net.Conn
	tell context.CancelFunc
}

func (e *ending) Read(b []byte) (int, error) {
	n, err := e.Conn.Read(b)
	if err != nil {
		e.tell()
	}
	return n, err
}

// pipe is a connection with room in it, as that of a socket.
func pipe(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]net.Conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return conns[0], conns[1]
}

// leave ends the session.
func (v *visitor) leave() { v.session.Close() }

// build is the client of one build.
func (s *server) build(v *visitor) *Client {
	c := New(context.Background(), Options{Sessions: s.sessions, IDs: []string{v.id}, Owner: "0", Store: s.store, Kept: s.kept, Wait: 50 * time.Millisecond})
	s.t.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			s.t.Error(err)
		}
	})
	return c
}

// end ends a build as it usually ends.
func (c *Client) endFor(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		t.Error(err)
	}
	if ctx.Err() != nil {
		t.Error("the client did not end the transfer")
	}
}

// directory is a directory of a client's.
func directory(t testing.TB, dir string) session.Attachable {
	t.Helper()
	fs, err := fsutil.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	return filesync.NewFSSyncProvider(filesync.StaticDirSource{"context": fs})
}

// op is a local source.
func op(attrs ...string) *pb.SourceOp {
	o := &pb.SourceOp{Identifier: "local://context", Attrs: map[string]string{}}
	for i := 0; i < len(attrs); i += 2 {
		o.Attrs[attrs[i]] = attrs[i+1]
	}
	return o
}

// context gives the tree of a client's directory.
func (c *Client) treeFor(t testing.TB, o *pb.SourceOp, include, exclude []string) (local.Context, layer.Tree) {
	t.Helper()
	x, err := c.Context(o)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := x.Tree(t.Context(), include, exclude)
	if err != nil {
		t.Fatal(err)
	}
	return x, tree
}

// write makes files that were changed long ago.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-time.Hour)
		if err := os.Chtimes(p, then, then); err != nil {
			t.Fatal(err)
		}
	}
}

// selected digests what a COPY of some paths reads.
func selected(t testing.TB, x local.Context, tree layer.Tree, paths ...string) digest.Digest {
	t.Helper()
	var copies []*pb.FileActionCopy
	for _, p := range paths {
		copies = append(copies, &pb.FileActionCopy{Src: "/" + p, Dest: "/", DirCopyContents: true})
	}
	d, err := fileop.SourceDigest(t.Context(), tree, copies, func(e *layer.Entry) (digest.Digest, error) { return x.Hash(t.Context(), e) })
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func reads(t *testing.T, tree layer.Tree, name string) string {
	t.Helper()
	data, err := layer.ReadFile(tree, name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// What a client's directory is to a build is what the same directory is here.
func TestContextIsItsDirectory(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"a/b/c": "1", "a/b/empty": "", "a-b": "2", "a/x": "3", "z": strings.Repeat("4", 200<<10), "ümlaut\n": "5"})
	for name, target := range map[string]string{"link": "a", "a/up": ".."} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "z"), filepath.Join(dir, "zz")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "a-b"), 0o4750|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	s := newServer(t)
	v := s.connect("key", directory(t, dir))
	for round := range 2 {
		c := s.build(v)
		x, tree := c.treeFor(t, op(), nil, nil)
		here := local.NewDir(dir, "")
		want, err := here.Tree(t.Context(), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := described(t, tree), described(t, want); got != want {
			t.Errorf("round %d: got\n%s\nwant\n%s", round, got, want)
		}
		if got := selected(t, x, tree, ""); got != hereSelected(t, want, "") {
			t.Errorf("round %d: another digest than that of the directory here", round)
		}
		layertest.Tree(t, tree) // whose digests are known by now
		layertest.Tree(t, local.Strict(tree))
		if got := reads(t, tree, "z"); got != strings.Repeat("4", 200<<10) {
			t.Errorf("a large file has %d bytes", len(got))
		}
		c.endFor(t)
	}
}

func hereSelected(t *testing.T, tree layer.Tree, path string) digest.Digest {
	t.Helper()
	d, err := fileop.SourceDigest(t.Context(), tree, []*pb.FileActionCopy{{Src: "/" + path, Dest: "/", DirCopyContents: true}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// described is a line for each file but the root.
func described(t *testing.T, tree layer.Tree) string {
	t.Helper()
	var all strings.Builder
	if err := layer.Walk(tree, ".", func(e *layer.Entry) error {
		if e.Path != "." {
			fmt.Fprintf(&all, "%q %o %d:%d %d %v %q %t %t\n", e.Path, e.Mode, e.UID, e.GID, e.Size, e.ModTime.UnixNano(), e.Link, e.Nlink > 1, e.Content != nil)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// Only what is read is transferred, once, and of what did not change nothing at the next build, also of another process.
func TestOnlyWhatIsReadIsTransferred(t *testing.T) {
	dir := t.TempDir()
	big := func(c string) string { return strings.Repeat(c, 1<<20) }
	write(t, dir, map[string]string{"src/a": big("a"), "src/b": big("b"), "other/c": big("c"), "big": strings.Repeat("d", 5<<20)})
	s := newServer(t)
	v := s.connect("key", directory(t, dir))
	const slack = 100 << 10 // names, attributes, frames
	transferred := func(what string, want int64, do func(x local.Context, tree layer.Tree)) {
		t.Helper()
		before := v.wire.sent.Load()
		c := s.build(v)
		x, tree := c.treeFor(t, op(), nil, nil)
		do(x, tree)
		c.endFor(t)
		if got := v.wire.sent.Load() - before; got < want || got > want+slack {
			t.Errorf("%s: %d bytes on the wire, want %d", what, got, want)
		}
	}
	transferred("nothing is read", 0, func(x local.Context, tree layer.Tree) {
		described(t, tree)
	})
	var sum digest.Digest
	transferred("a part", 2<<20, func(x local.Context, tree layer.Tree) {
		var g sync.WaitGroup
		for range 4 { // several at once, each file once
			g.Go(func() { selected(t, x, tree, "src") })
		}
		g.Wait()
		sum = selected(t, x, tree, "src")
		for range 2 {
			if reads(t, tree, "src/b") != big("b") {
				t.Error("src/b has something else")
			}
		}
	})
	transferred("the same again", 0, func(x local.Context, tree layer.Tree) {
		if got := selected(t, x, tree, "src"); got != sum {
			t.Errorf("another digest: %s, want %s", got, sum)
		}
		if reads(t, tree, "src/a") != big("a") {
			t.Error("src/a has something else")
		}
	})
	write(t, dir, map[string]string{"src/a": big("A")})
	transferred("a file changed", 1<<20, func(x local.Context, tree layer.Tree) {
		if got := selected(t, x, tree, "src"); got == sum {
			t.Error("the digest is the same")
		}
		if reads(t, tree, "src/a") != big("A") || reads(t, tree, "src/b") != big("b") {
			t.Error("files have something else")
		}
	})
	s.kept = NewKept(s.store) // another process
	transferred("another process", 0, func(x local.Context, tree layer.Tree) {
		selected(t, x, tree, "src")
		if reads(t, tree, "src/a") != big("A") || reads(t, tree, "src/b") != big("b") {
			t.Error("files have something else")
		}
	})
	transferred("all of it", 6<<20, func(x local.Context, tree layer.Tree) { selected(t, x, tree, "") })
	noneLeft(t, s)
}

// noneLeft checks that nothing is left of builds but what they keep.
func noneLeft(t *testing.T, s *server) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(s.store.Root(), "tmp"), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasSuffix(path, ".lock") {
			t.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	kept, err := os.ReadDir(filepath.Join(s.store.Root(), "contexts"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	for _, e := range kept {
		if name := strings.TrimSuffix(e.Name(), ".files"); len(name) != 32 {
			t.Errorf("contexts/%s is left", e.Name())
		}
	}
	if len(s.kept.open) > 0 {
		t.Errorf("%d contents are open", len(s.kept.open))
	}
}

// What patterns leave out is neither sent nor seen.
func TestPatterns(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"a/x": "1", "a/y": "2", "b/x": "3", "ü/x": "4"})
	if err := os.Symlink("b", filepath.Join(dir, "l")); err != nil {
		t.Fatal(err)
	}
	s := newServer(t)
	c := s.build(s.connect("", directory(t, dir)))
	for _, tc := range []struct {
		op               *pb.SourceOp
		include, exclude []string
		want             string
	}{
		{op(), nil, []string{"b"}, "a a/x a/y l ü ü/x"},
		{op(), []string{"ü", "b/*"}, nil, "b b/x ü ü/x"},
		{op(), nil, []string{"**/x", "!a/x"}, "a a/x a/y b l ü"},
		{op(pb.AttrFollowPaths, `["l/x"]`), nil, nil, "b b/x l"},
		{op(pb.AttrFollowPaths, `["l"]`), []string{"a/y"}, nil, "a a/y b b/x l"},
	} {
		_, tree := c.treeFor(t, tc.op, tc.include, tc.exclude)
		var names []string
		if err := layer.Walk(tree, ".", func(e *layer.Entry) error { names = append(names, e.Path); return nil }); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(names[1:], " "); got != tc.want {
			t.Errorf("%v, include %q, exclude %q: got %s, want %s", tc.op.Attrs, tc.include, tc.exclude, got, tc.want)
		}
	}
}

// A file that changes between the time when it was listed and that when it is read ends the reading of it, and of nothing else.
func TestFilesThatChange(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"grows": "1", "shrinks": "12", "goes": "1", "stays": "1"})
	s := newServer(t)
	c := s.build(s.connect("key", directory(t, dir)))
	_, tree := c.treeFor(t, op(), nil, nil)
	write(t, dir, map[string]string{"grows": "12", "shrinks": "1"})
	if err := os.Remove(filepath.Join(dir, "goes")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, name := range []string{"grows", "shrinks", "goes"} {
			if _, err := layer.ReadFile(tree, name); !errors.Is(err, layer.ErrChanged) {
				t.Errorf("reading %s: %v", name, err)
			}
		}
		if reads(t, tree, "stays") != "1" {
			t.Error("another file has something else")
		}
	}
	c.endFor(t)
	noneLeft(t, s)
}

// A file that changed in the tick of the clock in which it was read may have changed afterwards, and have the same time; one
// whose time is of a coarse clock in two seconds. Such a file is transferred again.
func TestRacyFilesAreSentAgain(t *testing.T) {
	dir := t.TempDir()
	s := newServer(t)
	v := s.connect("key", directory(t, dir))
	known := func(name string) bool {
		t.Helper()
		c := s.build(v)
		defer c.endFor(t)
		_, tree := c.treeFor(t, op(), nil, nil)
		e, err := tree.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		reads(t, tree, name)
		return e.Digest != ""
	}
	write(t, dir, map[string]string{"f": "1"})
	soon := time.Now().Add(time.Hour)
	for _, tc := range []struct {
		at   time.Time
		want bool
	}{{soon, false}, {time.Unix(time.Now().Unix(), 0), false}, {time.Now().Add(-time.Second).Round(time.Second).Add(-time.Millisecond), true}, {time.Unix(1000, 0), true}} {
		if err := os.Chtimes(filepath.Join(dir, "f"), tc.at, tc.at); err != nil {
			t.Fatal(err)
		}
		known("f")
		if got := known("f"); got != tc.want {
			t.Errorf("changed at %v: known at the next build: %t", tc.at, got)
		}
	}
}

// A client that says that what was sent does not count, or does not say which directory it is, is not given what was sent
// before; nor is another owner's client.
func TestWhatIsNotRemembered(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"f": "1"})
	s := newServer(t)
	named, nameless := s.connect("key", directory(t, dir)), s.connect("", directory(t, dir))
	known := func(v *visitor, owner string, o *pb.SourceOp) bool {
		t.Helper()
		c := s.build(v)
		c.opt.Owner = owner
		defer c.endFor(t)
		_, tree := c.treeFor(t, o, nil, nil)
		e, err := tree.Lstat("f")
		if err != nil {
			t.Fatal(err)
		}
		reads(t, tree, "f")
		return e.Digest != ""
	}
	known(named, "0", op())
	known(nameless, "0", op(pb.AttrSharedKeyHint, "/home/user/project"))
	for _, tc := range []struct {
		name  string
		v     *visitor
		owner string
		op    *pb.SourceOp
		want  bool
	}{
		{"the same", named, "0", op(), true},
		{"another owner", named, "1", op(), false},
		{"another hint", named, "0", op(pb.AttrSharedKeyHint, "x"), false},
		{"no differ", named, "0", op(pb.AttrLocalDiffer, pb.AttrLocalDifferNone), false},
		{"no key", nameless, "0", op(), false},
		{"no key again", nameless, "0", op(), false},
		{"a hint that is the name", nameless, "0", op(pb.AttrSharedKeyHint, "context"), false},
		{"a hint that is the name again", nameless, "0", op(pb.AttrSharedKeyHint, "context"), false},
		{"a hint alone", nameless, "0", op(pb.AttrSharedKeyHint, "/home/user/project"), true},
	} {
		if got := known(tc.v, tc.owner, tc.op); got != tc.want {
			t.Errorf("%s: known is %t", tc.name, got)
		}
	}
}

// What is kept and damaged is sent again.
func TestDamagedFilesAreSentAgain(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"f": strings.Repeat("1", 100<<10), "g": "2"})
	s := newServer(t)
	v := s.connect("key", directory(t, dir))
	read := func() (sent int64) {
		t.Helper()
		c := s.build(v)
		before := c.Received()
		x, tree := c.treeFor(t, op(), nil, nil)
		selected(t, x, tree, "")
		if reads(t, tree, "f") != strings.Repeat("1", 100<<10) || reads(t, tree, "g") != "2" {
			t.Error("files have something else")
		}
		c.endFor(t)
		return c.Received() - before
	}
	read()
	for _, damage := range []func(path string) error{
		func(path string) error { // the content
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("x"), 8<<10)
			return errors.Join(err, f.Close())
		},
		func(path string) error { return os.Truncate(path, 8<<10) },
		func(path string) error { return os.WriteFile(path, []byte("another file"), 0o600) },
		os.Remove,
		func(path string) error { return os.Remove(strings.TrimSuffix(path, ".files")) },
	} {
		if sent := read(); sent > 10<<10 {
			t.Errorf("%d bytes are sent before the damage", sent)
		}
		files, err := filepath.Glob(filepath.Join(s.store.Root(), "contexts", "*.files"))
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		if err := damage(files[0]); err != nil {
			t.Fatal(err)
		}
		if sent := read(); sent < 100<<10 {
			t.Errorf("%d bytes are sent after the damage", sent)
		}
	}
}

// What no build can use any more takes no space.
func TestSpaceOfOldFiles(t *testing.T) {
	dir := t.TempDir()
	s := newServer(t)
	v := s.connect("key", directory(t, dir))
	for i := range 8 {
		write(t, dir, map[string]string{"f": strings.Repeat(fmt.Sprint(i), 1<<20), "g": strings.Repeat("g", 1<<20)})
		then := time.Now().Add(-time.Hour + time.Duration(i)*time.Second)
		if err := os.Chtimes(filepath.Join(dir, "f"), then, then); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(dir, "g"), time.Unix(1000, 5), time.Unix(1000, 5)); err != nil {
			t.Fatal(err)
		}
		c := s.build(v)
		x, tree := c.treeFor(t, op(), nil, nil)
		selected(t, x, tree, "")
		if reads(t, tree, "f") != strings.Repeat(fmt.Sprint(i), 1<<20) || reads(t, tree, "g") != strings.Repeat("g", 1<<20) {
			t.Error("files have something else")
		}
		c.endFor(t)
	}
	records, err := s.store.CacheRecords(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(records) != 1 || records[0].Type != store.TypeLocal || records[0].Size > 2<<20+256<<10 {
		t.Errorf("the cache has %+v", records)
	}
	if _, err := s.store.Prune(t.Context(), store.Policy{All: true}); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(s.store.Root(), "contexts")); err != nil || len(left) > 0 {
		t.Errorf("after prune there are %v, %v", left, err)
	}
}

// While a process has what is kept open, another one does without; whoever prunes it meanwhile ends no build.
func TestKeptByOneAtATime(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"f": "1"})
	s := newServer(t)
	v := s.connect("key", directory(t, dir))
	first := s.build(v)
	_, tree := first.treeFor(t, op(), nil, nil)
	other := *s
	other.kept = NewKept(s.store)
	second := other.build(v)
	_, otherTree := second.treeFor(t, op(), nil, nil)
	if reads(t, tree, "f") != "1" || reads(t, otherTree, "f") != "1" {
		t.Error("the file has something else")
	}
	second.endFor(t)
	if _, err := s.store.Prune(t.Context(), store.Policy{All: true}); err != nil {
		t.Fatal(err)
	}
	if reads(t, tree, "f") != "1" {
		t.Error("the file has something else after prune")
	}
	first.endFor(t)
	noneLeft(t, s)
}

// A directory that one session does not have is another one's.
func TestSessionsOfABuild(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"f": "1"})
	s := newServer(t)
	without := s.connect("key", filesync.NewFSSyncProvider(filesync.StaticDirSource{}))
	nothing, with := s.connect("key"), s.connect("key", directory(t, dir))
	c := s.build(nothing)
	c.opt.IDs = []string{"gone", nothing.id, without.id, with.id}
	for _, named := range []string{"", "gone", nothing.id} {
		if _, tree := c.treeFor(t, op(pb.AttrLocalSessionID, named), nil, nil); reads(t, tree, "f") != "1" {
			t.Errorf("session %q: the file has something else", named)
		}
	}
	// A session that has directories is asked alone.
	x, err := c.Context(op(pb.AttrLocalSessionID, "prefix:"+without.id))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Tree(t.Context(), nil, nil); err == nil || !strings.Contains(err.Error(), `no access allowed to dir "prefix-context"`) {
		t.Errorf("a directory that the client does not have: %v", err)
	}
	c = s.build(nothing)
	if x, err = c.Context(op(pb.AttrLocalSessionID, nothing.id)); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Tree(t.Context(), nil, nil); err == nil || err.Error() != "no local sources enabled" {
		t.Errorf("of a client without directories: %v", err)
	}
}

// Builds that read one session's directory list it once, and each may end when it likes.
func TestBuildsShareADirectory(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"f": "1", "g": "2"})
	s := newServer(t)
	own, shared := s.connect("key"), s.connect("key", directory(t, dir))
	source := op(pb.AttrLocalSessionID, shared.id)
	first, second := s.build(own), s.build(own)
	x, tree := first.treeFor(t, source, nil, nil)
	listed := first.Received()
	y, other := second.treeFor(t, source, nil, nil)
	if x != y || tree != other || second.Received() != listed {
		t.Errorf("the directory was listed twice: %d and %d bytes", listed, second.Received())
	}
	stranger := s.build(own)
	stranger.opt.Owner = "1"
	if z, _ := stranger.treeFor(t, source, nil, nil); z == x {
		t.Error("another owner's build has the same directory")
	}
	if reads(t, tree, "f") != "1" {
		t.Error("f has something else")
	}
	first.endFor(t)
	if reads(t, other, "g") != "2" {
		t.Error("g has something else")
	}
	second.endFor(t)
	stranger.endFor(t)
	noneLeft(t, s)
	if len(s.kept.hosts) > 0 {
		t.Errorf("%d sessions are kept", len(s.kept.hosts))
	}
	third := s.build(own) // later
	if _, tree := third.treeFor(t, source, nil, nil); reads(t, tree, "g") != "2" {
		t.Error("g has something else")
	}
	third.endFor(t)
}

// What builds share is of the session that both name: where that is gone, none is given another one's directory, and who ends while it
// waits for a session ends.
func TestBuildsShareNothingElse(t *testing.T) {
	s := newServer(t)
	var builds []*Client
	var sessions []*visitor
	for _, content := range []string{"first", "second"} {
		dir := t.TempDir()
		write(t, dir, map[string]string{"f": content})
		sessions = append(sessions, s.connect("key", directory(t, dir)))
		builds = append(builds, s.build(sessions[len(sessions)-1]))
	}
	for i, want := range []string{"first", "second"} {
		if _, tree := builds[i].treeFor(t, op(pb.AttrLocalSessionID, "gone"), nil, nil); reads(t, tree, "f") != want {
			t.Errorf("build %d has the directory of another one", i)
		}
	}
	shared := s.connect("key", liar(func(stream filesync.FileSync_DiffCopyServer) error { return stream.Context().Err() }))
	var all []local.Context
	for i := range builds {
		x, err := builds[i].Context(op(pb.AttrLocalSessionID, shared.id))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, x)
	}
	shared.leave()
	for i, x := range all {
		if tree, err := x.Tree(t.Context(), nil, nil); !errors.Is(err, ErrGone) {
			t.Errorf("build %d reads something else than the session that has gone: %v, %v", i, tree, err)
		}
		builds[i].endFor(t)
	}
	patient := s.build(sessions[0])
	patient.opt.Wait = time.Hour
	waits := make(chan error)
	go func() {
		_, err := patient.Context(op(pb.AttrLocalSessionID, "late"))
		waits <- err
	}()
	for begun := false; !begun; {
		patient.mu.Lock()
		begun = len(patient.hosts) > 0
		patient.mu.Unlock()
	}
	patient.endFor(t)
	if err := <-waits; !errors.Is(err, errClosed) {
		t.Errorf("a build that ended waits for a session: %v", err)
	}
	noneLeft(t, s)
	if len(s.kept.hosts) > 0 {
		t.Errorf("%d sessions are kept", len(s.kept.hosts))
	}
}

// When all builds are over that read a silent client's directory, nobody waits for it any more.
func TestBuildsOfASilentClient(t *testing.T) {
	s := newServer(t)
	asked := make(chan struct{}, 10)
	v := s.connect("key", liar(func(stream filesync.FileSync_DiffCopyServer) error {
		if err := lists(stream, regular("f", 4)); err != nil {
			return err
		}
		if _, err := stream.Recv(); err != nil {
			return err
		}
		asked <- struct{}{}
		<-stream.Context().Done()
		return nil
	}))
	over := errors.New("the build was cancelled")
	var builds []*Client
	var cancels []context.CancelCauseFunc
	read := make(chan error, 2)
	for range 2 {
		ctx, cancel := context.WithCancelCause(t.Context())
		c := New(ctx, Options{Sessions: s.sessions, IDs: []string{v.id}, Store: s.store, Kept: s.kept})
		_, tree := c.treeFor(t, op(pb.AttrLocalSessionID, v.id), nil, nil)
		go func() {
			_, err := layer.ReadFile(tree, "f")
			read <- err
		}()
		builds, cancels = append(builds, c), append(cancels, cancel)
	}
	<-asked
	cancels[0](over)
	select {
	case err := <-read:
		t.Errorf("reading ended while a build goes on: %v", err)
	default:
	}
	cancels[1](over)
	for range 2 {
		if err := <-read; !errors.Is(err, over) {
			t.Errorf("reading: %v", err)
		}
	}
	for _, c := range builds {
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	noneLeft(t, s)
}

// A client that goes ends what is read of it, at once and with words.
func TestSessionThatVanishes(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"f": "1", "g": "2"})
	s := newServer(t)
	v := s.connect("key", directory(t, dir))
	c := s.build(v)
	x, tree := c.treeFor(t, op(), nil, nil)
	if reads(t, tree, "f") != "1" {
		t.Error("the file has something else")
	}
	v.leave()
	if _, err := layer.ReadFile(tree, "g"); !errors.Is(err, ErrGone) {
		t.Errorf("reading a file: %v", err)
	}
	if reads(t, tree, "f") != "1" {
		t.Error("what was read before has something else")
	}
	if _, err := x.Tree(t.Context(), nil, []string{"x"}); !errors.Is(err, ErrGone) {
		t.Errorf("listing: %v", err)
	}
	c.endFor(t)
	noneLeft(t, s)
}

// metadata-only gives BuildKit's file of all attributes, and the contents that are asked for.
func TestMetadataOnly(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"a/b/wanted": "1", "a/b/other": "2", "c": "3"})
	s := newServer(t)
	c := s.build(s.connect("key", directory(t, dir)))
	x, tree := c.treeFor(t, op(pb.AttrMetadataTransfer, "true", pb.AttrMetadataTransferExclude, `["a/b/wanted"]`), nil, nil)
	selected(t, x, tree, "")
	strict := local.Strict(tree)
	var names []string
	if err := layer.Walk(strict, ".", func(e *layer.Entry) error { names = append(names, e.Path); return nil }); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(names, " "); got != ". .fsutil-metadata a a/b a/b/wanted" {
		t.Errorf("the tree has %s", got)
	}
	if reads(t, strict, "a/b/wanted") != "1" {
		t.Error("the file has something else")
	}
	dest := t.TempDir()
	caller, err := s.sessions.Get(t.Context(), c.opt.IDs[0], false)
	if err != nil {
		t.Fatal(err)
	}
	if err := filesync.FSSync(t.Context(), caller, filesync.FSSendRequestOpt{Name: "context", DestDir: dest, MetadataOnly: true}); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(dest, ".fsutil-metadata"))
	if err != nil {
		t.Fatal(err)
	}
	if got := reads(t, strict, ".fsutil-metadata"); got != string(want) || got == "" {
		t.Errorf("the attributes are %q, BuildKit's %q", got, want)
	}
}

var _ io.Closer = (*visitor)(nil)

func (v *visitor) Close() error { v.leave(); return nil }
