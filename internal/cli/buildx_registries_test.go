package cli

import (
	"os"
	"path/filepath"
	"testing"
)

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
