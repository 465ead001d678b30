package engine

import (
	"bytes"
	"fmt"
	"io"
	"math/rand"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// write makes the directory form of what emit gives.
func write(t testing.TB, emit func(layer.Sink) error) string {
	t.Helper()
	dir := shm(t)
	w, err := layer.NewDirWriter(dir)
	must(t, err)
	must(t, emit(w))
	must(t, w.Close())
	return dir
}

func merged(dirs ...string) layer.Tree {
	var trees []layer.Tree
	for _, dir := range dirs {
		trees = append(trees, layer.OpenDir(dir, layer.DirOptions{Overlay: true}))
	}
	return layer.Merged(trees)
}

// describe lists everything of a tree but the root's own attributes, which no layer carries.
func describe(t testing.TB, tree layer.Tree) string {
	t.Helper()
	var out strings.Builder
	must(t, layer.Walk(tree, ".", func(e *layer.Entry) error {
		if e.Path == "." {
			return nil
		}
		content := ""
		if e.IsRegular() && e.Size > 0 {
			r, err := layer.OpenContent(e)
			if err != nil {
				return err
			}
			defer r.Close()
			data, err := io.ReadAll(r)
			if err != nil {
				return err
			}
			content = string(data)
		}
		fmt.Fprintf(&out, "%q %o %d:%d %d %s %q %d:%d %v %q\n", e.Path, e.Mode, e.UID, e.GID, e.Size,
			e.ModTime.UTC().Format(time.RFC3339Nano), e.Link, e.Major, e.Minor, e.Xattrs, content)
		return nil
	}))
	return out.String()
}

// random makes a layer of a few names, so that two of them have much in common. Times are few and
// often whole seconds, as in images: sizes and times alone tell little.
func random(r *rand.Rand) []*layer.Entry {
	var out []*layer.Entry
	var dir func(path string, depth int)
	dir = func(path string, depth int) {
		for _, n := range []string{"a", "b", "c", "d"} {
			if r.Intn(3) == 0 {
				continue
			}
			e := &layer.Entry{Path: strings.TrimPrefix(path+"/"+n, "/"), Mode: 0o644, ModTime: time.Unix(1e9, 0)}
			switch r.Intn(8) { // mostly as everything else
			case 0:
				e.Mode = 0o4711
			case 1:
				e.UID = 7
			case 2:
				e.ModTime = time.Unix(1e9+1, 0)
			case 3:
				e.ModTime = time.Unix(1e9, 500)
			}
			switch k := r.Intn(8); {
			case k < 3 && depth < 3:
				e.Mode |= unix.S_IFDIR
				out = append(out, e)
				dir(e.Path, depth+1)
				continue
			case k == 3:
				e.Mode, e.Link = unix.S_IFLNK|0o777, []string{"a", "/b"}[r.Intn(2)]
			case k == 4:
				e.Mode |= unix.S_IFIFO
			case k == 5:
				e.Mode, e.Major, e.Minor = e.Mode|unix.S_IFCHR, 1, uint32(r.Intn(2)+3)
			default:
				b := bytes.Repeat([]byte{byte('x' + r.Intn(2))}, r.Intn(2)+1)
				if r.Intn(2) == 0 {
					b = bytes.Repeat([]byte("0123456789abcdef"), 6_000) // more than one buffer
					b[len(b)-1] = byte('x' + r.Intn(2))
				}
				e.Mode |= unix.S_IFREG
				e.Content, e.Size = layer.Bytes(b), int64(len(b))
				if r.Intn(3) == 0 {
					e.Xattrs = map[string]string{"trusted.x": string(rune('a' + r.Intn(2)))}
				}
			}
			out = append(out, e)
		}
	}
	dir("", 0)
	return out
}

// vary leaves some files out and changes the content of others, and nothing else of them.
func vary(r *rand.Rand, entries []*layer.Entry) []*layer.Entry {
	var out []*layer.Entry
	for _, e := range entries {
		c := *e
		switch {
		case !e.IsDir() && r.Intn(4) == 0:
			continue
		case e.IsRegular() && r.Intn(3) == 0:
			c.Content = layer.Bytes(bytes.Repeat([]byte("y"), int(e.Size)))
		}
		out = append(out, &c)
	}
	return out
}

func add(entries []*layer.Entry) func(layer.Sink) error {
	return func(s layer.Sink) error {
		for _, e := range entries {
			if err := s.Add(e); err != nil {
				return err
			}
		}
		return nil
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes devices and files of other owners")
	}
}

// Whatever two filesystems are, the difference on top of the lower one gives the upper one.
func TestDiffAppliedIsUpper(t *testing.T) {
	needRoot(t)
	for seed := range int64(120) {
		r := rand.New(rand.NewSource(seed))
		a, b := random(r), random(r)
		if seed%2 == 1 {
			b = vary(r, a)
		}
		lower := write(t, add(a))
		upper := write(t, add(b))
		diff := write(t, func(s layer.Sink) error { return diffTrees(merged(lower), merged(upper), ".", s) })
		if got, want := describe(t, merged(lower, diff)), describe(t, merged(upper)); got != want {
			t.Fatalf("seed %d: lower\n%s\nwith the difference\n%s\nis\n%s\nwant\n%s", seed, describe(t, merged(lower)), describe(t, merged(diff)), got, want)
		}
		os.RemoveAll(lower)
		os.RemoveAll(upper)
		os.RemoveAll(diff)
	}
}

// A difference holds what changed and the directories on the way, nothing else.
func TestDiffIsSmall(t *testing.T) {
	at := time.Unix(1e9, 1)
	file := func(path, content string) *layer.Entry {
		return &layer.Entry{Path: path, Mode: unix.S_IFREG | 0o644, ModTime: at, Content: layer.Bytes(content), Size: int64(len(content))}
	}
	dir := func(path string) *layer.Entry {
		return &layer.Entry{Path: path, Mode: unix.S_IFDIR | 0o755, ModTime: at}
	}
	lower := write(t, add([]*layer.Entry{dir("d"), file("d/changed", "1"), file("d/gone", "x"), file("d/same", "x"), file("file", "x"), dir("tree"), file("tree/x", "x")}))
	upper := write(t, add([]*layer.Entry{dir("d"), file("d/changed", "22"), file("d/same", "x"), dir("file"), file("file/x", "x"), file("new", "x"), file("tree", "x")}))
	var got []string
	sink := sinkFunc(func(e *layer.Entry) error {
		name := e.Path
		if e.Whiteout {
			name += " gone"
		}
		if e.Opaque {
			name += " opaque"
		}
		got = append(got, name)
		return nil
	})
	must(t, diffTrees(merged(lower), merged(upper), ".", sink))
	want := []string{"d", "d/changed", "d/gone gone", "file opaque", "file/x", "new", "tree"}
	if !slices.Equal(got, want) {
		t.Errorf("the difference is %q, want %q", got, want)
	}
	got = nil
	must(t, diffTrees(merged(upper), merged(upper), ".", sink))
	for _, n := range got {
		if n != "d" && n != "file" {
			t.Errorf("the difference of a filesystem from itself has %q", n)
		}
	}
}

type sinkFunc func(*layer.Entry) error

func (f sinkFunc) Add(e *layer.Entry) error { return f(e) }
func (f sinkFunc) Close() error             { return nil }

func TestIsPrefix(t *testing.T) {
	for _, tt := range []struct {
		short, long string
		want        bool
	}{{"", "", true}, {"", "a", true}, {"a", "a", true}, {"a", "ab", true}, {"ab", "a", false}, {"b", "ab", false}, {"ab", "acb", false}} {
		if got := isPrefix(snapshot(tt.short), snapshot(tt.long)); got != tt.want {
			t.Errorf("%q begins %q: %t, want %t", tt.short, tt.long, got, tt.want)
		}
	}
}

// snapshot has a layer per letter.
func snapshot(names string) layer.Snapshot {
	var out layer.Snapshot
	for _, n := range names {
		out = append(out, layer.ID(n))
	}
	return out
}

func TestDistinct(t *testing.T) {
	for in, want := range map[string]string{"": "", "a": "a", "abc": "abc", "aba": "ba", "aabbaa": "ba", "abcb": "acb"} {
		if got := snapshot(in).Distinct(); !slices.Equal(got, snapshot(want)) {
			t.Errorf("%s is mounted as %v, want %s", in, got, want)
		}
	}
}

// A layer that is twice in a snapshot looks the same with its lower place left out.
func TestDistinctLooksTheSame(t *testing.T) {
	needRoot(t)
	for seed := range int64(30) {
		r := rand.New(rand.NewSource(seed))
		dirs := map[layer.ID]string{}
		for _, id := range snapshot("abc") {
			entries := random(r)
			for _, e := range entries {
				if e.IsDir() {
					e.Opaque = r.Intn(4) == 0
				} else if r.Intn(4) == 0 {
					*e = layer.Entry{Path: e.Path, Whiteout: true}
				}
			}
			dirs[id] = write(t, add(entries))
		}
		stack := func(snap layer.Snapshot) layer.Tree {
			var paths []string
			for _, id := range snap {
				paths = append(paths, dirs[id])
			}
			return merged(paths...)
		}
		for _, snap := range []string{"aba", "abab", "abcab", "acbbca"} {
			if got, want := describe(t, stack(snapshot(snap).Distinct())), describe(t, stack(snapshot(snap))); got != want {
				t.Fatalf("seed %d: %s looks like\n%s\nwithout repetitions like\n%s", seed, snap, want, got)
			}
		}
		for _, dir := range dirs {
			os.RemoveAll(dir)
		}
	}
}

// A layer with opaque directories is the same on those that it stood on without them, and hides nothing else of others.
func TestExplicitWhiteouts(t *testing.T) {
	needRoot(t)
	at := time.Unix(1e9, 1)
	file := func(path string) *layer.Entry {
		return &layer.Entry{Path: path, Mode: unix.S_IFREG | 0o644, ModTime: at, Content: layer.Bytes("x"), Size: 1}
	}
	dir := func(path string, opaque bool) *layer.Entry {
		return &layer.Entry{Path: path, Mode: unix.S_IFDIR | 0o755, ModTime: at, Opaque: opaque}
	}
	lower := write(t, add([]*layer.Entry{dir("d", false), dir("d/sub", false), file("d/sub/old"), file("d/gone"), dir("d/away", false), file("d/away/f")}))
	upper := write(t, add([]*layer.Entry{dir("d", true), file("d/new"), dir("d/sub", false), file("d/sub/new")}))
	other := write(t, add([]*layer.Entry{dir("d", false), file("d/other"), dir("d/away", false), file("d/away/other")}))
	own := layer.OpenDir(upper, layer.DirOptions{Overlay: true})
	explicit := write(t, func(s layer.Sink) error {
		return layer.WriteTree(own, &explicitSink{s, own, merged(lower), map[string]bool{}})
	})
	if got, want := describe(t, merged(lower, explicit)), describe(t, merged(lower, upper)); got != want {
		t.Errorf("on its layers it is\n%s\nwant\n%s", got, want)
	}
	want := describe(t, merged(write(t, add([]*layer.Entry{dir("d", false), file("d/new"), file("d/other"), dir("d/sub", false), file("d/sub/new")}))))
	if got := describe(t, merged(other, explicit)); got != want {
		t.Errorf("on another it is\n%s\nwant\n%s", got, want)
	}
}
