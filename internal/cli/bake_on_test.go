package cli

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-build/slipway/internal/bake"
	"github.com/slipway-build/slipway/internal/progress"
)

// TestTargetsApart: the Job of a target has the secrets of that target, the credentials of registries that it names itself, or where results are kept, and no
// others; and of what it says that it has made the others believe no image but one that it was asked for.
func TestTargetsApart(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("KUBECONFIG", write("kubeconfig", `{contexts: [{name: a, context: {cluster: a}}], current-context: a, clusters: [{name: a, cluster: {server: "http://127.0.0.1:1"}}]}`))
	t.Setenv("DOCKER_CONFIG", dir)
	write("config.json", `{"auths": {"one.example": {"auth": "b25lOng="}, "two.example": {"auth": "dHdvOng="}, "keys.example": {"auth": "a2V5czp4"}}}`)
	file := write("docker-bake.hcl", `
group "default" { targets = ["one", "two"] }
target "one" {
  tags = ["one.example/app"]
  secret = ["id=a,src=`+write("a", "value of a")+`"]
  contexts = { base = "target:two" }
}
target "two" {
  tags = ["two.example/app"]
  secret = ["id=b,src=`+write("b", "value of b")+`"]
  cache-to = ["type=registry,ref=keys.example/team,mode=keys"]
}
`)
	push := true
	opts := &bakeFlags{Options: bake.Options{Files: []string{file}, Push: push, Call: "build"}}
	opts.on = "kubernetes"
	src, err := opts.Read(t.Context(), nil, nil, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	def, err := opts.Resolve(t.Context(), src, []string{"default"})
	if err != nil {
		t.Fatal(err)
	}
	targets, err := (&app{}).remoteTargets(opts, def)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"one": "value of a; keys.example one.example", "two": "value of b; keys.example two.example"}
	for _, target := range targets {
		if err := target.readSecrets(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := target.readCredentials(); err != nil {
			t.Fatal(err)
		}
		var hosts []string
		for _, host := range []string{"keys.example", "one.example", "two.example"} {
			if strings.Contains(string(target.files[registryFile]), host) {
				hosts = append(hosts, host)
			}
		}
		if got := fmt.Sprintf("%s; %s", target.files["secret-0"], strings.Join(hosts, " ")); got != want[target.Name] || len(target.files) != 2 {
			t.Errorf("%s has %s and the files %q, want %s", target.Name, got, slices.Sorted(maps.Keys(target.files)), want[target.Name])
		}
		for name, believed := range map[string]bool{target.Name + ".example/app:latest": true, "keys.example/team:latest": false, "evil.example/app": false} {
			target.meta = map[string]any{"image.name": name, "containerimage.digest": "sha256:" + strings.Repeat("a", 64)}
			if (target.madeName() != "") != believed {
				t.Errorf("%s: %s is believed: %v", target.Name, name, !believed)
			}
		}
		target.meta["containerimage.digest"] = "sha256:a@evil.example/x"
		if target.madeName() != "" {
			t.Errorf("%s has made %s", target.Name, target.madeName())
		}
	}
}
