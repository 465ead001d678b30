package cli

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"

	"github.com/slipway-build/slipway/internal/atomicfile"
	"github.com/slipway-build/slipway/internal/builders"
)

// daemonRegistry is what buildkitd.toml says of a registry.
type daemonRegistry struct {
	Mirrors  []string        `toml:"mirrors"`
	HTTP     *bool           `toml:"http"`
	Insecure bool            `toml:"insecure"`
	CA       []string        `toml:"ca"`
	KeyPairs []daemonKeyPair `toml:"keypair"`

	pushOnly bool // it is not asked for what its mirrors do not have; buildkitd.toml cannot say that
}

// daemonKeyPair is what a client shows a registry.
type daemonKeyPair struct {
	Key  string `toml:"key"`
	Cert string `toml:"cert"`
}

// registrySettings are the keys of a registry that are held.
var registrySettings = []string{"mirrors", "http", "insecure", "ca", "keypair"}

var (
	registryHost = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?$`) })
	mirrorPath   = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9._/-]*$`) })
)

// builderFiles is the directory of the settings of registries that a builder was given, as files hosts.toml.
func builderFiles(name string) (string, error) {
	file, err := buildersFile()
	if err != nil {
		return "", err
	}
	return filepath.Join(filepath.Dir(file), "builders", strings.ToLower(name)), nil
}

// registryFiles are the files of a directory that says of registries what buildkitd.toml says of them, by their paths in it.
// Certificates and keys are copied, as buildx does.
func registryFiles(all map[string]daemonRegistry) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, host := range slices.Sorted(maps.Keys(all)) {
		if !registryHost().MatchString(host) {
			return nil, fmt.Errorf("registry.%q: no name of a registry", host)
		}
		var text bytes.Buffer
		server := host
		if host == "docker.io" {
			server = "registry-1.docker.io"
		}
		fmt.Fprintf(&text, "server = %q\n", all[host].scheme(host)+server)
		if all[host].pushOnly {
			text.WriteString("capabilities = [\"push\"]\n")
		}
		if err := all[host].tls(&text, host, host, files); err != nil {
			return nil, err
		}
		for _, mirror := range all[host].Mirrors {
			name, path, _ := strings.Cut(mirror, "/")
			if !registryHost().MatchString(name) || !mirrorPath().MatchString(path) {
				return nil, fmt.Errorf("registry.%q: mirror %q: want HOST or HOST/PATH", host, mirror)
			}
			url := all[name].scheme(name) + name
			if path = strings.Trim(path, "/"); path != "" {
				url += "/v2/" + path
			}
			fmt.Fprintf(&text, "\n[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n", url)
			if path != "" {
				text.WriteString("override_path = true\n")
			}
			if err := all[name].tls(&text, host, name, files); err != nil {
				return nil, err
			}
		}
		files[host+"/hosts.toml"] = text.Bytes()
	}
	return files, nil
}

// scheme is how a registry of a name is asked: one on loopback in the clear, unless that is said otherwise.
func (r daemonRegistry) scheme(name string) string {
	if r.HTTP == nil && docker.IsLocalhost(name) || r.HTTP != nil && *r.HTTP {
		return "http://"
	}
	return "https://"
}

// tls writes the lines of hosts.toml about the certificates of a registry, and adds those to the files beside it.
func (r daemonRegistry) tls(text *bytes.Buffer, dir, name string, files map[string][]byte) error {
	if r.Insecure {
		text.WriteString("skip_verify = true\n")
	}
	add := func(kind string, i int, path string) (string, error) {
		data, err := readSmall(path)
		file := fmt.Sprintf("%s-%s%d.pem", strings.ReplaceAll(name, ":", "_"), kind, i)
		files[dir+"/"+file] = data
		return file, err
	}
	var cas, pairs []string
	for i, ca := range r.CA {
		file, err := add("ca", i, ca)
		if err != nil {
			return err
		}
		cas = append(cas, fmt.Sprintf("%q", file))
	}
	for i, pair := range r.KeyPairs {
		cert, err := add("cert", i, pair.Cert)
		key, kerr := add("key", i, pair.Key)
		if err := errors.Join(err, kerr); err != nil {
			return err
		}
		pairs = append(pairs, fmt.Sprintf("[%q, %q]", cert, key))
	}
	if len(cas) > 0 {
		fmt.Fprintf(text, "ca = [%s]\n", strings.Join(cas, ", "))
	}
	if len(pairs) > 0 {
		fmt.Fprintf(text, "client = [%s]\n", strings.Join(pairs, ", "))
	}
	return nil
}

// setBuilderFiles makes the files those of a builder, all of them or, when the process is killed, those that it had; none removes
// what it had. The lock of the names is held.
func setBuilderFiles(b *builders.Builder, files map[string][]byte) error {
	dir, err := builderFiles(b.Name)
	if err != nil {
		return err
	}
	fresh := filepath.Join(filepath.Dir(dir), ".new") // no name of a builder begins with a dot
	err = os.RemoveAll(fresh)
	for name, data := range files {
		path := filepath.Join(fresh, name)
		err = errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o700))
		if err == nil {
			err = atomicfile.Write(path, atomicfile.Options{Mode: 0o600, Sync: true}, func(f *os.File) error {
				_, err := f.Write(data)
				return err
			})
		}
	}
	b.Registries = len(files) > 0
	switch {
	case err != nil:
	case b.Registries:
		err = atomicfile.ReplaceDir(fresh, dir)
	default:
		err = os.RemoveAll(dir)
	}
	_ = os.Remove(filepath.Dir(dir)) // when it was the last one
	if err != nil {
		return fmt.Errorf("keeping the settings of registries: %w", err)
	}
	return nil
}
