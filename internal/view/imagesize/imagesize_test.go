package imagesize

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// lab makes images of layers, each of which is lines: "PATH SIZE" is a file of so many bytes 'x' (or of the letter of a third word),
// "-PATH" a whiteout, "PATH=TARGET" a hard link, "!PATH" an opaque directory.
type lab struct {
	testing.TB
	s *store.Store
}

func newLab(t testing.TB) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("whiteouts need root")
	}
	dir, err := os.MkdirTemp("/dev/shm", "slipway-size-test-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s, err := store.Open(filepath.Join(dir, "store"))
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return &lab{t, s}
}

func (l *lab) layer(lines string) layer.ID {
	l.Helper()
	d, err := l.s.NewLayer()
	must(l, err)
	defer d.Abort()
	for _, line := range strings.Split(strings.TrimSpace(lines), "\n") {
		must(l, put(d.FS, strings.TrimSpace(line)))
	}
	id, err := d.Commit(l.Context())
	must(l, err)
	return id
}

func put(root, line string) error {
	at := func(name string) string {
		p := filepath.Join(root, name)
		_ = os.MkdirAll(filepath.Dir(p), 0o755)
		return p
	}
	if name, ok := strings.CutPrefix(line, "-"); ok {
		return unix.Mknod(at(name), unix.S_IFCHR, 0)
	}
	if name, ok := strings.CutPrefix(line, "!"); ok {
		return errors.Join(os.MkdirAll(at(name), 0o755), unix.Setxattr(at(name), "trusted.overlay.opaque", []byte("y"), 0))
	}
	if name, target, ok := strings.Cut(line, "="); ok {
		return os.Link(at(target), at(name))
	}
	var name string
	var n int
	letter := "x"
	fmt.Sscan(line, &name, &n, &letter)
	return os.WriteFile(at(name), []byte(strings.Repeat(letter, n)), 0o644)
}

func (l *lab) image(layers ...string) store.Image {
	l.Helper()
	ctx := l.Context()
	var config dockerspec.DockerOCIImage
	config.OS, config.Architecture, config.RootFS.Type = "linux", "amd64", "layers"
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	img := store.Image{}
	for i, lines := range layers {
		id := l.layer(lines)
		desc, diff, err := l.s.Blob(ctx, id, layer.Encoding{})
		must(l, err)
		config.RootFS.DiffIDs, m.Layers, img.Layers = append(config.RootFS.DiffIDs, diff), append(m.Layers, desc), append(img.Layers, id)
		config.History = append(config.History, ocispec.History{CreatedBy: "ENV", EmptyLayer: true}, ocispec.History{CreatedBy: fmt.Sprint("RUN /bin/sh -c ", i, " # buildkit")})
	}
	put := func(mediaType string, v any) ocispec.Descriptor {
		data, err := json.Marshal(v)
		must(l, err)
		desc, err := l.s.PutBlob(ctx, mediaType, data)
		must(l, err)
		return desc
	}
	m.Config = put(ocispec.MediaTypeImageConfig, config)
	img.Manifest = put(ocispec.MediaTypeImageManifest, m)
	img.ID, img.Size = m.Config.Digest, -1
	img.Name = img.ID.String()
	return img
}

func (l *lab) measure(img store.Image) *Report {
	l.Helper()
	r, err := Measure(l.Context(), l.s, "app", img, Options{})
	must(l, err)
	return r
}

var layers = []string{
	"etc/a 100\netc/b 200\nusr/lib/x 1000\nusr/lib/y 2000\nopt/one 50 o\nopt/two 60 o\nlinks/1 400\nlinks/2=links/1\nlinks/3=links/1\nkept/1 700 k\nkept/2=kept/1",
	"etc/a 100\netc/b 150\n-usr/lib\n-kept/1\n-links/1\n-links/2\n-links/3\n!opt\nopt/two 60 o",
	"-etc/b\nvar/cache/apk/APKINDEX 900\nroot/.cache/pip/http/q 70 q\napp/__pycache__/m.pyc 30",
	"-etc\nusr/lib/y 2000",
}

// TestHidden looks at each way in which a layer hides what is below it, in images whose layers are directories and in those that are blobs alone.
func TestHidden(t *testing.T) {
	l := newLab(t)
	r := l.measure(l.image(layers...))
	var got []string
	for _, h := range r.Hidden {
		got = append(got, fmt.Sprintf("%s %d/%d %d>%d %s", h.Path, h.Size, h.Files, h.Instruction, h.HiddenBy, h.How))
	}
	want := []string{
		"/usr/lib/ 3000/2 1>3 deleted", "/links/1 400/1 1>3 deleted", "/etc/b 200/1 1>3 replaced", "/etc/b 150/1 3>5 deleted",
		"/opt/ 110/2 1>3 deleted", "/etc/ 100/1 3>7 deleted", "/etc/a 100/1 1>3 rewritten",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("hidden: got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var hides, wasted, sizes int64
	for _, in := range r.Instructions {
		hides, wasted, sizes = hides+in.Hides, wasted+in.Wasted, sizes+in.Size
	}
	if r.Wasted != 4060 || hides != r.Wasted || wasted != r.Wasted || r.Size != r.Shown+r.Wasted || sizes != r.Size {
		t.Errorf("got size %d, shown %d, wasted %d; of instructions %d, %d, hiding %d", r.Size, r.Shown, r.Wasted, sizes, wasted, hides)
	}
	if r.Root.Size != r.Shown || r.Root.Files != r.Files {
		t.Errorf("the root has %d bytes in %d files, the image %d in %d", r.Root.Size, r.Root.Files, r.Shown, r.Files)
	}
}

func TestText(t *testing.T) {
	for by, want := range map[string]string{
		"RUN /bin/sh -c make # buildkit": "RUN make", "RUN |1 A=b /bin/sh -c make # buildkit": "RUN make", "/bin/sh -c #(nop)  CMD [\"sh\"]": "CMD [\"sh\"]",
		"/bin/sh -c make": "RUN make", "COPY a b # buildkit": "COPY a b", "RUN [\"make\"]": "RUN [\"make\"]",
	} {
		if got := (&Instruction{CreatedBy: by}).Text(); got != want {
			t.Errorf("%q: got %q, want %q", by, got, want)
		}
	}
}

// TestHistory compares sizes with those of `history`.
func TestHistory(t *testing.T) {
	l := newLab(t)
	img := l.image(layers...)
	r := l.measure(img)
	steps, err := view.ImageHistory(t.Context(), l.s, img)
	must(t, err)
	slices.Reverse(steps)
	for i, step := range steps {
		if got := r.Instructions[i]; got.Size != step.Size || got.CreatedBy != step.CreatedBy || got.Layer < 0 != step.EmptyLayer {
			t.Errorf("instruction %d: got %d bytes, layer %d, of %q; history has %d, %q", i, got.Size, got.Layer, got.CreatedBy, step.Size, step.CreatedBy)
		}
	}
}

func TestLeftovers(t *testing.T) {
	l := newLab(t)
	var got []string
	for _, left := range l.measure(l.image(layers...)).Leftovers {
		got = append(got, fmt.Sprint(left.ID, " ", left.Size, " ", left.By, " ", left.Places))
	}
	want := "apk-cache 900 [{5 900}] [{/var/cache/apk/ 900}]\npip-cache 70 [{5 70}] [{/root/.cache/pip/ 70}]\nbytecode 30 [{5 30}] [{/app/__pycache__/ 30}]"
	if strings.Join(got, "\n") != want {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
}

// TestRules has an example of each pattern, and places that look like one.
func TestRules(t *testing.T) {
	for name, want := range map[string]string{
		"/var/lib/apt/lists": "apt-lists", "/var/cache/apt": "apt-archives", "/home/u/.cache/pip": "pip-cache", "/x.cache/pip": "", "/home/u/.cache/pip2": "", "/home/u/.cache/pip/http": "", "/a/__pycache__": "bytecode",
		"/usr/lib/go-1.22": "compilers", "/usr/lib/llvm-15": "compilers", "/srv/repo/.git": "vcs", "/usr/share/doc": "docs", "/go/pkg/mod": "go-cache", "/usr/lib": "",
		"/usr/lib/jvm/java-17/jmods": "compilers", "/var/log": "logs", "/var/logs": "",
	} {
		if got := idOf(ruleOfDir(Rules(), name)); got != want {
			t.Errorf("directory %s: got rule %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]string{"/usr/lib/libz.a": "static-libraries", "/usr/lib/z.a": "", "/x/m.pyc": "bytecode", "/jdk/lib/src.zip": "compilers", "/src.zip": ""} {
		if got := idOf(ruleOfFile(Rules(), name)); got != want {
			t.Errorf("file %s: got rule %q, want %q", name, got, want)
		}
	}
	seen := map[string]bool{}
	for _, r := range Rules() {
		if seen[r.ID] || r.Why == "" || r.Fix == "" || r.What == "" || len(r.dirs)+len(r.file) == 0 {
			t.Errorf("rule %q is not whole, or comes twice", r.ID)
		}
		seen[r.ID] = true
	}
}

func idOf(r *Rule) string {
	if r == nil {
		return ""
	}
	return r.ID
}

func TestTwice(t *testing.T) {
	l := newLab(t)
	r := l.measure(l.image("a 500 a\nb=a\nc 500 c", "d 500 a\ne 500 a\n-c", "f 500 c"))
	if r.Twice.Size != 1500 || r.Twice.Files != 3 || len(r.Twice.Contents) != 2 {
		t.Fatalf("got %+v", r.Twice)
	}
	if got := fmt.Sprint(r.Twice.Contents[0].Places, r.Twice.Contents[1].Places); got != "[{/a 1} {/d 3} {/e 3}] [{/c 1} {/f 5}]" {
		t.Errorf("got %s", got)
	}
}

// dive computes what dive says of an image, by the rules of its filetree/efficiency.go and image/analysis.go.
func dive(t *testing.T, trees []layer.Tree) (efficiency float64, wasted int64) {
	type path struct {
		sum, least int64
		nodes      int
	}
	paths := map[string]*path{}
	for i, tree := range trees {
		below := layer.Merged(trees[:i])
		must(t, layer.Walk(tree, ".", func(e *layer.Entry) error {
			size := e.Size
			if e.IsDir() {
				if list, err := tree.ReadDir(e.Path); err != nil || len(list) > 0 {
					return err // it is no leaf
				}
			}
			if e.Whiteout {
				old, err := below.Lstat(e.Path)
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				if size = 0; old.IsDir() {
					must(t, layer.Walk(below, e.Path, func(e *layer.Entry) error { size += e.Size; return nil }))
				}
			}
			p := paths[e.Path]
			if p == nil {
				p = &path{least: size}
				paths[e.Path] = p
			}
			p.sum, p.least, p.nodes = p.sum+size, min(p.least, size), p.nodes+1
			return nil
		}))
	}
	var least, all int64
	for _, p := range paths {
		least, all = least+p.least, all+p.sum
		if p.nodes > 1 {
			wasted += p.sum
		}
	}
	return float64(least) / float64(all), wasted
}

// TestDive has a row for each difference that docs/size.md tells.
func TestDive(t *testing.T) {
	l := newLab(t)
	for _, c := range []struct {
		name                    string
		layers                  []string
		ours, theirs            int64
		efficiency, efficiency2 float64
	}{
		{"only added", []string{"a 1000", "b 1000"}, 0, 0, 1, 1},
		{"written again", []string{"a 1000", "a 3000 y"}, 1000, 4000, 0.75, 0.25},
		{"a file deleted", []string{"a 1000\nb 1000", "-a"}, 1000, 1000, 0.5, 0.5},
		{"a directory deleted", []string{"d/a 1000\nd/b 1000\nc 1000", "-d"}, 2000, 0, 1.0 / 3, 1},
		{"opaque", []string{"d/a 1000\nd/b 1000", "!d\nd/c 1000"}, 2000, 0, 1.0 / 3, 1},
	} {
		img := l.image(c.layers...)
		r := l.measure(img)
		var trees []layer.Tree
		for _, id := range img.Layers {
			tree, err := l.s.OwnTree(t.Context(), id, store.NeedMetadata)
			must(t, err)
			trees = append(trees, tree)
		}
		efficiency, wasted := dive(t, trees)
		near := func(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 }
		if r.Wasted != c.ours || wasted != c.theirs || !near(r.Efficiency, c.efficiency) || !near(efficiency, c.efficiency2) {
			t.Errorf("%s: got %d wasted, %.3f efficient; dive %d, %.3f; want %d, %.3f, %d, %.3f", c.name, r.Wasted, r.Efficiency, wasted, efficiency,
				c.ours, c.efficiency, c.theirs, c.efficiency2)
		}
	}
}
