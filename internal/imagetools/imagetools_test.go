package imagetools

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

// fixture is a registry whose images are always the same bytes.
type fixture struct {
	*registrytest.Registry
	t      *testing.T
	client *registry.Client
	index  ocispec.Descriptor // team/multi:v1
	amd64  ocispec.Descriptor // team/app:amd64, and in the index
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{Registry: registrytest.Start(t), t: t, client: registry.New(registry.Options{DockerConfigDir: t.TempDir()})}
	f.amd64 = f.image("team/app", "amd64", ocispec.Platform{OS: "linux", Architecture: "amd64"}, false)
	arm64 := f.image("team/app", "arm64", ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}, false)
	f.image("team/docker", "amd64", ocispec.Platform{OS: "linux", Architecture: "amd64"}, true)
	f.image("team/docker", "arm", ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}, true)
	amd64 := f.image("team/multi", "", ocispec.Platform{OS: "linux", Architecture: "amd64"}, false)
	amd64.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = f.image("team/multi", "", ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}, false)
	arm64.Platform = &ocispec.Platform{OS: "linux", Architecture: "arm64"}
	statement := `{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"%s","predicate":{"of":"%s"}}`
	about := f.attestation("team/multi", amd64, map[string]string{
		"https://slsa.dev/provenance/v1": fmt.Sprintf(statement, "https://slsa.dev/provenance/v1", "provenance"),
		"https://spdx.dev/Document":      fmt.Sprintf(statement, "https://spdx.dev/Document", "sbom"),
	})
	f.index = f.PushManifest("team/multi", "v1", ocispec.MediaTypeImageIndex, f.json(ocispec.Index{
		Versioned: versioned, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{amd64, arm64, about},
		Annotations: map[string]string{"of": "index"},
	}))
	signed := f.image("team/signed", "v1", ocispec.Platform{OS: "linux", Architecture: "amd64"}, false)
	about = f.attestation("team/signed", signed, map[string]string{"https://slsa.dev/provenance/v1": statement})
	about.ArtifactType, about.Platform, about.Annotations = attestationArtifact, nil, map[string]string{"some": "thing"}
	f.PushManifest("team/signed", strings.Replace(signed.Digest.String(), ":", "-", 1), ocispec.MediaTypeImageIndex,
		f.json(ocispec.Index{Versioned: versioned, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{about}}))
	return f
}

var versioned = specs.Versioned{SchemaVersion: 2}

func (f *fixture) json(v any) []byte {
	f.t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		f.t.Fatal(err)
	}
	return raw
}

// image pushes an image without layers.
func (f *fixture) image(repo, tag string, p ocispec.Platform, docker bool) ocispec.Descriptor {
	m := ocispec.Manifest{Versioned: versioned, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	configType := ocispec.MediaTypeImageConfig
	if docker {
		m.MediaType, configType = images.MediaTypeDockerSchema2Manifest, images.MediaTypeDockerSchema2Config
	}
	m.Config = f.PushBlob(repo, configType, f.json(ocispec.Image{Platform: p, Config: ocispec.ImageConfig{Env: []string{"A=" + p.Architecture}}}))
	return f.PushManifest(repo, tag, m.MediaType, f.json(m))
}

// attestation pushes a manifest with statements about an image.
func (f *fixture) attestation(repo string, about ocispec.Descriptor, statements map[string]string) ocispec.Descriptor {
	m := ocispec.Manifest{Versioned: versioned, MediaType: ocispec.MediaTypeImageManifest, Config: f.PushBlob(repo, ocispec.MediaTypeImageConfig, []byte(`{"architecture":"unknown","os":"unknown"}`))}
	for kind, text := range statements {
		layer := f.PushBlob(repo, "application/vnd.in-toto+json", []byte(text))
		layer.Annotations = map[string]string{"in-toto.io/predicate-type": kind}
		m.Layers = append(m.Layers, layer)
	}
	slices.SortFunc(m.Layers, func(a, b ocispec.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	desc := f.PushManifest(repo, "", m.MediaType, f.json(m))
	desc.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	desc.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": about.Digest.String()}
	return desc
}

// serve has team/app answer with indexes under tags and their digests that no registry would take.
func (f *fixture) serve(tags map[string][]byte) {
	for _, raw := range maps.Clone(tags) {
		tags[digest.FromBytes(raw).String()] = raw
	}
	f.Use(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		raw, ok := tags[path.Base(r.URL.Path)]
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		w.Header().Set("Content-Length", fmt.Sprint(len(raw)))
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(raw).String())
		if r.Method == http.MethodGet {
			w.Write(raw)
		}
	})
}

// TestAsBuildx makes what buildx made of the same sources, byte for byte: testdata/buildx has what `imagetools create --dry-run`
// printed. With the path of a buildx in BUILDX it is written anew.
func TestAsBuildx(t *testing.T) {
	f := newFixture(t)
	arm := ocispec.Platform{OS: "linux", Architecture: "arm64"}
	index, of := exptypes.AnnotationIndex, exptypes.AnnotationManifestDescriptor
	annotations := map[exptypes.AnnotationKey]string{
		{Type: index, Key: "i"}: "1", {Type: of, Key: "all"}: "2", {Type: of, Platform: &arm, Key: "arm"}: "3",
	}
	layout := t.TempDir()
	for _, name := range []string{"app:amd64", "multi:v1", "signed:v1"} {
		repo, _, _ := strings.Cut(name, ":")
		if _, err := f.make(Request{Sources: []string{"team/" + name}, Tags: []string{"oci-layout://" + layout + ":" + repo}}); err != nil {
			t.Fatal(err)
		}
	}
	asFlags := []string{"--annotation", "index:i=1", "--annotation", "manifest-descriptor:all=2", "--annotation", "manifest-descriptor[linux/arm64]:arm=3"}
	descriptor := fmt.Sprintf(`{"digest":%q,"size":%d,"mediaType":%q,"platform":{"os":"linux","architecture":"arm","variant":"v7"},"annotations":{"k":"v"}}`,
		f.amd64.Digest, f.amd64.Size, f.amd64.MediaType)
	for _, tt := range []struct {
		name  string
		req   Request
		flags []string // what of the request is no source
	}{
		{"two", Request{Sources: []string{"team/app:amd64", "team/app:arm64"}}, nil},
		{"docker", Request{Sources: []string{"team/docker:amd64", "team/docker:arm"}}, nil},
		{"mixed", Request{Sources: []string{"team/docker:arm", "team/app:arm64"}}, nil},
		{"one", Request{Sources: []string{"team/app:amd64"}}, nil},
		{"copy", Request{Sources: []string{"team/app:amd64"}, PreferIndex: false}, []string{"--prefer-index=false"}},
		{"index", Request{Sources: []string{"team/multi:v1"}}, nil},
		{"more", Request{Sources: []string{"team/multi:v1", "team/docker:arm", "team/app:amd64"}}, nil},
		{"twice", Request{Sources: []string{"team/app:amd64", "team/multi:v1", "team/multi:v1"}}, nil},
		{"platform", Request{Sources: []string{"team/multi:v1"}, Platforms: []ocispec.Platform{arm}}, []string{"--platform", "linux/arm64"}},
		{"attested", Request{Sources: []string{"team/multi:v1", "team/app:arm64"}, Platforms: []ocispec.Platform{{OS: "linux", Architecture: "amd64"}}}, []string{"--platform", "linux/amd64"}},
		{"annotated", Request{Sources: []string{"team/multi:v1"}, Annotations: annotations}, asFlags},
		{"annotated-docker", Request{Sources: []string{"team/docker:amd64"}, Annotations: annotations}, asFlags},
		{"digest", Request{Sources: []string{f.amd64.Digest.String()}, Tags: []string{"team/app:new"}}, []string{"-t", "team/app:new"}},
		{"descriptor", Request{Sources: []string{descriptor}, Tags: []string{"team/app:new"}}, []string{"-t", "team/app:new"}},
		{"referrer", Request{Sources: []string{"team/signed:v1"}}, nil},
		{"referrer-of-two", Request{Sources: []string{"team/app:arm64", "team/signed:v1"}, Platforms: []ocispec.Platform{{OS: "linux", Architecture: "amd64"}}}, []string{"--platform", "linux/amd64"}},
		{"layout", Request{Sources: []string{"oci-layout://LAYOUT:multi"}}, nil},
		{"layout-one", Request{Sources: []string{"oci-layout://LAYOUT:app"}}, nil},
		{"layout-more", Request{Sources: []string{"oci-layout://LAYOUT:multi", "team/docker:arm", "oci-layout://LAYOUT@" + f.amd64.Digest.String()}}, nil},
		{"layout-digest", Request{Sources: []string{f.amd64.Digest.String(), "oci-layout://LAYOUT:multi"}}, nil},
		{"layout-referrer", Request{Sources: []string{"oci-layout://LAYOUT:signed"}}, nil},
		{"append", Request{Sources: []string{"team/app:arm64"}, Tags: []string{"team/app:amd64"}, Append: true}, []string{"--append", "-t", "team/app:amd64"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name != "copy" {
				tt.req.PreferIndex = true
			}
			f.place(&tt.req, tt.flags)
			for i := range tt.req.Sources {
				tt.req.Sources[i] = strings.Replace(tt.req.Sources[i], "LAYOUT", layout, 1)
			}
			file := filepath.Join("testdata/buildx", tt.name+".json")
			if buildx := os.Getenv("BUILDX"); buildx != "" {
				record(t, buildx, file, slices.Concat(tt.flags, tt.req.Sources))
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			img, err := Create(t.Context(), f.client, tt.req)
			if err != nil {
				t.Fatal(err)
			}
			if got := append(slices.Clone(img.Raw), '\n'); !bytes.Equal(got, want) {
				t.Errorf("got %s\nwant %s", got, want)
			}
			if img.Desc.Digest != digest.FromBytes(img.Raw) || img.Desc.Size != int64(len(img.Raw)) {
				t.Errorf("%d bytes described as %+v", len(img.Raw), img.Desc)
			}
		})
	}
}

// place puts the registry before the names of repositories.
func (f *fixture) place(req *Request, flags []string) {
	for _, list := range [][]string{req.Sources, req.Tags, flags} {
		for i, s := range list {
			if strings.HasPrefix(s, "team/") {
				list[i] = f.Host + "/" + s
			}
		}
	}
}

func record(t *testing.T, buildx, file string, args []string) {
	t.Helper()
	cmd := exec.Command(buildx, append([]string{"imagetools", "create", "--dry-run"}, args...)...)
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+t.TempDir())
	out, err := cmd.Output()
	if err == nil {
		err = os.WriteFile(file, out, 0o644)
	}
	if err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
}

func TestCreateRefuses(t *testing.T) {
	f := newFixture(t)
	big := fmt.Sprintf(`{"digest":%q,"size":7}`, f.amd64.Digest)
	list := fmt.Sprintf(`{"digest":%q,"mediaType":%q}`, f.amd64.Digest, ocispec.MediaTypeImageIndex)
	many := ocispec.Index{Versioned: versioned, MediaType: ocispec.MediaTypeImageIndex}
	for i := range maxEntries + 1 {
		many.Manifests = append(many.Manifests, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: 1})
	}
	f.serve(map[string][]byte{"many": f.json(many)})
	for _, tt := range []struct {
		want string
		req  Request
	}{
		{"failed to parse source", Request{Sources: []string{"Bad Name"}}},
		{"failed to parse source", Request{Sources: []string{"sha256:123"}}},
		{"got a manifest or index", Request{Sources: []string{`{"schemaVersion":2}`}}},
		{"digest is required", Request{Sources: []string{`{"size":2}`}}},
		{"invalid descriptor digest", Request{Sources: []string{`{"digest":"sha256:../../etc/passwd"}`}}},
		{"no repositories specified", Request{Sources: []string{f.amd64.Digest.String()}}},
		{"multiple repositories specified", Request{Sources: []string{f.amd64.Digest.String(), "team/app:arm64", "team/docker:arm"}}},
		{"invalid size mismatch", Request{Sources: []string{big, "team/app:arm64"}}},
		{"invalid media type mismatch", Request{Sources: []string{list, "team/app:arm64"}}},
		{"not found", Request{Sources: []string{"team/app:none"}}},
		{"none of the manifests match", Request{Sources: []string{"team/multi:v1"}, Platforms: []ocispec.Platform{platforms.MustParse("linux/s390x")}}},
		{"does not match any", Request{Sources: []string{"team/app:amd64"}, Platforms: []ocispec.Platform{platforms.MustParse("linux/s390x")}}},
		{"annotations are not supported yet", Request{Sources: []string{"team/multi:v1"}, Annotations: map[exptypes.AnnotationKey]string{{Key: "k"}: "v"}}},
		{"annotations are invalid", Request{Sources: []string{"team/multi:v1"}, Annotations: map[exptypes.AnnotationKey]string{{Type: "index-descriptor", Key: "k"}: "v"}}},
		{"more than 1000", Request{Sources: []string{"team/app:many"}}},
	} {
		f.place(&tt.req, nil)
		if _, err := Create(t.Context(), f.client, tt.req); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v, want %q", tt.req.Sources, err, tt.want)
		}
	}
}

func TestInspect(t *testing.T) {
	f := newFixture(t)
	i, err := Inspect(t.Context(), f.client, f.Host+"/team/multi:v1")
	if err != nil || i.Desc.Digest != f.index.Digest || len(i.Index.Manifests) != 3 {
		t.Fatalf("%+v, %v", i, err)
	}
	configs, err := i.Configs(t.Context())
	if err != nil || len(configs) != 2 || configs["linux/arm64"].Config.Env[0] != "A=arm64" {
		t.Errorf("configs: %v, %v", configs, err)
	}
	provenance, err := i.Provenance(t.Context())
	if err != nil || len(provenance) != 1 || fmt.Sprint(provenance["linux/amd64"].SLSA) != "map[of:provenance]" {
		t.Errorf("provenance: %v, %v", provenance, err)
	}
	sbom, err := i.SBOM(t.Context())
	if err != nil || len(sbom) != 1 || fmt.Sprint(sbom["linux/amd64"].SPDX) != "map[of:sbom]" {
		t.Errorf("SBOM: %v, %v", sbom, err)
	}
	i, err = Inspect(t.Context(), f.client, f.Host+"/team/docker:arm")
	if err != nil {
		t.Fatal(err)
	}
	if configs, err := i.Configs(t.Context()); err != nil || len(configs) != 1 || configs["linux/arm/v6"] == nil {
		t.Errorf("configs of a manifest: %v, %v", configs, err)
	}
}

// TestHostileInspect: what an index says of what it names is bounded before it is read.
func TestHostileInspect(t *testing.T) {
	f := newFixture(t)
	deep := f.amd64
	for range 6 {
		deep = f.PushManifest("team/app", "deep", ocispec.MediaTypeImageIndex, f.json(ocispec.Index{Versioned: versioned, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{deep}}))
	}
	many := ocispec.Index{Versioned: versioned, MediaType: ocispec.MediaTypeImageIndex}
	large := ocispec.Index{Versioned: versioned, MediaType: ocispec.MediaTypeImageIndex}
	for i := range maxDocuments + 1 {
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: 1}
		many.Manifests = append(many.Manifests, d)
		if d.Size = 1 << 62; i < 9 {
			large.Manifests = append(large.Manifests, d)
		}
	}
	f.serve(map[string][]byte{"many": f.json(many), "large": f.json(large)})
	f.Requests()
	for _, tag := range []string{"deep", "many", "large"} {
		i, err := Inspect(t.Context(), f.client, f.Host+"/team/app:"+tag)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.Configs(t.Context()); !errdefs.IsOutOfRange(err) {
			t.Errorf("%s: %v", tag, err)
		}
	}
	if n := len(f.Requests()); n > 20 {
		t.Errorf("%d requests for what is refused", n)
	}
}
