package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
)

// watched runs a test that may deadlock; it fails after a while, with all goroutines, and when
// goroutines are left over.
func watched(t *testing.T, fn func(t *testing.T)) {
	t.Helper()
	before := runtime.NumGoroutine()
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn(t)
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		buf := make([]byte, 1<<20)
		panic(fmt.Sprintf("%s hangs:\n%s", t.Name(), buf[:runtime.Stack(buf, true)]))
	}
	for range 12_000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	buf := make([]byte, 1<<20)
	t.Errorf("%d goroutines are left, before it were %d:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
}

// remote is a layer that has to be fetched.
type remote struct {
	id    layer.ID
	desc  ocispec.Descriptor
	data  []byte // of the blob
	noise string // content of the file "noise"
}

const remoteSize = 3 << 20

// newRemote makes a layer whose blob is not in the store.
func newRemote(t *testing.T, s *Store, c layer.Compression) *remote {
	t.Helper()
	b := make([]byte, remoteSize)
	rand.New(rand.NewSource(1)).Read(b)
	r := &remote{noise: string(b)}
	// Others pack layers in other ways: here with more zeros at the end.
	plain := append(tarOf(map[string]string{"a": "first", "noise": r.noise, "z": "last"}), make([]byte, 1024)...)
	r.data = packed(t, plain, c)
	r.desc = ocispec.Descriptor{MediaType: layerMediaType(c), Digest: digest.FromBytes(r.data), Size: int64(len(r.data))}
	var err error
	r.id, err = s.BlobLayer(context.Background(), digest.FromBytes(plain), r.desc)
	must(t, err)
	return r
}

// fetch writes the blob as a registry would send it.
func (r *remote) fetch(s *Store) Fetch {
	return func(ctx context.Context) error {
		return s.WriteBlob(ctx, r.desc, layer.ContextReader(ctx, bytes.NewReader(r.data)))
	}
}

func (r *remote) wantDir(t *testing.T, s *Store) {
	t.Helper()
	dir, err := s.Dir(context.Background(), r.id)
	if err != nil {
		t.Error(err)
		return
	}
	for name, want := range map[string]string{"a": "first", "noise": r.noise, "z": "last"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s has %d bytes, %v, want %d", name, len(got), err, len(want))
		}
	}
	if info, err := s.Layer(context.Background(), r.id); err != nil || !info.Dir || info.Size != remoteSize+9 {
		t.Errorf("the layer is %+v, %v", info, err)
	}
}

// wantNotHere fails when there is a form of the layer.
func (r *remote) wantNotHere(t *testing.T, s *Store) {
	t.Helper()
	wantClean(t, s)
	if s.HasBlob(r.desc.Digest) {
		t.Error("the blob is in the store")
	}
	if left, _ := filepath.Glob(filepath.Join(s.root, "layers", "*", "*")); len(left) > 0 {
		t.Errorf("left %q", left)
	}
	s.taps.Range(func(k, _ any) bool { t.Errorf("the tap of %s is left", k); return true })
}

func TestUnpackWhileFetching(t *testing.T) {
	for _, c := range []layer.Compression{layer.Gzip, layer.Zstd, layer.Uncompressed} {
		t.Run("compression "+string(c), func(t *testing.T) {
			s := newStore(t)
			r := newRemote(t, s, c)
			watched(t, func(t *testing.T) {
				var fetched atomic.Int32
				// The second half comes only when the beginning was unpacked: nothing waits for the whole.
				started := func() bool {
					left, _ := filepath.Glob(filepath.Join(s.root, "tmp", "*", "*", "fs", "a"))
					return len(left) == 1
				}
				forget := s.SetFetch(r.id, func(ctx context.Context) error {
					fetched.Add(1)
					half := len(r.data) / 2
					return s.WriteBlob(ctx, r.desc, io.MultiReader(bytes.NewReader(r.data[:half]), waitReader(started), bytes.NewReader(r.data[half:])))
				})
				defer forget()
				r.wantDir(t, s)
				if !s.HasBlob(r.desc.Digest) {
					t.Error("the blob was not kept")
				}
				if n := fetched.Load(); n != 1 {
					t.Errorf("fetched %d times", n)
				}
				if _, _, err := s.Blob(context.Background(), r.id, layer.Encoding{}); err != nil {
					t.Error(err)
				}
				wantClean(t, s)
			})
		})
	}
}

// waitReader ends when something has happened.
type waitReader func() bool

func (w waitReader) Read([]byte) (int, error) {
	for range 12_000 {
		if w() {
			return 0, io.EOF
		}
		time.Sleep(5 * time.Millisecond)
	}
	return 0, errors.New("the layer is not unpacked while it is fetched")
}

var errLine = errors.New("the line is dead")

func TestFetchFails(t *testing.T) {
	tests := []struct {
		name  string
		fetch func(*Store, *remote) Fetch
		want  string
	}{
		{"at once", func(*Store, *remote) Fetch { return func(context.Context) error { return errLine } }, errLine.Error()},
		{"halfway", func(s *Store, r *remote) Fetch {
			return func(ctx context.Context) error {
				return s.WriteBlob(ctx, r.desc, io.MultiReader(bytes.NewReader(r.data[:1<<20]), lineReader{}))
			}
		}, errLine.Error()},
		{"too short", func(s *Store, r *remote) Fetch {
			return func(ctx context.Context) error {
				return s.WriteBlob(ctx, r.desc, bytes.NewReader(r.data[:len(r.data)-1]))
			}
		}, "bytes, want"},
		{"other content", func(s *Store, r *remote) Fetch {
			other := bytes.Clone(r.data)
			other[len(other)/2] ^= 1
			return func(ctx context.Context) error { return s.WriteBlob(ctx, r.desc, bytes.NewReader(other)) }
		}, "content is sha256:"},
		{"never writes", func(*Store, *remote) Fetch { return func(context.Context) error { return nil } }, "no blob of it is in the store"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			r := newRemote(t, s, layer.Gzip)
			watched(t, func(t *testing.T) {
				forget := s.SetFetch(r.id, tt.fetch(s, r))
				_, err := s.Dir(context.Background(), r.id)
				wantErr(t, err, tt.want)
				r.wantNotHere(t, s)
				_, err = s.Tree(context.Background(), layer.Snapshot{r.id}, NeedContent)
				wantErr(t, err, tt.want)
				if tt.name != "never writes" { // then whoever asks for a blob makes one of the directory, and there is none
					_, _, err = s.Blob(context.Background(), r.id, layer.Encoding{Compression: layer.Gzip})
					wantErr(t, err, tt.want)
					_, err = s.Tree(context.Background(), layer.Snapshot{r.id}, NeedMetadata)
					wantErr(t, err, tt.want)
				}
				r.wantNotHere(t, s)
				forget()
				// Another one who can fetch it gets it.
				forget = s.SetFetch(r.id, r.fetch(s))
				defer forget()
				r.wantDir(t, s)
				wantClean(t, s)
			})
		})
	}
}

type lineReader struct{}

func (lineReader) Read([]byte) (int, error) { return 0, errLine }

// The blob is right, and is not what the image says: it stays, and the layer has no directory.
func TestFetchedLayerOfOtherContent(t *testing.T) {
	s := newStore(t)
	data := packed(t, tarOf(map[string]string{"a": strings.Repeat("a", 1<<20)}), layer.Gzip)
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(data), Size: int64(len(data))}
	id, err := s.BlobLayer(context.Background(), digest.FromString("other"), desc)
	must(t, err)
	watched(t, func(t *testing.T) {
		defer s.SetFetch(id, func(ctx context.Context) error { return s.WriteBlob(ctx, desc, bytes.NewReader(data)) })()
		_, err = s.Dir(context.Background(), id)
		wantErr(t, err, "expected diffID "+digest.FromString("other").String())
		wantClean(t, s)
		if len(unpackedLayers(t, s)) > 0 {
			t.Error("the layer was unpacked")
		}
	})
}

// One who cannot get a layer, or whose build ends, keeps it from nobody who can; when nobody can the first error counts.
func TestFetchByAnother(t *testing.T) {
	s := newStore(t)
	r := newRemote(t, s, layer.Gzip)
	watched(t, func(t *testing.T) {
		denied := errors.New("denied")
		defer s.SetFetch(r.id, func(context.Context) error { return denied })()
		defer s.SetFetch(r.id, func(context.Context) error { return errLine })()
		_, err := s.Dir(t.Context(), r.id)
		if !errors.Is(err, denied) {
			t.Errorf("nobody can: %v", err)
		}
		defer s.SetFetch(r.id, r.fetch(s))()
		r.wantDir(t, s)
		wantClean(t, s)
	})
}

// A connection that breaks and is used anew writes the blob twice. The tap saw only one of them.
func TestFetchInTwoAttempts(t *testing.T) {
	s := newStore(t)
	r := newRemote(t, s, layer.Gzip)
	watched(t, func(t *testing.T) {
		defer s.SetFetch(r.id, func(ctx context.Context) error {
			err := s.WriteBlob(ctx, r.desc, io.MultiReader(bytes.NewReader(r.data[:1<<20]), lineReader{}))
			if !errors.Is(err, errLine) {
				t.Errorf("the first attempt gave %v", err)
			}
			return r.fetch(s)(ctx)
		})()
		r.wantDir(t, s)
		wantClean(t, s)
	})
}

func TestFetchForAllWhoAsk(t *testing.T) {
	s := newStore(t)
	r := newRemote(t, s, layer.Gzip)
	watched(t, func(t *testing.T) {
		const rounds, askers = 4, 4 * 6
		var fetched, at, asking atomic.Int32
		defer s.SetFetch(r.id, func(ctx context.Context) error {
			if at.Add(1) > 1 {
				t.Error("two fetches at the same time")
			}
			defer at.Add(-1)
			fetched.Add(1)
			for asking.Load() < askers {
				runtime.Gosched()
			}
			return r.fetch(s)(ctx)
		})()
		var wg sync.WaitGroup
		ask := func(what string, f func() error) {
			wg.Add(1)
			go func() {
				defer wg.Done()
				asking.Add(1)
				if err := f(); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}()
		}
		ctx := context.Background()
		for range rounds {
			ask("Dir", func() error { _, err := s.Dir(ctx, r.id); return err })
			ask("Blob", func() error { _, _, err := s.Blob(ctx, r.id, layer.Encoding{Compression: layer.Gzip}); return err })
			ask("Dirs", func() error { _, err := s.Dirs(ctx, layer.Snapshot{r.id}); return err })
			ask("Size", func() error { _, err := s.Size(ctx, r.id); return err })
			ask("Tree", func() error { _, err := s.Tree(ctx, layer.Snapshot{r.id}, NeedContent); return err })
			ask("metadata", func() error { _, err := s.Tree(ctx, layer.Snapshot{r.id}, NeedMetadata); return err })
		}
		wg.Wait()
		r.wantDir(t, s)
		wantClean(t, s)
		// One that asks between a look for the blob and the fetch's end may fetch again; no more.
		if n := fetched.Load(); n > 2 {
			t.Errorf("fetched %d times", n)
		}
	})
}

// Two images may say that one blob is two layers. Only one of them can be right; both are asked
// for at the same time and neither disturbs the other.
func TestTwoLayersOfOneBlob(t *testing.T) {
	s := newStore(t)
	r := newRemote(t, s, layer.Gzip)
	wrong, err := s.BlobLayer(context.Background(), digest.FromString("wrong"), r.desc)
	must(t, err)
	watched(t, func(t *testing.T) {
		defer s.SetFetch(r.id, r.fetch(s))()
		defer s.SetFetch(wrong, r.fetch(s))()
		done := make(chan error)
		go func() { _, err := s.Dir(context.Background(), wrong); done <- err }()
		r.wantDir(t, s)
		wantErr(t, <-done, "expected diffID")
		wantClean(t, s)
	})
}

// Two images have the same layer in two repositories, or by two blobs, which nobody has compared.
func TestLayerFromTwoRepositories(t *testing.T) {
	for _, same := range []bool{true, false} {
		s := newStore(t)
		r := newRemote(t, s, layer.Gzip)
		other := r
		if !same {
			other = newRemote(t, s, layer.Zstd)
		}
		if same != (r.id == other.id) {
			t.Fatalf("same blob %t: the layers are %s and %s", same, r.id, other.id)
		}
		watched(t, func(t *testing.T) {
			forgetFirst := s.SetFetch(r.id, r.fetch(s))
			defer s.SetFetch(other.id, other.fetch(s))()
			var wg sync.WaitGroup
			for range 3 {
				wg.Add(1)
				go func() { defer wg.Done(); r.wantDir(t, s) }()
			}
			if same {
				forgetFirst() // the build that wanted it first is over
			} else {
				other.wantDir(t, s)
				defer forgetFirst()
			}
			wg.Wait()
			wantClean(t, s)
		})
	}
}

// A build that ends cancels its fetch; another one that waits for it goes on by its own.
func TestForgottenFetch(t *testing.T) {
	s := newStore(t)
	r := newRemote(t, s, layer.Gzip)
	watched(t, func(t *testing.T) {
		entered := make(chan struct{})
		var running atomic.Bool
		forget := s.SetFetch(r.id, func(ctx context.Context) error {
			running.Store(true)
			defer running.Store(false)
			close(entered)
			return s.WriteBlob(ctx, r.desc, layer.ContextReader(ctx, io.MultiReader(bytes.NewReader(r.data[:1<<20]), untilDone{ctx})))
		})
		defer s.SetFetch(r.id, r.fetch(s))()
		done := make(chan struct{})
		go func() { defer close(done); r.wantDir(t, s) }()
		<-entered
		forget()
		if running.Load() {
			t.Error("a forgotten fetch is still running")
		}
		<-done
		wantClean(t, s)
	})
}

// untilDone is a connection on which nothing comes any more.
type untilDone struct{ ctx context.Context }

func (u untilDone) Read([]byte) (int, error) {
	<-u.ctx.Done()
	return 0, context.Cause(u.ctx)
}

func TestCancelledFetch(t *testing.T) {
	asks := map[string]func(*Store, context.Context, layer.ID) error{
		"Dir": func(s *Store, ctx context.Context, id layer.ID) error { _, err := s.Dir(ctx, id); return err },
		"Blob": func(s *Store, ctx context.Context, id layer.ID) error {
			_, _, err := s.Blob(ctx, id, layer.Encoding{Compression: layer.Gzip})
			return err
		},
		"Tree": func(s *Store, ctx context.Context, id layer.ID) error {
			_, err := s.Tree(ctx, layer.Snapshot{id}, NeedMetadata)
			return err
		},
	}
	for name, ask := range asks {
		for _, bytesBefore := range []int{0, 10, 1 << 20} {
			t.Run(fmt.Sprint(name, " after ", bytesBefore), func(t *testing.T) {
				s := newStore(t)
				r := newRemote(t, s, layer.Gzip)
				watched(t, func(t *testing.T) {
					cause := errors.New("the user has had enough")
					ctx, cancel := context.WithCancelCause(context.Background())
					forget := s.SetFetch(r.id, func(ctx context.Context) error {
						time.AfterFunc(20*time.Millisecond, func() { cancel(cause) })
						return s.WriteBlob(ctx, r.desc, io.MultiReader(bytes.NewReader(r.data[:bytesBefore]), untilDone{ctx}))
					})
					if err := ask(s, ctx, r.id); !errors.Is(err, cause) {
						t.Errorf("error is %v, want %v", err, cause)
					}
					r.wantNotHere(t, s)
					forget()
					defer s.SetFetch(r.id, r.fetch(s))()
					r.wantDir(t, s)
				})
			})
		}
	}
}

// Whoever only looks at metadata gets the blob and its index, and no directory.
func TestFetchForMetadata(t *testing.T) {
	s := newStore(t)
	r := newRemote(t, s, layer.Gzip)
	watched(t, func(t *testing.T) {
		defer s.SetFetch(r.id, r.fetch(s))()
		tree, err := s.Tree(context.Background(), layer.Snapshot{r.id}, NeedMetadata)
		must(t, err)
		if e, err := tree.Lstat("noise"); err != nil || e.Size != remoteSize {
			t.Errorf("the file is %+v, %v", e, err)
		}
		if len(unpackedLayers(t, s)) > 0 {
			t.Error("the layer was unpacked")
		}
		// A file that is read after all is right.
		if got, err := layer.ReadFile(tree, "noise"); err != nil || string(got) != r.noise {
			t.Errorf("the file has %d bytes, %v", len(got), err)
		}
		wantClean(t, s)
	})
}

// A reader that gives up early does not keep the blob from coming, nor wait for ever.
func TestUnsafeLayerWhileFetching(t *testing.T) {
	s := newStore(t)
	b := make([]byte, remoteSize)
	rand.New(rand.NewSource(1)).Read(b)
	plain := tarOf(map[string]string{"escape": "x", "escape/y": "y", "noise": string(b)})
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(plain), Size: int64(len(plain))}
	id, err := s.BlobLayer(context.Background(), desc.Digest, desc)
	must(t, err)
	watched(t, func(t *testing.T) {
		defer s.SetFetch(id, func(ctx context.Context) error { return s.WriteBlob(ctx, desc, bytes.NewReader(plain)) })()
		if _, err := s.Dir(context.Background(), id); !errors.Is(err, layer.ErrHostile) {
			t.Errorf("error is %v, want ErrHostile", err)
		}
		wantClean(t, s)
		if len(unpackedLayers(t, s)) > 0 {
			t.Error("the layer was unpacked")
		}
	})
}

// A lost blob of an unpacked layer is fetched again. When that fails, a layer that was made here is
// packed again; one that was packed by others would be another layer then.
func TestLostBlob(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	mine := made(t, s, map[string]string{"a": "mine"})
	desc, diff, err := s.Blob(ctx, mine, layer.Encoding{})
	must(t, err)
	r := newRemote(t, s, layer.Gzip)
	watched(t, func(t *testing.T) {
		forget := s.SetFetch(r.id, r.fetch(s))
		r.wantDir(t, s)
		forget()
		must(t, os.Remove(s.blobPath(desc.Digest)))
		must(t, os.Remove(s.blobPath(r.desc.Digest)))
		for _, id := range []layer.ID{mine, r.id} {
			if missing, err := s.MissingBlobs(ctx, layer.Snapshot{id}); !missing || err != nil {
				t.Errorf("a lost blob is not missing: %v", err)
			}
			defer s.SetFetch(id, func(context.Context) error { return errLine })()
		}
		again, againDiff, err := s.Blob(ctx, mine, layer.Encoding{})
		if err != nil || again.Digest != desc.Digest || againDiff != diff {
			t.Errorf("packed again the blob is %s of %s, %v, want %s", again.Digest, againDiff, err, desc.Digest)
		}
		if _, _, err := s.Blob(ctx, r.id, layer.Encoding{}); !errors.Is(err, errLine) {
			t.Errorf("the pulled layer's blob: %v, want %v", err, errLine)
		}
		if info, err := s.Layer(ctx, r.id); err != nil || info.DiffID == "" || info.Size != remoteSize+9 {
			t.Errorf("the pulled layer is %+v, %v", info, err)
		}
		if missing, err := s.MissingBlobs(ctx, layer.Snapshot{mine}); missing || err != nil {
			t.Errorf("a blob that was made again is missing: %v", err)
		}
		wantClean(t, s)
	})
}

// However many layers a snapshot has, only so many are unpacked at the same time.
func TestUnpackingIsBounded(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	var mu sync.Mutex
	running, most, begun := 0, 0, 0
	var snap layer.Snapshot
	for i := range 3 * maxUnpacking {
		plain := tarOf(map[string]string{"f": fmt.Sprint(i)})
		data := packed(t, plain, layer.Gzip)
		desc := ocispec.Descriptor{MediaType: layerMediaType(layer.Gzip), Digest: digest.FromBytes(data), Size: int64(len(data))}
		id, err := s.BlobLayer(ctx, digest.FromBytes(plain), desc)
		must(t, err)
		snap = append(snap, id)
		forget := s.SetFetch(id, func(ctx context.Context) error {
			mu.Lock()
			running++
			most = max(most, running)
			begun++
			together := (begun + maxUnpacking - 1) / maxUnpacking * maxUnpacking
			for begun < together { // all that may be there at a time
				mu.Unlock()
				time.Sleep(time.Millisecond)
				mu.Lock()
			}
			running--
			mu.Unlock()
			return s.WriteBlob(ctx, desc, bytes.NewReader(data))
		})
		defer forget()
	}
	watched(t, func(t *testing.T) {
		dirs, err := s.Dirs(ctx, snap)
		must(t, err)
		if len(dirs) != len(snap) {
			t.Errorf("%d directories of %d layers", len(dirs), len(snap))
		}
	})
	if most != maxUnpacking {
		t.Errorf("%d layers were unpacked at the same time, want %d", most, maxUnpacking)
	}
}
