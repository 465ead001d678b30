package export

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func at(hour int) *time.Time {
	t := time.Date(2020, 1, 1, hour, 0, 0, 0, time.UTC)
	return &t
}

// forms makes layers named by letters, made at the hours of their places.
func forms(names string) []layerForm {
	var all []layerForm
	for i, n := range names {
		f := layerForm{diffID: digest.FromString(string(n)), created: *at(10 + i), size: 100}
		f.desc = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString("blob of " + string(n)), Size: 10}
		all = append(all, f)
	}
	return all
}

// entry parses "name", "name!" (empty layer) and both with "@hour".
func entries(s string) []ocispec.History {
	var all []ocispec.History
	for _, word := range strings.Fields(s) {
		name, hour, timed := strings.Cut(word, "@")
		h := ocispec.History{CreatedBy: strings.TrimSuffix(name, "!"), EmptyLayer: strings.HasSuffix(name, "!")}
		if timed {
			var n int
			fmt.Sscan(hour, &n)
			h.Created = at(n)
		}
		all = append(all, h)
	}
	return all
}

func describe(all []ocispec.History) string {
	var words []string
	for _, h := range all {
		w := h.CreatedBy
		if w == "" {
			w = "(" + h.Comment + ")"
		}
		if h.EmptyLayer {
			w += "!"
		}
		if h.Created != nil {
			w += fmt.Sprintf("@%d", h.Created.Hour())
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

func TestHistory(t *testing.T) {
	tests := []struct{ name, history, layers, want string }{
		{"nothing", "", "", ""},
		{"one each", "run copy", "ab", "run@10 copy@11"},
		{"known times stay", "base@1 run", "ab", "base@1 run@11"},
		{"metadata before new layers takes the first new layer's time", "base@1 env! run", "ab", "base@1 env!@11 run@11"},
		{"metadata after layers takes the layer's before", "run env!", "a", "run@10 env!@10"},
		{"metadata alone has the base's last time", "base@1 more@2 env! cmd!", "ab", "base@1 more@2 env!@2 cmd!@2"},
		{"metadata alone on nothing has no time", "env! cmd!", "", "env! cmd!"},
		{"timed metadata is no layer", "env!@3 run", "a", "env!@3 run@10"},
		{"layers without entries get them at the end", "run", "abc", "run@10 (slipway)@11 (slipway)@12"},
		{"layers without any entry", "", "ab", "(slipway)@10 (slipway)@11"},
		{"entries without layers are empty, the last ones first", "a b c", "xy", "a@10 b@11 c!@11"},
		{"entries without any layer", "a env!", "", "a! env!"},
		{"the same layer twice", "a b", "xx", "a@10 b@11"},
		{"times of the second gap", "a@1 x! b@5 y! c", "pqr", "a@1 x!@5 b@5 y!@5 c@12"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := entries(tt.history)
			got := history(in, forms(tt.layers))
			if d := describe(got); d != tt.want {
				t.Errorf("history is %q, want %q", d, tt.want)
			}
			if describe(in) != tt.history {
				t.Errorf("the history that was given became %q", describe(in))
			}
			filled := 0
			for _, h := range got {
				if !h.EmptyLayer {
					filled++
				}
			}
			if filled != len(tt.layers) {
				t.Errorf("%d entries speak of a layer, there are %d", filled, len(tt.layers))
			}
		})
	}
}

func TestFinishConfig(t *testing.T) {
	in := `{"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"Healthcheck":{"Test":["CMD","x"]}},` +
		`"history":[{"created_by":"run"},{"created_by":"env","empty_layer":true}],"unknown":{"x":[1]},"rootfs":{"type":"?"}}`
	data, img, err := finishConfig(Source{Config: []byte(in)}, forms("a"))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"architecture":"amd64","config":{"Env":["A=b"],"Healthcheck":{"Test":["CMD","x"]}},"created":"2020-01-01T10:00:00Z",` +
		`"history":[{"created":"2020-01-01T10:00:00Z","created_by":"run"},{"created":"2020-01-01T10:00:00Z","created_by":"env","empty_layer":true}],` +
		`"os":"linux","rootfs":{"type":"layers","diff_ids":["` + digest.FromString("a").String() + `"]},"unknown":{"x":[1]}}`
	if string(data) != want {
		t.Errorf("config is\n%s\nwant\n%s", data, want)
	}
	if len(img.Layers) != 1 || img.Layers[0].Digest != digest.FromString("blob of a") || img.Size != 100 || !img.Created.Equal(*at(10)) {
		t.Errorf("image is %+v", img)
	}
	again, _, err := finishConfig(Source{Config: []byte(in)}, forms("a"))
	if err != nil || string(again) != string(data) {
		t.Error("the same config has other bytes")
	}
}

// An image of nothing is an image: its lists are empty lists, not null.
func TestFinishEmptyConfig(t *testing.T) {
	data, img, err := finishConfig(Source{Config: []byte(`{"architecture":"amd64","os":"linux"}`)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), `"diff_ids":[]`) || !strings.Contains(string(data), `"history":[]`) {
		t.Errorf("config is %s", data)
	}
	if layers, _ := json.Marshal(img.Layers); string(layers) != "[]" {
		t.Errorf("layers are %s", layers)
	}
}

func TestFinishConfigRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                            "unexpected end of JSON",
		"[]":                          "cannot unmarshal",
		"{}":                          "no os or no architecture",
		`{"os":"linux"}`:              "no os or no architecture",
		`{"architecture":"amd64"}`:    "no os or no architecture",
		"null":                        "invalid null image config for export",
		`{"os":1,"architecture":"x"}`: "cannot unmarshal",
	} {
		if _, _, err := finishConfig(Source{Config: []byte(in)}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("config %s gave %v, want %q", in, err, want)
		}
	}
}

func TestMediaTypes(t *testing.T) {
	for in, want := range map[string]string{
		"application/vnd.docker.image.rootfs.diff.tar":              ocispec.MediaTypeImageLayer,
		"application/vnd.docker.image.rootfs.diff.tar.gzip":         ocispec.MediaTypeImageLayerGzip,
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": ocispec.MediaTypeImageLayerGzip,
		"application/vnd.docker.image.rootfs.diff.tar.zstd":         ocispec.MediaTypeImageLayerZstd,
		ocispec.MediaTypeImageLayerZstd:                             ocispec.MediaTypeImageLayerZstd,
	} {
		if got := ociMediaType(in); got != want {
			t.Errorf("%s is %s, want %s", in, got, want)
		}
	}
}

// Layers of which the times are clamped say so, as BuildKit's do: those of the base image do not.
func TestTellClamped(t *testing.T) {
	fs := forms("ab")
	src := Source{Epoch: at(3), Clamped: 1}
	src.tellClamped(fs)
	want := strconv.FormatInt(at(3).Unix(), 10)
	if fs[0].desc.Annotations != nil || fs[1].desc.Annotations["buildkit/rewritten-timestamp"] != want {
		t.Errorf("annotations are %v and %v, want those of the last one to be %s", fs[0].desc.Annotations, fs[1].desc.Annotations, want)
	}
}
