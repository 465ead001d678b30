package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/atomicfile"
	"github.com/slipway-build/slipway/internal/registry"
)

// kanikoRegistries are kaniko's flags about registries.
type kanikoRegistries struct {
	insecure, insecurePull, skipVerify, skipVerifyPull, skipFallback bool
	insecureHosts, unverified, certificates, clients                 []string
	mirrors, maps                                                    []string
}

func (r *kanikoRegistries) add(f *pflag.FlagSet) {
	f.BoolVar(&r.insecure, "insecure", false, "Push to registries that have any certificate, or speak plain HTTP")
	f.BoolVar(&r.insecurePull, "insecure-pull", false, "Pull from registries that have any certificate, or speak plain HTTP")
	f.BoolVar(&r.skipVerify, "skip-tls-verify", false, "Let registries have any certificate")
	f.BoolVar(&r.skipVerifyPull, "skip-tls-verify-pull", false, "Let registries have any certificate")
	f.BoolVar(&r.skipFallback, "skip-default-registry-fallback", false, "Do not ask the registry itself where its mirrors do not have an image")
	f.StringArrayVar(&r.insecureHosts, "insecure-registry", nil, "Registry that may have any certificate, or speak plain HTTP")
	f.StringArrayVar(&r.unverified, "skip-tls-verify-registry", nil, "Registry that may have any certificate")
	f.StringArrayVar(&r.certificates, "registry-certificate", nil, `Certificate of a registry's CA (format: "REGISTRY=FILE")`)
	f.StringArrayVar(&r.clients, "registry-client-cert", nil, `Certificate and key that a registry is shown (format: "REGISTRY=FILE,KEYFILE")`)
	f.StringArrayVar(&r.mirrors, "registry-mirror", nil, "Mirror of docker.io (KANIKO_REGISTRY_MIRROR)")
	f.StringArrayVar(&r.maps, "registry-map", nil, `Mirrors of registries (format: "REGISTRY=MIRROR[;REGISTRY=MIRROR]") (KANIKO_REGISTRY_MAP)`)
}

// complete takes what the environment says, and checks the forms.
func (r *kanikoRegistries) complete(getenv func(string) (string, bool)) error {
	if v, ok := getenv("KANIKO_REGISTRY_MIRROR"); ok && v != "" {
		r.mirrors = append(r.mirrors, v)
	}
	if v, ok := getenv("KANIKO_REGISTRY_MAP"); ok && v != "" {
		r.maps = append(r.maps, v)
	}
	var all []string
	for _, m := range r.maps {
		all = append(all, slices.DeleteFunc(strings.Split(m, ";"), func(one string) bool { return one == "" })...)
	}
	for _, m := range r.mirrors {
		all = append(all, hubHost+"="+m)
	}
	r.maps = all
	for flag, values := range map[string][]string{"registry-map": r.maps, "registry-certificate": r.certificates, "registry-client-cert": r.clients} {
		for _, v := range values {
			if _, _, ok := strings.Cut(v, "="); !ok {
				return fmt.Errorf("--%s: invalid argument value. expect key=value, got %s", flag, v)
			}
		}
	}
	for _, v := range r.clients {
		if _, pair, _ := strings.Cut(v, "="); strings.Count(pair, ",") != 1 {
			return fmt.Errorf("--registry-client-cert %s: want REGISTRY=FILE,KEYFILE", v)
		}
	}
	return nil
}

// options are what holds for registries that nothing is said of.
func (r *kanikoRegistries) options() registry.Options {
	return registry.Options{AnyCertificate: r.skipVerify || r.skipVerifyPull, Insecure: r.insecurePull}
}

// tables are what is said of registries, by their names; push are those that something is pushed to.
func (r *kanikoRegistries) tables(push []string) map[string]daemonRegistry {
	all := map[string]daemonRegistry{}
	change := func(host string, f func(*daemonRegistry)) {
		host = kanikoHost(host)
		t := all[host]
		f(&t)
		all[host] = t
	}
	plain := true
	insecure := func(t *daemonRegistry) { t.HTTP, t.Insecure = &plain, true } // HTTPS is tried first then
	for _, m := range r.maps {
		host, mirror, _ := strings.Cut(m, "=")
		mirror, clear := strings.CutPrefix(mirror, "http://")
		mirror = strings.TrimSuffix(strings.TrimPrefix(mirror, "https://"), "/")
		change(host, func(t *daemonRegistry) { t.Mirrors, t.pushOnly = append(t.Mirrors, mirror), r.skipFallback })
		name, _, _ := strings.Cut(mirror, "/")
		if clear || r.insecurePull {
			change(name, insecure)
		}
		if r.insecurePull {
			change(host, insecure)
		}
	}
	for _, v := range r.certificates {
		host, file, _ := strings.Cut(v, "=")
		change(host, func(t *daemonRegistry) { t.CA = append(t.CA, file) })
	}
	for _, v := range r.clients {
		host, pair, _ := strings.Cut(v, "=")
		cert, key, _ := strings.Cut(pair, ",")
		change(host, func(t *daemonRegistry) { t.KeyPairs = append(t.KeyPairs, daemonKeyPair{Cert: cert, Key: key}) })
	}
	for _, host := range r.unverified {
		change(host, func(t *daemonRegistry) { t.Insecure = true })
	}
	for _, host := range r.insecureHosts {
		change(host, insecure)
	}
	for _, host := range push {
		if r.insecure {
			change(host, insecure)
		}
	}
	if r.skipVerify || r.skipVerifyPull {
		for host := range all {
			change(host, func(t *daemonRegistry) { t.Insecure = true })
		}
	}
	return all
}

// kanikoHost is the name of a registry; kaniko has another one for Docker Hub.
func kanikoHost(host string) string {
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		return hubHost
	}
	return host
}

// writeRegistryFiles writes the files of [registryFiles] into a directory.
func writeRegistryFiles(dir string, files map[string][]byte) error {
	for name, data := range files {
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if err == nil {
			err = atomicfile.Write(path, atomicfile.Options{Mode: 0o600}, func(f *os.File) error {
				_, err := f.Write(data)
				return err
			})
		}
		if err != nil {
			return fmt.Errorf("keeping the settings of registries: %w", err)
		}
	}
	return nil
}

// credentials are those that a pipeline of GitLab has in its environment, which kaniko finds by itself.
func (o *executorFlags) credentials() func(host string) (user, secret string) {
	if len(o.helpers) > 0 && !slices.Contains(o.helpers, "gitlab") {
		return nil
	}
	host := strings.TrimPrefix(os.Getenv("CI_REGISTRY"), "https://")
	user, secret := os.Getenv("CI_REGISTRY_USER"), os.Getenv("CI_REGISTRY_PASSWORD")
	if host == "" || user == "" || secret == "" || strings.Contains(host, "://") {
		return nil
	}
	return func(asked string) (string, string) {
		if asked != host {
			return "", ""
		}
		return user, secret
	}
}
