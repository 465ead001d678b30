package manifestlist

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

func named(t *testing.T, name string) reference.Named {
	t.Helper()
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	return reference.TagNameOnly(ref)
}

// newTestImage is an image that is always the same.
func newTestImage(t *testing.T, name, mediaType string, p ocispec.Platform) Image {
	t.Helper()
	raw := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"a/b","digest":%q,"size":%d},"layers":[]}`, mediaType, digest.FromString(name), len(name))
	img, err := newImage(named(t, name), ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}, raw)
	if err != nil {
		t.Fatal(err)
	}
	img.Descriptor.Platform = &p
	return img
}

func TestStore(t *testing.T) {
	s, list := Store{filepath.Join(t.TempDir(), "manifests")}, named(t, "example.com/team/list:v1")
	if _, err := s.List(list); !errdefs.IsNotFound(err) || err.Error() != "No such manifest: example.com/team/list:v1" {
		t.Errorf("a list that is not there: %v", err)
	}
	b := newTestImage(t, "example.com/team/b:v1", ocispec.MediaTypeImageManifest, ocispec.Platform{OS: "linux", Architecture: "amd64"})
	a := newTestImage(t, "example.com/team/a:v1", images.MediaTypeDockerSchema2Manifest, ocispec.Platform{OS: "linux", Architecture: "arm64"})
	if err := s.Save(list, b, a); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(s.Dir, "example.com_team_list-v1", "example.com_team_a-v1")); err != nil {
		t.Error(err)
	}
	all, err := s.List(list)
	if err != nil || len(all) != 2 || all[0].Ref != a.Ref || !bytes.Equal(all[1].Raw, b.Raw) {
		t.Errorf("got %+v, %v, want a and b", all, err)
	}
	if img, err := s.Image(list, named(t, a.Ref)); err != nil || img.Descriptor.Digest != a.Descriptor.Digest {
		t.Errorf("got %+v, %v", img, err)
	}
	if _, err := s.Image(list, named(t, "example.com/other")); !errdefs.IsNotFound(err) {
		t.Errorf("an image that is not there: %v", err)
	}
	if err := s.Remove(list); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(list); !errdefs.IsNotFound(err) {
		t.Errorf("removing what is gone: %v", err)
	}
}

// TestHostileStore: files are what they say, and of whom they are asked for, and nothing leaves the directory.
func TestHostileStore(t *testing.T) {
	dir := t.TempDir()
	s, list := Store{filepath.Join(dir, "manifests")}, named(t, "example.com/team/list:v1")
	img := newTestImage(t, "example.com/team/a:v1", ocispec.MediaTypeImageManifest, ocispec.Platform{OS: "linux", Architecture: "amd64"})
	if err := s.Save(list, img); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.Dir, "example.com_team_list-v1", "example.com_team_a-v1")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, data := range map[string][]byte{
		"other bytes":     bytes.Replace(good, []byte(`"Raw":"`), []byte(`"Raw":"AAAA`), 1),
		"another size":    bytes.Replace(good, []byte(`"size":`), []byte(`"size":1`), 1),
		"another digest":  bytes.Replace(good, []byte(`"digest":"sha256:`), []byte(`"digest":"sha256:00`), 1),
		"a path":          bytes.Replace(good, []byte("example.com/team/a:v1"), []byte("../../../etc"), 1),
		"nothing":         nil,
		"no end":          bytes.Repeat([]byte(" "), maxFile+1),
		"no manifest":     []byte("{}"),
		"an older docker": bytes.Replace(good, []byte(`"Raw"`), []byte(`"Old"`), 1),
	} {
		write(data)
		if _, err := s.List(list); err == nil || !strings.Contains(err.Error(), "invalid manifest file") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A list of another name, and an image of another name, in the same files.
	write(good)
	if _, err := s.List(named(t, "example.com/team_list:v1")); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a list of another name: %v", err)
	}
	if err := s.Remove(named(t, "example.com/team_list:v1")); !errdefs.IsAlreadyExists(err) {
		t.Errorf("removing a list of another name: %v", err)
	}
	if _, err := s.Image(list, named(t, "example.com/team_a:v1")); !errdefs.IsAlreadyExists(err) {
		t.Errorf("an image of another name: %v", err)
	}
	// A link that leads out is not followed, neither to read nor to write nor to remove.
	outside := filepath.Join(dir, "outside")
	if err := os.WriteFile(outside, good, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := errorsOf(os.Remove(file), os.Symlink(outside, file)); err != nil {
		t.Fatal(err)
	}
	if all, err := s.List(list); err == nil {
		t.Errorf("what a link leads to was read: %+v", all)
	}
	img.Descriptor.Platform.Architecture = "arm64"
	if err := s.Save(list, img); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(outside); err != nil || !bytes.Equal(data, good) {
		t.Errorf("what a link leads to was written: %s, %v", data, err)
	}
	if err := os.Symlink(outside, filepath.Join(filepath.Dir(file), "link")); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(list); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Error(err)
	}
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestAsDocker: the bytes of a list are docker's: testdata has what `manifest inspect` printed of the same files. With the path of
// a docker in DOCKER it is written anew.
func TestAsDocker(t *testing.T) {
	s, list := Store{filepath.Join(t.TempDir(), "manifests")}, named(t, "example.com/team/list:v1")
	for name, types := range map[string][2]string{
		"docker": {images.MediaTypeDockerSchema2Manifest, images.MediaTypeDockerSchema2Manifest},
		"oci":    {ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageManifest},
		"mixed":  {images.MediaTypeDockerSchema2Manifest, ocispec.MediaTypeImageManifest},
	} {
		a := newTestImage(t, "example.com/team/a:v1", types[0], ocispec.Platform{OS: "linux", Architecture: "amd64"})
		b := newTestImage(t, "example.com/team/b:v1", types[1], ocispec.Platform{OS: "windows", Architecture: "arm", Variant: "v7", OSVersion: "10.0", OSFeatures: []string{"a", "b"}})
		if err := s.Save(list, a, b); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("testdata/docker", name+".json")
		if docker := os.Getenv("DOCKER"); docker != "" {
			cmd := exec.Command(docker, "manifest", "inspect", list.String())
			cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+filepath.Dir(s.Dir))
			out, err := cmd.Output()
			if err := errorsOf(err, os.WriteFile(file, out, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all, err := s.List(list)
		if err != nil {
			t.Fatal(err)
		}
		desc, raw, err := Marshal(list, all)
		if err != nil || string(raw)+"\n" != string(want) {
			t.Errorf("%s: got %s, %v\nwant %s", name, raw, err, want)
		}
		if desc.Digest != digest.FromBytes(raw) || desc.Size != int64(len(raw)) {
			t.Errorf("%s: %d bytes described as %+v", name, len(raw), desc)
		}
	}
}

func TestFetch(t *testing.T) {
	r := registrytest.Start(t)
	c := registry.New(registry.Options{DockerConfigDir: t.TempDir()})
	for _, docker := range []bool{false, true} {
		pushed := r.PushImage("team/app:v1", registrytest.Image{Docker: docker, Platform: ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}})
		img, err := Fetch(t.Context(), c, named(t, r.Host+"/team/app:v1"))
		if err != nil || img.Descriptor.Digest != pushed.Desc.Digest || img.Descriptor.Platform.Variant != "v7" || (img.SchemaV2Manifest != nil) != docker || (img.OCIManifest != nil) == docker {
			t.Errorf("got %+v, %v", img, err)
		}
	}
	index, _ := r.PushIndex("team/list:v1", registrytest.Image{})
	_, err := Fetch(t.Context(), c, named(t, r.Host+"/team/list:v1"))
	list, ok := err.(*ErrIsList)
	if !ok || list.Desc.Digest != index.Digest {
		t.Fatalf("of a list: %v", err)
	}
	entries, err := list.Entries()
	if err == nil {
		err = Load(t.Context(), c, entries)
	}
	if err != nil || len(entries) != 1 || entries[0].OCIManifest == nil || entries[0].Descriptor.Platform.OS != "linux" {
		t.Errorf("what is in the list: %+v, %v", entries, err)
	}
	// Names of what is in a list are digests, and what they name has them.
	for _, raw := range []string{`{"digest":"sha256:../../x"}`, `{"digest":""}`} {
		list.Raw = json.RawMessage(`{"manifests":[` + raw + `]}`)
		if entries, err := list.Entries(); err == nil {
			t.Errorf("%s: %+v", raw, entries)
		}
	}
}

func TestAnnotate(t *testing.T) {
	img := newTestImage(t, "example.com/a", ocispec.MediaTypeImageManifest, ocispec.Platform{OS: "linux", Architecture: "amd64", OSFeatures: []string{"a"}})
	if err := img.Annotate(Annotation{Architecture: "arm", Variant: "v7", OSFeatures: []string{"a", "b"}}); err != nil {
		t.Fatal(err)
	}
	if p := img.Descriptor.Platform; p.OS != "linux" || p.Architecture != "arm" || p.Variant != "v7" || len(p.OSFeatures) != 2 {
		t.Errorf("got %+v", p)
	}
	for _, a := range []Annotation{{OS: "linux", Architecture: "pdp11"}, {OS: "linux/amd64 linux", Architecture: "arm"}, {OS: "beos"}} {
		if err := img.Annotate(a); err == nil {
			t.Errorf("%+v is taken", a)
		}
	}
}
