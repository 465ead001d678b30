package bake

import (
	"io"
	"os"
	"path/filepath"
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
