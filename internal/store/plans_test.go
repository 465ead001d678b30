package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/layer/layertest"
)

// planned is a plan of given entries. It counts how often it was written out.
type planned struct {
	entries []*layer.Entry
	written atomic.Int32
}

func (p *planned) WriteTo(sink layer.Sink) error {
	p.written.Add(1)
	for _, e := range p.entries {
		c := *e
		if err := sink.Add(&c); err != nil {
			return err
		}
	}
	return nil
}

func regular(path, content string) *layer.Entry {
	return &layer.Entry{Path: path, Mode: unix.S_IFREG | 0o640, UID: 7, GID: 8, Size: int64(len(content)), Content: layer.Bytes(content), ModTime: time.Unix(1e9, 123456789)}
}

// somePlan has one of every kind of entry.
func somePlan() *planned {
	at := time.Unix(1e9, 5)
	big := regular("dir/big", strings.Repeat("big", 100_000))
	big.Digest = digest.FromString(strings.Repeat("big", 100_000))
	return &planned{entries: []*layer.Entry{
		{Path: "dir", Mode: unix.S_IFDIR | 0o1777, UID: 3, ModTime: at, Xattrs: map[string]string{"trusted.a": "b"}},
		big,
		{Path: "dir/hard", Mode: unix.S_IFREG | 0o640, UID: 7, GID: 8, Hardlink: true, Link: "dir/big", ModTime: at},
		{Path: "dir/link", Mode: unix.S_IFLNK | 0o777, Link: "../x", ModTime: at},
		regular("empty", ""),
		{Path: "fifo", Mode: unix.S_IFIFO | 0o600, ModTime: at},
		{Path: "gone", Whiteout: true},
		{Path: "new", Mode: unix.S_IFDIR | 0o700, Opaque: true, ModTime: at},
		regular("new/x", "x"),
	}}
}

var planTime = time.Unix(1_234_567_890, 987654321)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes devices and files of other owners")
	}
}

func TestPlanForms(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	dir := func(s *Store, id layer.ID) error { _, err := s.Dir(ctx, id); return err }
	blob := func(s *Store, id layer.ID) error { _, _, err := s.Blob(ctx, id, layer.Encoding{}); return err }
	gz := func(s *Store, id layer.ID) error {
		_, _, err := s.Blob(ctx, id, layer.Encoding{Compression: layer.Gzip})
		return err
	}
	orders := map[string][]func(*Store, layer.ID) error{
		"directory, then blob": {dir, blob}, "blob, then directory": {blob, dir}, "only blob": {blob}, "gzip, then directory": {gz, dir},
		"at once": {func(s *Store, id layer.ID) error {
			errs := make(chan error)
			for range 4 {
				go func() { errs <- dir(s, id) }()
				go func() { errs <- blob(s, id) }()
			}
			var all error
			for range 8 {
				all = errors.Join(all, <-errs)
			}
			return all
		}},
	}
	plans := map[string]func(*Store, Planned, time.Time) (layer.ID, error){"one by one, ": (*Store).Plan, "together, ": (*Store).PlanBoth}
	var first digest.Digest
	for name, order := range crossed(plans, orders) {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			id, err := order.plan(s, somePlan(), planTime)
			must(t, err)
			if ok, err := s.Recorded(ctx, layer.Snapshot{id}); ok || err != nil {
				t.Errorf("a plan is recorded: %v, %v", ok, err)
			}
			if info, err := s.Layer(ctx, id); err != nil || info.Dir || info.DiffID != "" || info.Size != -1 || !info.Created.Equal(planTime) {
				t.Errorf("before anything is written the layer is %+v, %v", info, err)
			}
			for _, make := range order.forms {
				must(t, make(s, id))
				if ok, err := s.Recorded(ctx, layer.Snapshot{id}); !ok || err != nil {
					t.Errorf("a written layer is not recorded: %v", err)
				}
				wantClean(t, s)
			}
			s.EndPlans(id)
			// What was recorded is enough for another process.
			other := open(t, s.root)
			must(t, other.Check(ctx, layer.Snapshot{id}))
			desc, diff, err := other.Blob(ctx, id, layer.Encoding{})
			must(t, err)
			if first == "" {
				first = diff
			}
			if diff != first || desc.Digest != first {
				t.Errorf("the tar is %s of %s, in another order it was %s", desc.Digest, diff, first)
			}
			info, err := other.Layer(ctx, id)
			must(t, err)
			if !info.Created.Equal(planTime) || info.Size != 300_001 {
				t.Errorf("the layer is %+v, want it made at %v and 300001 bytes", info, planTime)
			}
			d, err := other.Dir(ctx, id)
			must(t, err)
			if data, err := os.ReadFile(filepath.Join(d, "dir/hard")); err != nil || len(data) != 300_000 {
				t.Errorf("the file has %d bytes, %v", len(data), err)
			}
		})
	}
}

// madeBy is a way to make forms of a plan.
type madeBy[F any] struct {
	plan  func(*Store, Planned, time.Time) (layer.ID, error)
	forms F
}

// crossed joins each way to plan with each way to make forms.
func crossed[F any](plans map[string]func(*Store, Planned, time.Time) (layer.ID, error), forms map[string]F) map[string]madeBy[F] {
	all := map[string]madeBy[F]{}
	for p, plan := range plans {
		for f, form := range forms {
			all[p+f] = madeBy[F]{plan, form}
		}
	}
	return all
}

// A layer of which both forms are wanted is read once for them, but for large files.
func TestBothFormsAreReadOnce(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	for name, first := range map[string]func(*Store, layer.ID) error{
		"directory": func(s *Store, id layer.ID) error { _, err := s.Dir(ctx, id); return err },
		"blob":      func(s *Store, id layer.ID) error { _, _, err := s.Blob(ctx, id, layer.Encoding{}); return err },
	} {
		s := newStore(t)
		var opened atomic.Int32
		e := regular("file", "content")
		e.Content = contentFunc(func() (io.ReadCloser, error) {
			opened.Add(1)
			return layer.Bytes("content").Open()
		})
		p := &planned{entries: []*layer.Entry{e}}
		id, err := s.PlanBoth(p, planTime)
		must(t, err)
		must(t, first(s, id))
		info, err := s.Layer(ctx, id)
		must(t, err)
		if opened, written := opened.Load(), p.written.Load(); written != 1 || opened != 1 || !info.Dir || info.DiffID == "" {
			t.Errorf("%s first: the plan was written %d times, and the file opened %d times, for %+v", name, written, opened, info)
		}
		s.EndPlans(id)
		dir, err := s.Dir(ctx, id)
		must(t, err)
		_, diff, err := s.Blob(ctx, id, layer.Encoding{})
		must(t, err)
		if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(got) != "content" {
			t.Errorf("%s first: the file has %q, %v", name, got, err)
		}
		if desc, err := s.pack(ctx, id, ""); err != nil || desc.Digest != diff {
			t.Errorf("%s first: the directory's tar is %s, %v, and the blob's %s", name, desc.Digest, err, diff)
		}
		wantClean(t, s)
	}
}

// fullOnce is a plan that finds the disk full halfway, the first time.
type fullOnce struct{ planned }

func (p *fullOnce) WriteTo(sink layer.Sink) error {
	err := p.planned.WriteTo(sink)
	if err == nil && p.written.Load() == 1 {
		err = unix.ENOSPC
	}
	return err
}

// Forms that found no space are written once more from the beginning.
func TestFormsOnceMore(t *testing.T) {
	ctx := context.Background()
	want := digest.Digest("")
	for _, form := range []string{"directory", "both", "both"} {
		s := newStore(t)
		result(t, s, "idle", made(t, s, files("idle")))
		must(t, s.Close())
		s = open(t, s.root)
		p := &fullOnce{planned{entries: []*layer.Entry{regular("a", "content"), regular("b", "more")}}}
		if want != "" {
			p.written.Store(1) // it is not full
		}
		id, err := planFor(form)(s, p, planTime)
		must(t, err)
		_, err = s.Dir(ctx, id)
		must(t, err)
		if info, err := s.Layer(ctx, id); err != nil || info.Size != 11 || !info.Dir {
			t.Errorf("%s: the layer is %+v, %v", form, info, err)
		}
		_, diff, err := s.Blob(ctx, id, layer.Encoding{})
		must(t, err)
		if form == "both" && want != "" && diff != want {
			t.Errorf("its tar is %s, want %s", diff, want)
		}
		if form == "both" {
			want = diff
		}
		s.EndPlans(id)
		wantClean(t, s)
	}
}

// A plan of which nobody needed a form leaves nothing.
func TestPlanThatNobodyNeeds(t *testing.T) {
	s := newStore(t)
	p := somePlan()
	id, err := s.Plan(p, planTime)
	must(t, err)
	tree, err := s.Tree(context.Background(), layer.Snapshot{id}, NeedContent)
	must(t, err)
	if got, err := layer.ReadFile(tree, "new/x"); string(got) != "x" {
		t.Errorf("the planned file is %q, %v", got, err)
	}
	if n, err := s.Size(context.Background(), id); n != 300_001 {
		t.Errorf("size is %d, %v", n, err)
	}
	s.EndPlans(id)
	if _, err := s.Layer(context.Background(), id); !errors.Is(err, ErrNotFound) {
		t.Errorf("the layer is there still: %v", err)
	}
	wantNothing(t, s)
}

// wantNothing fails when the store has a layer or a blob.
func wantNothing(t *testing.T, s *Store) {
	t.Helper()
	wantClean(t, s)
	for _, table := range []string{"layers", "blobs", "layer_blobs"} {
		var n int
		must(t, s.db.QueryRow("SELECT count(*) FROM "+table).Scan(&n))
		if n != 0 {
			t.Errorf("table %s has %d rows", table, n)
		}
	}
	for _, dir := range []string{"layers/*", "blobs/sha256/*"} {
		if left, _ := filepath.Glob(filepath.Join(s.root, dir)); len(left) > 0 {
			t.Errorf("these were left behind: %q", left)
		}
	}
}

// planFor gives the way to plan a layer for its form.
func planFor(form string) func(*Store, Planned, time.Time) (layer.ID, error) {
	if form == "both" {
		return (*Store).PlanBoth
	}
	return (*Store).Plan
}

// Wherever writing a plan is cancelled, also just before it is recorded, it leaves nothing that
// nobody knows, and can be done again.
func TestCancelledPlan(t *testing.T) {
	if testing.Short() {
		t.Skip("long: is cancelled at each of its calls")
	}
	needRoot(t)
	cancelled := map[string]int{}
	for n := range int64(40) {
		for name, write := range map[string]func(*Store, context.Context, layer.ID) error{
			"directory": (*Store).makeDir,
			"blob": func(s *Store, ctx context.Context, id layer.ID) error {
				_, err := s.makeBlob(ctx, id, layer.Encoding{})
				return err
			},
			"both": (*Store).makeDir,
		} {
			s := newStore(t)
			id, err := planFor(name)(s, somePlan(), planTime)
			must(t, err)
			left := &atomic.Int64{}
			left.Store(n)
			err = write(s, endsAfter{context.Background(), left}, id)
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("%s: %v", name, err)
				}
				cancelled[name]++
				recorded, err := s.Recorded(context.Background(), layer.Snapshot{id}) // the blob may be there, but not the directory
				must(t, err)
				if left, _ := filepath.Glob(filepath.Join(s.root, "layers", "*")); len(left) > 0 && !(name == "both" && recorded) {
					t.Errorf("%s, cancelled after %d looks, left %q", name, n, left)
				}
			}
			s.EndPlans()
			must(t, write(s, context.Background(), id))
			s.EndPlans(id)
			wantClean(t, s)
		}
	}
	if cancelled["both"] < 5 || cancelled["directory"] < 5 || cancelled["blob"] < 5 {
		t.Errorf("only %v were cancelled", cancelled)
	}
}

// A layer whose record cannot be written leaves no directory: nobody would ever look for it.
func TestPlanThatCannotBeRecorded(t *testing.T) {
	needRoot(t)
	for _, form := range []string{"directory", "blob", "both"} {
		s := newStore(t)
		id, err := planFor(form)(s, somePlan(), planTime)
		must(t, err)
		_, err = s.db.Exec("CREATE TRIGGER refuse BEFORE INSERT ON layers BEGIN SELECT RAISE(ABORT, 'refused'); END")
		must(t, err)
		if form == "blob" {
			_, _, err = s.Blob(context.Background(), id, layer.Encoding{})
		} else {
			_, err = s.Dir(context.Background(), id)
		}
		wantErr(t, err, "refused")
		if left, _ := filepath.Glob(filepath.Join(s.root, "layers", "*")); len(left) > 0 {
			t.Errorf("%s: left %q", form, left)
		}
		_, err = s.db.Exec("DROP TRIGGER refuse")
		must(t, err)
		_, err = s.Dir(context.Background(), id)
		must(t, err)
	}
}

// Content that is not what it was when the plan was made fails both forms, also when its size is
// the same.
func TestPlanOfChangedContent(t *testing.T) {
	for _, now := range []string{"bytes now", "shorter", "and longer than before"} {
		e := regular("file", "bytes was")
		e.Digest, e.Content = digest.FromString("bytes was"), layer.Bytes(now)
		for _, form := range []string{"each", "both"} {
			s := newStore(t)
			id, err := planFor(form)(s, &planned{entries: []*layer.Entry{regular("a", "a"), e}}, planTime)
			must(t, err)
			_, err = s.Dir(context.Background(), id)
			wantErr(t, err, "file changed while being read")
			_, _, err = s.Blob(context.Background(), id, layer.Encoding{Compression: layer.Gzip})
			wantErr(t, err, "file changed while being read")
			s.EndPlans(id)
			wantNothing(t, s)
		}
	}
}

// brokenContent fails halfway.
type brokenContent struct{}

func (brokenContent) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(strings.NewReader("half"), errReader{})), nil
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("the disk is gone") }

func TestPlanThatCannotBeRead(t *testing.T) {
	e := regular("file", "12345678")
	e.Content = brokenContent{}
	for _, form := range []string{"each", "both"} {
		cannotBeRead(t, planFor(form), e)
	}
}

func cannotBeRead(t *testing.T, plan func(*Store, Planned, time.Time) (layer.ID, error), e *layer.Entry) {
	s := newStore(t)
	id, err := plan(s, &planned{entries: []*layer.Entry{e}}, planTime)
	must(t, err)
	var wg sync.WaitGroup
	for range 3 {
		wg.Add(2)
		go func() {
			defer wg.Done()
			_, err := s.Dir(context.Background(), id)
			wantErr(t, err, "the disk is gone")
		}()
		go func() {
			defer wg.Done()
			_, _, err := s.Blob(context.Background(), id, layer.Encoding{})
			wantErr(t, err, "the disk is gone")
		}()
	}
	wg.Wait()
	s.EndPlans(id)
	wantNothing(t, s)
}

// One caller's being cancelled is not the others' failure, and it does not wait for them: what it began goes on for them.
func TestCancelledCallerDoesNotFailOthers(t *testing.T) {
	s := newStore(t)
	entered, release := make(chan struct{}), make(chan struct{})
	var times atomic.Int64
	p := &planned{entries: []*layer.Entry{regular("a", "a"), regular("file", "content")}}
	p.entries[1].Content = contentFunc(func() (io.ReadCloser, error) {
		if times.Add(1) == 1 {
			close(entered)
		}
		<-release
		return layer.Bytes("content").Open()
	})
	p.entries = append(p.entries, regular("z", "z"))
	id, err := s.Plan(p, planTime)
	must(t, err)
	cause := fmt.Errorf("another build failed")
	ctx, cancel := context.WithCancelCause(context.Background())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { _, err := s.Dir(ctx, id); first <- err }()
	<-entered
	go func() { _, err := s.Dir(context.Background(), id); second <- err }()
	layertest.WaitBlocked(t, "store.(*Store).once", 2) // the second one waits for the first one
	cancel(cause)
	if err := <-first; !errors.Is(err, cause) {
		t.Errorf("the cancelled caller got %v", err)
	}
	close(release)
	if err := <-second; err != nil || times.Load() != 1 {
		t.Errorf("the other caller got %v, and the file was read %d times", err, times.Load())
	}
}

type contentFunc func() (io.ReadCloser, error)

func (f contentFunc) Open() (io.ReadCloser, error) { return f() }

// unsteady gives other entries each time.
type unsteady struct{ n atomic.Int32 }

func (u *unsteady) WriteTo(sink layer.Sink) error {
	return sink.Add(regular("file", fmt.Sprint(u.n.Add(1))))
}

func TestVerifyForms(t *testing.T) {
	needRoot(t)
	s, err := Open(filepath.Join(shm(t), "store"), VerifyForms())
	must(t, err)
	defer s.Close()
	id, err := s.Plan(&unsteady{}, planTime)
	must(t, err)
	_, _, err = s.Blob(context.Background(), id, layer.Encoding{})
	wantErr(t, err, "verifying layer "+string(id))
	s.EndPlans(id)
	wantNothing(t, s)
	p := somePlan()
	id, err = s.Plan(p, planTime)
	must(t, err)
	_, _, err = s.Blob(context.Background(), id, layer.Encoding{})
	must(t, err)
	if n := p.written.Load(); n != 2 {
		t.Errorf("the plan was written %d times, want 2", n)
	}
	wantClean(t, s)
}

// Another build in the process may use a layer that one build has planned and written: what it
// sees of it outlives the plan.
func TestPlanThatIsOverForOthers(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	s := newStore(t)
	var over atomic.Bool
	entered, release := make(chan struct{}), make(chan struct{})
	var slow atomic.Bool
	p := &planned{entries: []*layer.Entry{regular("file", "content")}}
	p.entries[0].Content = contentFunc(func() (io.ReadCloser, error) {
		if over.Load() {
			return nil, errors.New("the plan is over")
		}
		if slow.CompareAndSwap(true, false) {
			close(entered)
			<-release
		}
		return layer.Bytes("content").Open()
	})
	id, err := s.Plan(p, planTime)
	must(t, err)
	_, _, err = s.Blob(ctx, id, layer.Encoding{})
	must(t, err)
	tree, err := s.Tree(ctx, layer.Snapshot{id}, NeedContent)
	must(t, err)
	slow.Store(true)
	written := make(chan error, 1)
	go func() { _, err := s.Dir(ctx, id); written <- err }()
	<-entered
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.EndPlans(id)
		over.Store(true)
	}()
	layertest.WaitBlocked(t, "(*Store).EndPlans", 1)
	select {
	case <-ended:
		t.Error("the plan ended while it was written")
	default:
	}
	close(release)
	<-ended
	must(t, <-written)
	if got, err := layer.ReadFile(tree, "file"); string(got) != "content" {
		t.Errorf("after the plan's end the file is %q, %v", got, err)
	}
	wantClean(t, s)
}

// One large file does not keep a cancelled build waiting.
func TestCancelledInTheMiddleOfAFile(t *testing.T) {
	for _, form := range []string{"directory", "blob", "both"} {
		s := newStore(t)
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(context.Background())
		var read atomic.Int64
		e := regular("file", "")
		e.Size, e.Digest = 1<<40, digest.FromString("never read to its end")
		e.Content = contentFunc(func() (io.ReadCloser, error) {
			return io.NopCloser(readerFunc(func(p []byte) (int, error) {
				if read.Add(int64(len(p))) > 8<<20 {
					cancel(cause)
				}
				if read.Load() > 64<<20 {
					return 0, errors.New("it goes on and on")
				}
				return len(p), nil
			})), nil
		})
		id, err := planFor(form)(s, &planned{entries: []*layer.Entry{e}}, planTime)
		must(t, err)
		if form == "blob" {
			_, _, err = s.Blob(ctx, id, layer.Encoding{})
		} else {
			_, err = s.Dir(ctx, id)
		}
		if !errors.Is(err, cause) {
			t.Errorf("%s: error is %v, want %v", form, err, cause)
		}
		s.EndPlans(id)
		wantNothing(t, s)
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// rewritten is a file of the host that somebody writes to when it was just opened.
type rewritten struct{ layer.Stamped }

func (r rewritten) Open() (io.ReadCloser, error) {
	f, err := r.Stamped.Open()
	if err != nil {
		return nil, err
	}
	w, err := os.OpenFile(f.(*os.File).Name(), os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	before, err := w.Stat()
	for now := before; err == nil && now.ModTime().Equal(before.ModTime()); { // until the filesystem's clock ticks
		_, err = w.WriteAt([]byte("!"), 1)
		if err == nil {
			now, err = w.Stat()
		}
	}
	return f, errors.Join(err, w.Close())
}

// A file that is written to while it is read is no more the one that was digested, even when it
// keeps its size.
func TestPlanOfFileThatIsRewritten(t *testing.T) {
	for _, size := range []int{10, 1 << 20} {
		for _, form := range []string{"directory", "blob", "both"} {
			dir, content := shm(t), strings.Repeat("c", size)
			must(t, os.WriteFile(filepath.Join(dir, "file"), []byte(content), 0o644))
			e, err := layer.OpenDir(dir, layer.DirOptions{}).Lstat("file")
			must(t, err)
			e.Digest = digest.FromString(content)
			e.Content = rewritten{e.Content.(layer.Stamped)}
			s := newStore(t)
			id, err := planFor(form)(s, &planned{entries: []*layer.Entry{e}}, planTime)
			must(t, err)
			if form == "blob" {
				_, _, err = s.Blob(context.Background(), id, layer.Encoding{})
			} else {
				_, err = s.Dir(context.Background(), id)
			}
			if err == nil || !strings.Contains(err.Error(), "changed while") {
				t.Errorf("%s of %d bytes: error is %v", form, size, err)
			}
			s.EndPlans(id)
			wantNothing(t, s)
		}
	}
}

// A file that changed since this process began may have changed twice in one tick of the clock: its
// stamp proves nothing, in neither form.
func TestPlanOfFreshFile(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("content"), 0o644))
	e, err := layer.OpenDir(dir, layer.DirOptions{}).Lstat("f")
	must(t, err)
	e.Digest = digest.FromString("another")
	for form, write := range map[string]func(*Store, layer.ID) error{
		"directory": func(s *Store, id layer.ID) error { _, err := s.Dir(context.Background(), id); return err },
		"blob": func(s *Store, id layer.ID) error {
			_, _, err := s.Blob(context.Background(), id, layer.Encoding{})
			return err
		},
		"both": func(s *Store, id layer.ID) error { _, err := s.Dir(context.Background(), id); return err },
	} {
		s := newStore(t)
		id, err := planFor(form)(s, oneEntry{e}, time.Now())
		must(t, err)
		if err := write(s, id); err == nil {
			t.Errorf("the %s was written with another content than its digest says", form)
		}
		s.EndPlans(id)
	}
}

type oneEntry struct{ e *layer.Entry }

func (o oneEntry) WriteTo(sink layer.Sink) error { return sink.Add(o.e) }
