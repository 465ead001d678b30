package engine

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/store"
)

// A blob of a repository or of a layout is a file, fetched once; what is not the digest's is nothing.
func TestBlobs(t *testing.T) {
	reg := registrytest.Start(t)
	content := []byte("the content of a blob")
	desc := reg.PushBlob("some/files", "", content)
	other := digest.FromString("other")
	dir := t.TempDir()
	for name, data := range map[string]string{desc.Digest.Encoded(): string(content), other.Encoded(): "damaged"} {
		must(t, os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "blobs/sha256", name), []byte(data), 0o644))
	}
	s, err := store.Open(shm(t))
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	e := New(Options{Store: s, Images: imagesource.New(s, registry.New(registry.Options{DockerConfigDir: t.TempDir()})), Runner: &processes{ran: map[string]int{}}})
	layouts := imagesource.LayoutDirs{"layout": {Dir: dir}}
	repository := reg.Host + "/some/files@"
	layout := func(d digest.Digest, store string) llb.State {
		return llb.OCILayoutBlob("example.com/any@"+d.String(), llb.ImageBlobOCIStore("", store))
	}
	source := func(id string) llb.State { return llb.NewState(llb.NewSource(id, nil, llb.Constraints{}).Output()) }
	for _, tt := range []struct {
		name string
		st   llb.State
		want string // name, mode and owner, or what an error says
	}{
		{"of a repository", llb.ImageBlob(repository+desc.Digest.String(), llb.Filename("file"), llb.Chmod(0o640), llb.Chown(1, 2)), "file 640 1 2"},
		{"without a name", llb.ImageBlob(repository + desc.Digest.String()), desc.Digest.Encoded() + " 600 0 0"},
		{"with a path as its name", llb.ImageBlob(repository+desc.Digest.String(), llb.Filename("../../file")), "file 600 0 0"},
		{"that is not there", llb.ImageBlob(repository + other.String()), "not found"},
		{"of a layout", layout(desc.Digest, "layout"), desc.Digest.Encoded() + " 600 0 0"},
		{"of another layout", layout(desc.Digest, "nosuch"), `no OCI layout "nosuch"`},
		{"that is not in the layout", layout(digest.FromString("no"), "layout"), "no such file"},
		{"of another digest", layout(other, "layout"), "its content is"},
		{"without a digest", source("docker-image+blob://" + reg.Host + "/some/files:v1"), "a blob has a digest"},
		{"of another algorithm", source("docker-image+blob://" + reg.Host + "/some/files@" + digest.SHA512.FromString("x").String()), "use sha256"},
		{"of nothing", source("docker-image+blob://"), "invalid reference"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := starts(t, e, RunOptions{Layouts: layouts})
			edge := edgeOf(t, tt.st)
			v, err := r.Result(t.Context(), edge)
			if err != nil {
				if !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error is %v, want %q", err, tt.want)
				}
				return
			}
			tree, err := r.Tree(t.Context(), v, store.NeedContent)
			must(t, err)
			all, err := tree.ReadDir(".")
			must(t, err)
			for _, f := range all {
				data, err := layer.ReadFile(tree, f.Path)
				must(t, err)
				if got := fileText(f); got != tt.want || string(data) != string(content) || f.ModTime.Unix() != 0 {
					t.Errorf("there is %s with %q of %v, want %s", got, data, f.ModTime, tt.want)
				}
			}
			if len(all) != 1 {
				t.Errorf("there are %d files", len(all))
			}
		})
	}
	reg.Requests()
	must(t, <-evaluated(t.Context(), starts(t, e, RunOptions{}), edgeOf(t, llb.ImageBlob(repository+desc.Digest.String()))))
	if asked := reg.Requests(); len(asked) > 0 {
		t.Errorf("for a blob that is here is asked: %q", asked)
	}
	// What is here, those have whom its registry gives it.
	reg.Use(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if user, _, _ := r.BasicAuth(); user != "one" {
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
	for _, who := range []string{"one", "two"} {
		r := starts(t, e, RunOptions{Images: e.opt.Images.As(who, login(who))})
		if err := <-evaluated(t.Context(), r, edgeOf(t, llb.ImageBlob(repository+desc.Digest.String()))); (err == nil) != (who == "one") || err != nil && !errdefs.IsUnauthorized(err) {
			t.Errorf("%s: %v", who, err)
		}
	}
}

func fileText(e *layer.Entry) string {
	return fmt.Sprintf("%s %o %d %d", e.Path, e.Mode&0o777, e.UID, e.GID)
}

// The digest of an image that was not named by it is that of what the reference names.
func TestPinOfImages(t *testing.T) {
	reg := registrytest.Start(t)
	index, _ := reg.PushIndex("image:v1", registrytest.Image{Layers: []registrytest.Layer{{"one": "1"}}})
	s, err := store.Open(shm(t))
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	e := New(Options{Store: s, Images: imagesource.New(s, registry.New(registry.Options{DockerConfigDir: t.TempDir()}))})
	edge := graph.Edge{Vertex: &graph.Vertex{
		Digest: digest.FromString("image"), Meta: &pb.OpMetadata{},
		Op: &pb.Op{Platform: &pb.Platform{OS: "linux", Architecture: "amd64"}, Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "docker-image://" + reg.Host + "/image:v1"}}},
	}}
	if pin, err := starts(t, e, RunOptions{}).Pin(t.Context(), edge.Vertex); err != nil || pin != index.Digest.String() {
		t.Errorf("it is %q, %v, want %s", pin, err, index.Digest)
	}
}
