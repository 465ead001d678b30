package view

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/store"
)

// filtered lists the images that values of --filter let through by their names.
func (l *lab) filtered(values ...string) string {
	l.t.Helper()
	args, err := ParseArgs(values, "dangling", "reference", "label", "label!", "before", "since", "until")
	must(l.t, err)
	f, err := ParseImageFilter(args)
	must(l.t, err)
	all, err := Images(l.t.Context(), l.s, f)
	must(l.t, err)
	var names []string
	for _, img := range all {
		name := "<none>"
		if img.Tagged() {
			name = Familiar(img.Name)
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

func TestImageFilter(t *testing.T) {
	l := newLab(t)
	app := l.image("app", "amd64", time.Hour)
	l.name(app, "app:v1")
	l.name(app, "registry.example:5000/team/app")
	l.name(l.image("old", "amd64", 48*time.Hour), "old:v1")
	l.name(l.image("bare", "amd64", 24*time.Hour), "")
	for filter, names := range map[string]string{
		"":                                    "app:v1 registry.example:5000/team/app:latest <none> old:v1",
		"dangling=true":                       "<none>",
		"dangling=0":                          "app:v1 registry.example:5000/team/app:latest old:v1",
		"dangling=true dangling=false":        "",
		"reference=app":                       "app:v1",
		"reference=app:v1":                    "app:v1",
		"reference=app:v2":                    "",
		"reference=docker.io/library/ap*":     "app:v1",
		"reference=*:v1 reference=*/team/app": "app:v1 registry.example:5000/team/app:latest old:v1",
		"label=any":                           "app:v1 registry.example:5000/team/app:latest <none> old:v1",
		"label=is=app label=any":              "app:v1 registry.example:5000/team/app:latest",
		"label=is=app label=none":             "",
		"label!=is=app label!=is=old":         "<none>",
		"until=12h":                           "<none> old:v1",
		"until=12h until=36h":                 "old:v1",
		"before=app:v1":                       "<none> old:v1",
		"since=old:v1 label!=is=bare":         "app:v1 registry.example:5000/team/app:latest",
		"since=old:v1 before=app:v1":          "<none>",
	} {
		want(t, filter, l.filtered(strings.Fields(filter)...), names)
	}
	want(t, "spaces, capitals", l.filtered(" Reference = app "), "app:v1")
	_, err := Images(t.Context(), l.s, ImageFilter{Since: []string{"nosuch"}})
	if want(t, "an unknown image", err, "No such image: nosuch"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%v is no ErrNotFound", err)
	}
	for value, message := range map[string]string{
		"nonsense=x": `invalid filter "nonsense": want one of dangling, label!`, "dangling": "(should be key=value)",
	} {
		if _, err := ParseArgs([]string{value}, "dangling", "label!"); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("%s: %v, want %q in it", value, err, message)
		}
	}
	for _, bad := range []Args{{"dangling": {"x"}}, {"reference": {"[a"}}, {"until": {"soon"}}} {
		if _, err := ParseImageFilter(bad); err == nil || !strings.HasPrefix(err.Error(), "invalid filter '") {
			t.Errorf("filter %v: %v", bad, err)
		}
	}
}

func TestUntil(t *testing.T) {
	now := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	for in, out := range map[string]time.Time{
		"24h": now.Add(-24 * time.Hour), "0": now, "1136214245.5": time.Unix(1136214245, 500_000_000),
		"2006-01-02T15:04:05Z": time.Date(2006, 1, 2, 15, 4, 5, 0, time.UTC), "2006-01-02T15:04:05.25": time.Date(2006, 1, 2, 15, 4, 5, 250_000_000, time.Local),
		"2006-01-02T15:04": time.Date(2006, 1, 2, 15, 4, 0, 0, time.Local), "2006-01-02": time.Date(2006, 1, 2, 0, 0, 0, 0, time.Local),
		"2006-01-02+01:00": time.Date(2006, 1, 1, 23, 0, 0, 0, time.UTC),
	} {
		if got, err := parseUntil(in, now); err != nil || !got.Equal(out) {
			t.Errorf("until=%s is %v, %v, want %v", in, got, err, out)
		}
	}
}

// A summary has what Docker's API says of an image in a list.
func TestSummaries(t *testing.T) {
	l := newLab(t)
	app := l.image("app", "amd64", time.Hour)
	l.name(app, "app:v1")
	l.name(app, "app:v2")
	pushed := l.name(app, "registry.example:5000/team/app:v1")
	source := digest.FromString("compressed")
	must(t, l.s.SetSource(t.Context(), pushed, source))
	l.name(l.image("bare", "amd64", 24*time.Hour), "")
	images, err := Images(t.Context(), l.s, ImageFilter{})
	must(t, err)
	all := Summaries(images)
	if len(all) != 2 || all[0].ID != app.ID || all[0].Target().Digest != app.Manifest.Digest {
		t.Fatalf("%d images: %+v", len(all), all)
	}
	want(t, "tags", all[0].Tags, "app:v1 app:v2 registry.example:5000/team/app:v1")
	want(t, "digests", all[0].Digests, "app@"+app.Manifest.Digest.String()+" registry.example:5000/team/app@"+source.String())
	for _, img := range images[:3] {
		if img.Named.After(all[0].Named) {
			t.Errorf("it was named at %v, its name %s is of %v", all[0].Named, img.Name, img.Named)
		}
	}
	if b := all[1]; b.Tags == nil || b.Digests == nil || len(b.Tags)+len(b.Digests) > 0 || !b.Named.IsZero() {
		t.Errorf("an image without a name: %+v", b)
	}
	repo, err := reference.ParseNormalizedNamed("app")
	must(t, err)
	if of := OfRepository(images, repo); len(of) != 2 || of[0].Name != "docker.io/library/app:v1" || of[1].Name != "docker.io/library/app:v2" {
		t.Errorf("of the repository app there are %+v", of)
	}
	one, err := NamesOf(t.Context(), l.s, images[1])
	must(t, err)
	want(t, "all names of one", one.Tags, strings.Join(all[0].Tags, " "))
	config, err := ImageConfig(t.Context(), l.s, app.ID)
	must(t, err)
	want(t, "its label", config.Config.Labels["is"], "app")
}

// The history tells each step's layer, the newest first, whatever made none.
func TestImageHistory(t *testing.T) {
	l := newLab(t)
	img := l.name(l.image("app", "amd64", 0, l.layer("12345"), l.layer("123")), "app")
	steps, err := ImageHistory(t.Context(), l.s, img)
	must(t, err)
	var got []string
	for _, s := range steps {
		got = append(got, s.CreatedBy, humanID(s.ID, img), time.Duration(s.Size).String())
	}
	want(t, "steps", got, "CMD last image 0s COPY none 3ns COPY none 5ns ENV first none 0s")
}

func humanID(id digest.Digest, img store.Image) string {
	switch id {
	case img.ID:
		return "image"
	case "":
		return "none"
	}
	return id.String()
}

// An image is one manifest for each platform; attestations are no images.
func TestManifests(t *testing.T) {
	l := newLab(t)
	arm, amd := l.image("arm", "arm64", 0), l.image("amd", "amd64", 0, l.layer("x"))
	as := func(d ocispec.Descriptor, p ocispec.Platform) ocispec.Descriptor { d.Platform = &p; return d }
	attests := as(l.put(ocispec.MediaTypeImageManifest, map[string]string{"it": "attests"}), ocispec.Platform{OS: "unknown", Architecture: "unknown"})
	attests.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": amd.Manifest.Digest.String()}
	gone := as(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("gone"), Size: 4}, platforms.MustParse("linux/s390x"))
	index := l.put(ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{
		as(arm.Manifest, platforms.MustParse("linux/arm64")), attests, as(amd.Manifest, platforms.MustParse("linux/amd64")), gone,
	}})
	img := arm
	img.Index = &index
	img = l.name(img, "many")

	all, err := Manifests(t.Context(), l.s, img)
	must(t, err)
	if len(all) != 4 || !all[0].Here || all[0].Reference != "" || all[3].Here {
		t.Fatalf("%+v", all)
	}
	if a := all[1]; a.Reference != "attestation-manifest" || a.For != amd.Manifest.Digest {
		t.Errorf("an attestation is %+v", a)
	}
	got, err := ForPlatform(t.Context(), l.s, img, platforms.MustParse("linux/amd64"))
	must(t, err)
	if got.ID != amd.ID || got.Index != nil || got.Name != img.Name || len(got.Layers) != 1 {
		t.Errorf("for amd64 it is %+v", got)
	}
	if got, err = ForPlatform(t.Context(), l.s, img, platforms.MustParse("linux/arm64")); err != nil || got.ID != arm.ID || got.Index != nil {
		t.Errorf("for arm64 it is %+v, %v", got, err)
	}
	for _, p := range []string{"linux/s390x", "linux/386", "unknown/unknown"} {
		if _, err := ForPlatform(t.Context(), l.s, img, platforms.MustParse(p)); !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "many:latest was found but") {
			t.Errorf("for %s: %v", p, err)
		}
	}
	if _, err := ForPlatform(t.Context(), l.s, l.image("old", "386", 0), platforms.MustParse("linux/amd64")); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("one for linux/386, which runs on linux/amd64 too: %v", err)
	}
	one, err := Manifests(t.Context(), l.s, amd)
	must(t, err)
	if len(one) != 1 || one[0].Digest != amd.Manifest.Digest || one[0].Platform.Architecture != "amd64" || !one[0].Here {
		t.Errorf("an image without an index has %+v", one)
	}
}
