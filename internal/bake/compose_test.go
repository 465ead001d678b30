package bake

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/secrets"
)

// TestComposeSecrets: what a project's environment file has is for this project's builds, and is nowhere else.
func TestComposeSecrets(t *testing.T) {
	const variable = "SLIPWAY_TEST_SECRET_OF_FILE"
	of := func(value string) string {
		dir := t.TempDir()
		for name, text := range map[string]string{
			".env": variable + "=" + value + "\n",
			"compose.yaml": `services:
  app:
    build:
      context: .
      secrets: [key, home]
secrets:
  key:
    environment: ` + variable + `
  home:
    environment: HOME
`,
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	t.Setenv("HOME", "/of/the/process")
	var definitions []*Definition
	for _, value := range []string{"one", "two"} {
		dir := of(value)
		c := &Compose{Directory: dir, Files: []string{filepath.Join(dir, "compose.yaml")}}
		d, err := c.Resolve(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		definitions = append(definitions, d)
	}
	if v, ok := os.LookupEnv(variable); ok {
		t.Errorf("the process has the variable, %q", v)
	}
	for i, value := range []string{"one", "two"} {
		builds, err := definitions[i].Builds(t.Context(), build.Request{}, io.Discard)
		if err != nil || len(builds) != 1 {
			t.Fatalf("%d builds, %v", len(builds), err)
		}
		s, err := secrets.NewStore(builds[0].Request.Secrets)
		if err != nil {
			t.Fatal(err)
		}
		for id, want := range map[string]string{"key": value, "home": "/of/the/process"} {
			if got, err := s.Secret(t.Context(), id); err != nil || string(got) != want {
				t.Errorf("project %d: secret %s is %q, %v, want %q", i+1, id, got, err, want)
			}
		}
	}
}

// TestComposePlatforms: a build's platforms come before the service's, that before the variable, in the environment or in the
// project's environment file; and where the platform to run on is not built for, it is an error, as in docker compose.
func TestComposePlatforms(t *testing.T) {
	for name, c := range map[string]struct {
		service, build, env, file string
		want                      []string
		err                       string
	}{
		"nothing":         {},
		"variable":        {env: "linux/arm64", want: []string{"linux/arm64"}},
		"file":            {file: "linux/arm64", want: []string{"linux/arm64"}},
		"variable first":  {env: "linux/riscv64", file: "linux/arm64", want: []string{"linux/riscv64"}},
		"service":         {service: "linux/s390x", want: []string{"linux/s390x"}},
		"service first":   {service: "linux/s390x", env: "linux/arm64", want: []string{"linux/s390x"}},
		"build":           {build: "linux/amd64, linux/arm64", want: []string{"linux/amd64", "linux/arm64"}},
		"build, variable": {build: "linux/amd64, linux/arm64", env: "linux/arm64", want: []string{"linux/amd64", "linux/arm64"}},
		"build, service":  {build: "linux/amd64, linux/arm64", service: "linux/arm64", env: "linux/s390x", want: []string{"linux/amd64", "linux/arm64"}},
		"not built for": {build: "linux/amd64", env: "linux/arm64",
			err: `service "app" build.platforms does not support value set by DOCKER_DEFAULT_PLATFORM: linux/arm64`},
		"not built for the service": {build: "linux/amd64", service: "linux/arm64",
			err: `reading the compose file: service.build.platforms MUST include service.platform "linux/arm64"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("DOCKER_DEFAULT_PLATFORM", c.env)
			if c.env == "" {
				os.Unsetenv("DOCKER_DEFAULT_PLATFORM") // and is set again by the cleanup of Setenv
			}
			dir := t.TempDir()
			text := "services:\n  base: {image: busybox, platform: linux/386}\n  app:\n    build: {context: ., platforms: [" + c.build + "]}\n"
			if c.service != "" {
				text += "    platform: " + c.service + "\n"
			}
			for name, text := range map[string]string{"compose.yaml": text, ".env": "DOCKER_DEFAULT_PLATFORM=" + c.file + "\n"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			d, err := (&Compose{Directory: dir, Files: []string{filepath.Join(dir, "compose.yaml")}}).Resolve(t.Context(), nil)
			if c.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), c.err) {
					t.Errorf("%v, want %s", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			builds, err := d.Builds(t.Context(), build.Request{}, io.Discard)
			if err != nil || len(builds) != 1 {
				t.Fatalf("%d builds, %v", len(builds), err)
			}
			if got := builds[0].Request.Platforms; !slices.Equal(got, c.want) {
				t.Errorf("built for %v, want %v", got, c.want)
			}
		})
	}
}
