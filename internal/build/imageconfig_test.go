package build_test

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/layer"
)

func TestImageConfig(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", `FROM busybox
ENV A=b C="d e"
LABEL key=value other="two words"
EXPOSE 80 53/udp
VOLUME /data ["x"]
WORKDIR /app
RUN echo x > file
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s --retries=2 CMD test -e /app/file
SHELL ["/bin/sh", "-ec"]
ONBUILD RUN echo child
USER 1000:1000
ENTRYPOINT ["/bin/echo", "entry"]
CMD ["arg one", "two"]
`)
	res, _ := h.build(build.Request{Tags: []string{"app:v1"}, Labels: map[string]string{"from": "outside"}})
	ref := "oci:" + h.store.Root() + ":app:v1"

	var seen ocispec.Image // what skopeo understands
	must(t, json.Unmarshal(tool(t, "skopeo", "inspect", "--config", ref), &seen))
	c := seen.Config
	if c.User != "1000:1000" || c.WorkingDir != "/app" || c.StopSignal != "SIGINT" {
		t.Errorf("user %q, directory %q, signal %q", c.User, c.WorkingDir, c.StopSignal)
	}
	if !slices.Equal(c.Entrypoint, []string{"/bin/echo", "entry"}) || !slices.Equal(c.Cmd, []string{"arg one", "two"}) {
		t.Errorf("entrypoint %q, command %q", c.Entrypoint, c.Cmd)
	}
	if !slices.Contains(c.Env, "A=b") || !slices.Contains(c.Env, "C=d e") || !slices.ContainsFunc(c.Env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		t.Errorf("environment %q", c.Env)
	}
	if c.Labels["key"] != "value" || c.Labels["other"] != "two words" || c.Labels["from"] != "outside" {
		t.Errorf("labels %v", c.Labels)
	}
	if _, ok := c.ExposedPorts["80/tcp"]; !ok || len(c.ExposedPorts) != 2 {
		t.Errorf("ports %v", c.ExposedPorts)
	}
	if _, ok := c.Volumes["/data"]; !ok {
		t.Errorf("volumes %v", c.Volumes)
	}
	if seen.OS != "linux" || seen.Architecture == "" || seen.Created == nil {
		t.Errorf("platform %s/%s, created %v", seen.OS, seen.Architecture, seen.Created)
	}

	raw := tool(t, "skopeo", "inspect", "--raw", "--config", ref)
	if got := digest.FromBytes(raw); got != res.ImageID {
		t.Errorf("the config is %s, the image's id %s", got, res.ImageID)
	}
	var docker struct { // what only Docker knows
		Config struct {
			Healthcheck struct {
				Test     []string
				Interval int64
				Retries  int
			}
			Shell, OnBuild []string
		} `json:"config"`
	}
	must(t, json.Unmarshal(raw, &docker))
	d := docker.Config
	if !slices.Equal(d.Healthcheck.Test, []string{"CMD-SHELL", "test -e /app/file"}) || d.Healthcheck.Interval != 5e9 || d.Healthcheck.Retries != 2 {
		t.Errorf("healthcheck %+v", d.Healthcheck)
	}
	if !slices.Equal(d.Shell, []string{"/bin/sh", "-ec"}) || !slices.Equal(d.OnBuild, []string{"RUN echo child"}) {
		t.Errorf("shell %q, onbuild %q", d.Shell, d.OnBuild)
	}
	checkHistory(t, h, res, seen)
}

// checkHistory compares a config's history and diff_ids with the layers.
func checkHistory(t *testing.T, h *harness, res *build.Result, config ocispec.Image) {
	t.Helper()
	ctx := context.Background()
	data, err := h.store.ReadBlob(ctx, res.Manifest.Digest)
	must(t, err)
	var manifest ocispec.Manifest
	must(t, json.Unmarshal(data, &manifest))
	if len(manifest.Layers) != len(config.RootFS.DiffIDs) {
		t.Fatalf("%d layers, %d diff_ids", len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
	for i, desc := range manifest.Layers {
		data, err := h.store.ReadBlob(ctx, desc.Digest)
		must(t, err)
		r, err := layer.Decompress(bytes.NewReader(data))
		must(t, err)
		if got, err := digest.FromReader(r); err != nil || got != config.RootFS.DiffIDs[i] {
			t.Errorf("layer %d is %s, %v, its diff_id %s", i, got, err, config.RootFS.DiffIDs[i])
		}
	}
	filled := 0
	empty := map[string]bool{}
	for i, e := range config.History {
		if !e.EmptyLayer {
			filled++
		}
		if e.Created == nil {
			t.Errorf("history entry %d (%s) has no time", i, e.CreatedBy)
		}
		for _, word := range []string{"ENV", "LABEL", "EXPOSE", "VOLUME", "WORKDIR", "RUN", "STOPSIGNAL", "HEALTHCHECK", "SHELL", "USER", "ENTRYPOINT", "CMD"} {
			if strings.HasPrefix(e.CreatedBy, word+" ") {
				empty[word] = e.EmptyLayer
			}
		}
	}
	if filled != len(manifest.Layers) {
		t.Errorf("%d history entries speak of layers, there are %d", filled, len(manifest.Layers))
	}
	if len(empty) != 12 || empty["RUN"] || empty["WORKDIR"] || !empty["ENV"] || !empty["CMD"] || !empty["VOLUME"] {
		t.Errorf("instructions whose layer is empty: %v", empty)
	}
	var stat struct {
		History []struct {
			EmptyLayer bool `json:"empty_layer"`
		} `json:"history"`
	}
	must(t, json.Unmarshal(tool(t, "umoci", "stat", "--image", h.store.Root()+":app:v1", "--json"), &stat))
	if len(stat.History) != len(config.History) {
		t.Errorf("umoci sees %d history entries, want %d", len(stat.History), len(config.History))
	}
}

// A step that changes nothing leaves a layer all the same, as BuildKit has it.
func TestEmptyLayer(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\nFROM busybox\nRUN true\nRUN echo x > /x\n")
	res, _ := h.build(build.Request{Tags: []string{"app:v1"}})
	data, err := h.store.ReadBlob(context.Background(), res.ImageID)
	must(t, err)
	var config ocispec.Image
	must(t, json.Unmarshal(data, &config))
	n := len(config.History)
	if n < 3 || config.History[n-2].EmptyLayer || config.History[n-1].EmptyLayer || len(config.RootFS.DiffIDs) < 3 {
		t.Errorf("history is %+v", config.History)
	}
}
