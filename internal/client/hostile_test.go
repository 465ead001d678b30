package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"strings"
	"testing"

	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/solver/pb"
	"github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc"

	"github.com/slipway-build/slipway/internal/layer"
)

// liar is a client that sends what a test says.
type liar func(stream filesync.FileSync_DiffCopyServer) error

func (l liar) Register(s *grpc.Server)                                  { filesync.RegisterFileSyncServer(s, l) }
func (l liar) DiffCopy(stream filesync.FileSync_DiffCopyServer) error   { return l(stream) }
func (l liar) TarStream(stream filesync.FileSync_TarStreamServer) error { return errors.New("unused") }

func regular(path string, size int64) *types.Stat {
	return &types.Stat{Path: path, Mode: 0o644, Size: size, ModTime: 1000}
}

func dir(path string) *types.Stat {
	return &types.Stat{Path: path, Mode: uint32(fs.ModeDir | 0o755), ModTime: 1000}
}

// lists sends the attributes of files.
func lists(stream filesync.FileSync_DiffCopyServer, files ...*types.Stat) error {
	for _, st := range append(files, nil) {
		if err := stream.Send(&types.Packet{Type: types.PACKET_STAT, Stat: st}); err != nil {
			return err
		}
	}
	return nil
}

// No directory has what such a client lists.
func TestHostileListings(t *testing.T) {
	s := newServer(t)
	link := func(path, to string) *types.Stat { return &types.Stat{Path: path, Mode: 0o644, Linkname: to} }
	for _, tc := range []struct {
		name  string
		files []*types.Stat
		err   string
	}{
		{"dots", []*types.Stat{regular("../x", 1)}, `escape check: "../x"`},
		{"dots alone", []*types.Stat{dir("..")}, `escape check: ".."`},
		{"dots inside", []*types.Stat{dir("a"), regular("a/../../x", 1)}, `unclean path`},
		{"absolute", []*types.Stat{regular("/etc/passwd", 1)}, `absolute path: "/etc/passwd"`},
		{"root", []*types.Stat{dir(".")}, `the path "."`},
		{"empty", []*types.Stat{dir("")}, `the path ""`},
		{"NUL", []*types.Stat{regular("a\x00b", 1)}, `the path "a\x00b"`},
		{"slash", []*types.Stat{dir("a/")}, `unclean path: "a/"`},
		{"duplicate", []*types.Stat{regular("a", 1), regular("a", 2)}, `"a" does not come where a walk has it`},
		{"order", []*types.Stat{regular("b", 1), regular("a", 1)}, `"a" does not come where a walk has it`},
		{"back to a directory", []*types.Stat{dir("a"), regular("b", 1), regular("a/x", 1)}, `"a/x" does not come where a walk has it`},
		{"no parent", []*types.Stat{regular("a/x", 1)}, `"a/x" does not come where a walk has it`},
		{"below a file", []*types.Stat{regular("a", 1), regular("a/x", 1)}, `"a/x" does not come where a walk has it`},
		{"below a link", []*types.Stat{{Path: "a", Mode: uint32(fs.ModeSymlink | 0o777), Linkname: "/"}, regular("a/x", 1)}, `"a/x" does not come where a walk has it`},
		{"long name", []*types.Stat{regular(strings.Repeat("n", 256), 1)}, "a name of 256 bytes"},
		{"long path", []*types.Stat{regular(strings.Repeat("n/", 5000)+"n", 1)}, "a path of 10001 bytes"},
		{"long link", []*types.Stat{{Path: "a", Mode: uint32(fs.ModeSymlink), Linkname: strings.Repeat("x", 5000)}}, `"a" is a link to 5000 bytes`},
		{"link to nothing", []*types.Stat{{Path: "a", Mode: uint32(fs.ModeSymlink)}}, `"a" is a link to nothing`},
		{"negative size", []*types.Stat{regular("a", -1)}, `"a" has -1 bytes`},
		{"huge size", []*types.Stat{regular("a", 1<<62)}, `"a" has 4611686018427387904 bytes`},
		{"odd mode", []*types.Stat{{Path: "a", Mode: uint32(fs.ModeDir | fs.ModeSymlink)}}, `"a" has mode`},
		{"irregular", []*types.Stat{{Path: "a", Mode: uint32(fs.ModeIrregular)}}, `"a" has mode`},
		{"device", []*types.Stat{{Path: "a", Mode: uint32(fs.ModeDevice), Devmajor: 1 << 40}}, `"a" is device 1099511627776:0`},
		{"hard link to nothing", []*types.Stat{link("a", "b")}, `"a" is another name of "b"`},
		{"hard link to itself", []*types.Stat{link("a", "a")}, `"a" is another name of "a"`},
		{"hard link to a later file", []*types.Stat{link("a", "b"), regular("b", 1)}, `"a" is another name of "b"`},
		{"hard link to a link", []*types.Stat{regular("a", 1), link("b", "a"), link("c", "b")}, `"c" is another name of "b"`},
		{"hard link to a directory", []*types.Stat{dir("a"), link("b", "a")}, `"b" is another name of "a"`},
		{"hard link outside", []*types.Stat{link("b", "/etc/passwd")}, `"b" is another name of "/etc/passwd"`},
	} {
		v := s.connect("key", liar(func(stream filesync.FileSync_DiffCopyServer) error {
			if err := lists(stream, tc.files...); err != nil {
				return err
			}
			_, err := stream.Recv()
			return err
		}))
		c := s.build(v)
		x, err := c.Context(op())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := x.Tree(t.Context(), nil, nil); !errors.Is(err, errHostile) || !strings.Contains(err.Error(), tc.err) || !strings.Contains(err.Error(), `reading the client's directory "context"`) {
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.err)
		}
		c.endFor(t)
		v.leave()
	}
	noneLeft(t, s)
}

// What nobody has room for ends before it takes it.
func TestListingsAreBounded(t *testing.T) {
	s := newServer(t)
	defer func(e uint32, l, h int64) { maxEntries, maxListing, maxHeld = e, l, h }(maxEntries, maxListing, maxHeld)
	maxEntries, maxListing, maxHeld = 5000, 200_000, 200_000
	endless := func(entry func(i int) *types.Stat) liar {
		return func(stream filesync.FileSync_DiffCopyServer) error {
			for i := 0; ; i++ {
				if err := stream.Send(&types.Packet{Type: types.PACKET_STAT, Stat: entry(i)}); err != nil {
					return err
				}
			}
		}
	}
	for _, tc := range []struct {
		name   string
		client liar
		err    string
	}{
		{"files", endless(func(i int) *types.Stat { return regular(fmt.Sprintf("%09d", i), 1) }), "more than 5000 files"},
		{"names", endless(func(i int) *types.Stat { return regular(fmt.Sprintf("%0200d", i), 1) }), "more than 200000 bytes"},
		{"attributes", endless(func(i int) *types.Stat {
			st := regular(fmt.Sprintf("%09d", i), 1)
			st.Xattrs = map[string][]byte{"user.x": make([]byte, 10<<10)}
			return st
		}), "more than 200000 bytes"},
		{"directories", endless(func(i int) *types.Stat { return dir(fmt.Sprintf("%09d", i)) }), "too many directories or hard links"},
		{"hard links", endless(func(i int) *types.Stat {
			return &types.Stat{Path: fmt.Sprintf("%09d", i), Mode: 0o644, Linkname: "x"}
		}), "too many directories or hard links"},
	} {
		c := s.build(s.connect("key", tc.client))
		x, err := c.Context(op())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := x.Tree(t.Context(), nil, nil); err == nil || !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.err)
		}
		c.endFor(t)
	}
	noneLeft(t, s)
}

// What a client sends although patterns leave it out is not there.
func TestWhatPatternsLeaveOutIsDropped(t *testing.T) {
	s := newServer(t)
	c := s.build(s.connect("key", liar(func(stream filesync.FileSync_DiffCopyServer) error {
		if err := lists(stream, dir("a"), regular("a/x", 1), regular("a/y", 1), regular("b", 1)); err != nil {
			return err
		}
		_, err := stream.Recv()
		if err == nil {
			err = stream.Send(&types.Packet{Type: types.PACKET_FIN})
		}
		return err
	})))
	for _, tc := range []struct {
		include, exclude []string
		want             string
	}{{nil, []string{"a/x"}, ". a a/y b"}, {[]string{"a/x"}, nil, ". a a/x"}} {
		_, tree := c.treeFor(t, op(), tc.include, tc.exclude)
		var names []string
		if err := layer.Walk(tree, ".", func(e *layer.Entry) error { names = append(names, e.Path); return nil }); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(names, " "); got != tc.want {
			t.Errorf("include %q, exclude %q: got %s, want %s", tc.include, tc.exclude, got, tc.want)
		}
	}
	c.endFor(t)
}

// What will be digested is asked for before it is waited for: here, many files before the first is answered.
func TestManyAreAskedForAhead(t *testing.T) {
	const files, ahead = 300, 200
	s := newServer(t)
	c := s.build(s.connect("key", liar(func(stream filesync.FileSync_DiffCopyServer) error {
		var all []*types.Stat
		for i := range files {
			all = append(all, regular(fmt.Sprintf("%05d", i), 1))
		}
		if err := lists(stream, all...); err != nil {
			return err
		}
		var asked []uint32
		for answered := 0; ; {
			p, err := stream.Recv()
			switch {
			case err != nil:
				return err
			case p.Type == types.PACKET_FIN:
				return stream.Send(p)
			}
			if asked = append(asked, p.ID); len(asked) < ahead {
				continue
			}
			for ; answered < len(asked); answered++ {
				for _, data := range []string{"x", ""} {
					if err := stream.Send(&types.Packet{Type: types.PACKET_DATA, ID: asked[answered], Data: []byte(data)}); err != nil {
						return err
					}
				}
			}
		}
	})))
	x, tree := c.treeFor(t, op(), nil, nil)
	selected(t, x, tree, "")
	c.endFor(t)
}

// Contents are those that were asked for, and of the size that was said.
func TestHostileContents(t *testing.T) {
	s := newServer(t)
	data := func(id uint32, text string) *types.Packet {
		return &types.Packet{Type: types.PACKET_DATA, ID: id, Data: []byte(text)}
	}
	for _, tc := range []struct {
		name   string
		answer []*types.Packet // to the request for f
		err    string
		alone  bool // the other file can be read
	}{
		{"more", []*types.Packet{data(0, "12"), data(0, "345"), data(0, "")}, `reading "f" of the client: it has more than the 4 bytes that the client said`, true},
		{"less", []*types.Packet{data(0, "12"), data(0, "")}, `reading "f" of the client: the client sent 2 of its 4 bytes`, true},
		{"nothing", []*types.Packet{data(0, "")}, `the client sent nothing of its 4 bytes`, true},
		{"another file", []*types.Packet{data(1, "12")}, "the content of file number 1, which it was not asked for", false},
		{"no file", []*types.Packet{data(1<<31, "12")}, "the content of file number 2147483648, which it was not asked for", false},
		{"twice", []*types.Packet{data(0, "1234"), data(0, ""), data(0, "5")}, "", false},
		{"names", []*types.Packet{{Type: types.PACKET_STAT, Stat: regular("x", 1)}}, "a packet of type 0 among contents", false},
		{"requests", []*types.Packet{{Type: types.PACKET_REQ}}, "a packet of type 1 among contents", false},
		{"an end", []*types.Packet{{Type: types.PACKET_FIN}}, "which is for the builder to say", false},
		{"an error", []*types.Packet{{Type: types.PACKET_ERR, Data: []byte("no \x1b[31mluck")}}, "error from sender: no [31mluck", false},
		{"an unknown packet", []*types.Packet{{Type: 77}}, "a packet of type 77 among contents", false},
	} {
		v := s.connect("key", liar(func(stream filesync.FileSync_DiffCopyServer) error {
			if err := lists(stream, regular("f", 4), regular("g", 1)); err != nil {
				return err
			}
			for {
				p, err := stream.Recv()
				if err != nil {
					return err
				}
				answer := tc.answer
				switch {
				case p.Type == types.PACKET_FIN:
					return stream.Send(p)
				case p.ID == 1:
					answer = []*types.Packet{data(1, "g"), data(1, "")}
				}
				for _, a := range answer {
					if err := stream.Send(a); err != nil {
						return err
					}
				}
			}
		}))
		c := s.build(v)
		c.opt.Owner = tc.name // nothing is known of the files
		_, tree := c.treeFor(t, op(), nil, nil)
		if _, err := layer.ReadFile(tree, "f"); (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.err)
		}
		_, err := layer.ReadFile(tree, "g")
		if tc.err != "" && (err == nil) != tc.alone {
			t.Errorf("%s: the other file: %v", tc.name, err)
		}
		c.endFor(t)
		v.leave()
	}
	noneLeft(t, s)
}

// A file that has no end is an error at once, and the build ends all the same.
func TestContentWithoutEnd(t *testing.T) {
	s := newServer(t)
	c := s.build(s.connect("key", liar(func(stream filesync.FileSync_DiffCopyServer) error {
		if err := lists(stream, regular("f", 4)); err != nil {
			return err
		}
		if _, err := stream.Recv(); err != nil {
			return err
		}
		for {
			if err := stream.Send(&types.Packet{Type: types.PACKET_DATA, Data: make([]byte, 1<<20)}); err != nil {
				return err
			}
		}
	})))
	_, tree := c.treeFor(t, op(), nil, nil)
	if _, err := layer.ReadFile(tree, "f"); !errors.Is(err, layer.ErrChanged) {
		t.Error(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Close(over); err != nil {
		t.Error(err)
	}
	noneLeft(t, s)
}

// A client that says nothing is waited for as long as who waits has patience, and keeps nobody from ending.
func TestSilentClient(t *testing.T) {
	s := newServer(t)
	asked := make(chan struct{}, 1)
	c := s.build(s.connect("key", liar(func(stream filesync.FileSync_DiffCopyServer) error {
		if err := lists(stream, regular("f", 4)); err != nil {
			return err
		}
		if _, err := stream.Recv(); err != nil {
			return err
		}
		asked <- struct{}{}
		<-stream.Context().Done()
		return nil
	})))
	x, tree := c.treeFor(t, op(), nil, nil)
	e, err := tree.Lstat("f")
	if err != nil {
		t.Fatal(err)
	}
	mine := errors.New("I have no time")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-asked
		cancel(mine)
	}()
	if _, err := x.Hash(ctx, e); !errors.Is(err, mine) {
		t.Errorf("reading: %v", err)
	}
	read := make(chan error)
	go func() {
		_, err := layer.ReadFile(tree, "f")
		read <- err
	}()
	over, cancel2 := context.WithCancel(t.Context())
	cancel2()
	if err := c.Close(over); err != nil {
		t.Error(err)
	}
	if err := <-read; err == nil {
		t.Error("what never came was read")
	}
	noneLeft(t, s)

	c = s.build(s.connect("key", liar(func(stream filesync.FileSync_DiffCopyServer) error {
		asked <- struct{}{}
		<-stream.Context().Done()
		return nil
	})))
	if x, err = c.Context(op()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithCancelCause(t.Context())
	go func() {
		<-asked
		cancel(mine)
	}()
	if _, err := x.Tree(ctx, nil, nil); !errors.Is(err, mine) {
		t.Errorf("listing: %v", err)
	}
	if err := c.Close(over); err != nil {
		t.Error(err)
	}
	noneLeft(t, s)
}

// A client that does not end a transfer, although it is told to, does not keep the build from its end.
func TestTransferWithoutEnd(t *testing.T) {
	s := newServer(t)
	told := make(chan struct{}, 1)
	v := s.connect("key", liar(func(stream filesync.FileSync_DiffCopyServer) error {
		if err := lists(stream, regular("f", 4)); err != nil {
			return err
		}
		for {
			if p, err := stream.Recv(); err != nil || p.Type == types.PACKET_FIN {
				break
			}
		}
		told <- struct{}{}
		<-stream.Context().Done()
		return nil
	}))
	for _, of := range []string{"", v.id} {
		c := s.build(v)
		c.treeFor(t, op(pb.AttrLocalSessionID, of), nil, nil)
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
		<-told
	}
	noneLeft(t, s)
}

// deaf is a stream of a client that neither reads nor says anything.
type deaf struct {
	grpc.ClientStream
	ctx context.Context
}

func (d deaf) wait() error                  { <-d.ctx.Done(); return context.Cause(d.ctx) }
func (d deaf) SendMsg(any) error            { return d.wait() }
func (d deaf) RecvMsg(any) error            { return d.wait() }
func (d deaf) Send(*types.Packet) error     { return d.wait() }
func (d deaf) Recv() (*types.Packet, error) { return nil, d.wait() }

// However many files a client is asked for that does not read, who waits for one of them does so as long as it likes.
func TestRequestsThatNobodyReads(t *testing.T) {
	const files = 10_000
	s := newServer(t)
	kept, release, err := s.kept.take("")
	if err != nil {
		t.Fatal(err)
	}
	tr := s.build(s.connect("key")).newTransfer("testing")
	tr.stream, tr.asked = deaf{ctx: tr.ctx}, make([]uint64, files/64+1)
	tr.run(kept)
	of := &tree{transfer: tr, contents: kept, release: release}
	mine := errors.New("I have no time")
	ctx, cancel := context.WithCancelCause(t.Context())
	errs := make(chan error)
	for i := range files {
		go func() {
			_, _, err := of.fetch(ctx, &file{tree: of, id: uint32(i), stamp: layer.Stamp{Size: 1}})
			errs <- err
		}()
	}
	for asked := 0; asked < files; {
		tr.mu.Lock()
		asked = len(tr.coming)
		tr.mu.Unlock()
		runtime.Gosched()
	}
	cancel(mine)
	for range files {
		if err := <-errs; !errors.Is(err, mine) {
			t.Fatalf("got %v", err)
		}
	}
	over, end := context.WithCancel(t.Context())
	end()
	of.end(over)
	if err := of.close(); err != nil {
		t.Error(err)
	}
}

// However many files a client lists, they are not held.
func TestListingIsNotHeld(t *testing.T) {
	const dirs, files = 500, 400
	s := newServer(t)
	c := s.build(s.connect("key", liar(func(stream filesync.FileSync_DiffCopyServer) error {
		for d := range dirs {
			name := fmt.Sprintf("directory-%05d", d)
			if err := stream.Send(&types.Packet{Type: types.PACKET_STAT, Stat: dir(name)}); err != nil {
				return err
			}
			for f := range files {
				if err := stream.Send(&types.Packet{Type: types.PACKET_STAT, Stat: regular(fmt.Sprintf("%s/file-%05d", name, f), 10)}); err != nil {
					return err
				}
			}
		}
		if err := lists(stream); err != nil {
			return err
		}
		_, err := stream.Recv()
		if err == nil {
			err = stream.Send(&types.Packet{Type: types.PACKET_FIN})
		}
		return err
	})))
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	_, tree := c.treeFor(t, op(), nil, nil)
	n := 0
	if err := layer.Walk(tree, ".", func(e *layer.Entry) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	if after := heap(); n != dirs*(files+1)+1 || after > before+2<<20 {
		t.Errorf("%d files take %d bytes of memory", n, int64(after-before))
	}
	runtime.KeepAlive(tree)
	c.endFor(t)
}

// What a client says of its files is read, and its packets in any order and form, without harm.
func FuzzListing(f *testing.F) {
	for _, st := range []*types.Stat{dir("a"), regular("a/b", 5), {Path: "l", Mode: uint32(fs.ModeSymlink), Linkname: "a"}, {Path: "m", Mode: 0o644, Linkname: "a/b"}} {
		data, err := st.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, data)
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		l, err := newListing(t.TempDir(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, data := range [][]byte{first, second} {
			st := &types.Stat{}
			if st.Unmarshal(data) == nil && l.add(st) != nil {
				return
			}
		}
		index, err := l.finish()
		if err != nil {
			return
		}
		tree := index.Tree(func(e *layer.IndexEntry) (io.ReadCloser, error) { return nil, errors.New("unused") })
		if err := layer.Walk(tree, ".", func(e *layer.Entry) error {
			if strings.HasPrefix(e.Path, "/") || strings.Contains("/"+e.Path+"/", "/../") || e.Size < 0 {
				t.Errorf("entry %+v", e)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}
