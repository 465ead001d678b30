package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-build/slipway/internal/builders"
)

func TestDaemonConfigIsFiles(t *testing.T) {
	dir := t.TempDir()
	pipe, long, config := filepath.Join(dir, "pipe"), filepath.Join(dir, "long"), filepath.Join(dir, "buildkitd.toml")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.WriteFile(long, make([]byte, 1<<20+1), 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{pipe: "is no regular file", long: "is longer than 1 MiB", "/dev/zero": "is no regular file", dir: "is no regular file"} {
		if _, _, err := daemonConfig(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s as configuration: %v, want that it %s", path, err, want)
		}
		if err := os.WriteFile(config, []byte("[registry.\"a\"]\nca = [\""+path+"\"]\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := daemonConfig(config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s as certificate: %v, want that it %s", path, err, want)
		}
	}
}

func TestRegistryFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"ca.pem", "cert.pem", "key.pem"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(dir, "buildkitd.toml")
	if err := os.WriteFile(config, []byte(`
[registry."docker.io"]
mirrors = ["mirror.example.com:5000", "cache.example.com/a/proxy"]
[registry."mirror.example.com:5000"]
http = true
[registry."cache.example.com"]
insecure = true
http = true
ca = ["`+dir+`/ca.pem"]
[[registry."cache.example.com".keypair]]
key = "`+dir+`/key.pem"
cert = "`+dir+`/cert.pem"
`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, files, err := daemonConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	const trust = `skip_verify = true
ca = ["cache.example.com-ca0.pem"]
client = [["cache.example.com-cert0.pem", "cache.example.com-key0.pem"]]
`
	want := map[string]string{
		"docker.io/hosts.toml": `server = "https://registry-1.docker.io"

[host."http://mirror.example.com:5000"]
capabilities = ["pull", "resolve"]

[host."http://cache.example.com/v2/a/proxy"]
capabilities = ["pull", "resolve"]
override_path = true
` + trust,
		"mirror.example.com:5000/hosts.toml": "server = \"http://mirror.example.com:5000\"\n",
		"cache.example.com/hosts.toml":       "server = \"http://cache.example.com\"\n" + trust,
	}
	for _, host := range []string{"docker.io", "cache.example.com"} {
		for _, name := range []string{"ca", "cert", "key"} {
			want[host+"/cache.example.com-"+name+"0.pem"] = name + ".pem"
		}
	}
	for name, text := range want {
		if got := string(files[name]); got != text {
			t.Errorf("%s is %q, want %q", name, got, text)
		}
	}
	if len(files) != len(want) {
		t.Errorf("there are %d files, want %d", len(files), len(want))
	}
}

// TestBuilderFiles: the files of a builder are replaced whole. What a process that was killed has left behind is in nobody's way,
// and settings that are gone are no settings.
func TestBuilderFiles(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	b := &builders.Builder{Name: "Mirrored"}
	dir, err := builderFiles(b.Name)
	if err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(filepath.Dir(dir), ".new", "old.example.com")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"a.example.com", "b.example.com"} {
		if err := setBuilderFiles(b, map[string][]byte{host + "/hosts.toml": []byte("of " + host)}); err != nil || !b.Registries {
			t.Fatal(b, err)
		}
		all, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "*", "*", "*"))
		if err != nil || len(all) != 1 || all[0] != filepath.Join(dir, host, "hosts.toml") {
			t.Errorf("it has %q, %v", all, err)
		}
	}
	held, err := os.Open(dir) // by who reads it
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	// One that cannot be written leaves what is there.
	if err := setBuilderFiles(b, map[string][]byte{"c/hosts.toml": nil, "c/hosts.toml/x": nil}); err == nil {
		t.Error("a file is a directory")
	}
	if _, err := os.Stat(filepath.Join(dir, "b.example.com", "hosts.toml")); err != nil {
		t.Error(err)
	}
	file, err := buildersFile()
	if err != nil {
		t.Fatal(err)
	}
	b.Registries = true
	if err := builders.Change(file, func(l *builders.List) error { l.Put(*b); return nil }); err != nil {
		t.Fatal(err)
	}
	a := &app{builder: "mirrored"}
	if err := a.checkBuilder(); err != nil || a.builderCerts != dir {
		t.Errorf("%v, its files are in %s", err, a.builderCerts)
	}
	if err := setBuilderFiles(b, nil); err != nil || b.Registries {
		t.Error(b, err)
	}
	if _, err := os.Stat(filepath.Dir(dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory of the last one: %v", err)
	}
	if err := a.checkBuilder(); err == nil || !strings.Contains(err.Error(), "buildx rm Mirrored") {
		t.Errorf("a builder whose settings are gone: %v", err)
	}
}
