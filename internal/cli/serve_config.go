package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/config"
)

// daemonFile is what a server holds of a buildkitd.toml.
type daemonFile struct {
	Root         string   `toml:"root"`
	Entitlements []string `toml:"insecure-entitlements"`
	Provenance   *string  `toml:"provenanceEnvDir"`
	GRPC         struct {
		Address []string `toml:"address"`
		UID     *int     `toml:"uid"`
		GID     *int     `toml:"gid"`
		TLS     struct {
			Cert string `toml:"cert"`
			Key  string `toml:"key"`
			CA   string `toml:"ca"`
		} `toml:"tls"`
	} `toml:"grpc"`
	Registry map[string]daemonRegistry `toml:"registry"`
	History  *config.History           `toml:"history"`
	Worker   struct {
		OCI struct {
			MaxParallelism int               `toml:"max-parallelism"`
			NetworkMode    string            `toml:"networkMode"`
			Labels         map[string]string `toml:"labels"`
			Platforms      []string          `toml:"platforms"`
			GC             *bool             `toml:"gc"`
			KeepStorage    *config.Text      `toml:"gckeepstorage"`
			ReservedSpace  *config.Text      `toml:"reservedSpace"`
			MaxUsedSpace   *config.Text      `toml:"maxUsedSpace"`
			MinFreeSpace   *config.Text      `toml:"minFreeSpace"`
			Policies       []daemonPolicy    `toml:"gcpolicy"`
		} `toml:"oci"`
	} `toml:"worker"`
}

type daemonPolicy struct {
	config.Rule
	KeepBytes config.Text `toml:"keepBytes"` // a former name of reservedSpace
}

// heldSettings are the keys of a buildkitd.toml that a server holds, or those above them.
var heldSettings = []string{
	"root", "insecure-entitlements", "provenanceEnvDir", "grpc.address", "grpc.uid", "grpc.gid", "grpc.tls", "history.maxAge", "history.maxEntries", "history.maxSize",
	"worker.oci.max-parallelism", "worker.oci.networkMode", "worker.oci.labels", "worker.oci.platforms",
	"worker.oci.gc", "worker.oci.gckeepstorage", "worker.oci.reservedSpace", "worker.oci.maxUsedSpace", "worker.oci.minFreeSpace", "worker.oci.gcpolicy",
}

// idleSettings are those that change nothing of a build and that it does not need.
var idleSettings = []string{
	"debug", "trace", "log", "grpc.debugAddress", "otel", "cdi", "system", "compaction", "cache", "worker.containerd",
	"worker.oci.enabled", "worker.oci.snapshotter", "worker.oci.rootless", "worker.oci.noProcessSandbox", "worker.oci.binary", "worker.oci.selinux",
	"worker.oci.cniConfigPath", "worker.oci.cniBinaryPath", "worker.oci.cniPoolSize", "worker.oci.bridgeName", "worker.oci.bridgeSubnet",
}

// boundSettings forbid something: a server that does not hold them must not run as if it did.
var boundSettings = []string{"frontend", "proxyNetwork"}

// daemonSettings puts what a buildkitd.toml says under what flags say. What it says and is not held is told.
func (a *app) daemonSettings(cmd *cobra.Command, o *serving) error {
	path := o.config
	if o.config = ""; path == "" {
		return nil
	}
	keys, err := readDaemonConfig(path)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	for _, key := range keys.keys {
		isRegistry := strings.HasPrefix(key, "registry.") && slices.Contains(registrySettings, key[strings.LastIndexByte(key, '.')+1:])
		switch {
		case isRegistry, hasKey(heldSettings, key), hasKey(idleSettings, key):
		case hasKey(boundSettings, key):
			return fmt.Errorf("--config %s: %s: it forbids something, and is not held: leave it out", path, key)
		default:
			a.warn(fmt.Sprintf("%s: %s has no effect", path, key))
		}
	}
	data, err := readSmall(path)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	var f daemonFile
	if err := toml.Unmarshal(data, &f); err != nil {
		return fmt.Errorf("--config %s: %w", path, err)
	}
	f.serving(cmd, a, o)
	if o.provenance, err = provenanceEnv(f.Provenance); err != nil {
		return fmt.Errorf("--config %s: provenanceEnvDir: %w", path, err)
	}
	if a.settings == nil {
		a.settings = &config.Settings{}
	}
	f.keep(a.settings)
	return a.daemonRegistries(path, f.Registry)
}

// provenanceEnv reads what provenance is to say of where builds run: the files *.json of a directory, of which later ones win.
func provenanceEnv(dir *string) (map[string]any, error) {
	if dir == nil || *dir == "" {
		return nil, nil
	}
	files, err := os.ReadDir(*dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // as for BuildKit
	}
	if err != nil {
		return nil, err
	}
	env := map[string]any{}
	for _, f := range files {
		if f.IsDir() || filepath.Ext(f.Name()) != ".json" {
			continue
		}
		path := filepath.Join(*dir, f.Name())
		data, err := readSmall(path)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(data, &env); err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
	}
	return env, nil
}

// serving says how to serve.
func (f *daemonFile) serving(cmd *cobra.Command, a *app, o *serving) {
	given := func(name string) bool { fl := cmd.Flag(name); return fl != nil && fl.Changed }
	if f.Root != "" && !given("root") {
		a.root = f.Root
	}
	if len(o.addrs) == 0 {
		o.addrs = f.GRPC.Address
	}
	if !given("allow-insecure-entitlement") {
		o.entitlements = f.Entitlements
	}
	if f.GRPC.UID != nil {
		o.uid = *f.GRPC.UID
	}
	if f.GRPC.GID != nil && o.group == "" {
		o.group = fmt.Sprint(*f.GRPC.GID)
	}
	for _, of := range []struct {
		to   *string
		text string
	}{{&o.cert, f.GRPC.TLS.Cert}, {&o.key, f.GRPC.TLS.Key}, {&o.ca, f.GRPC.TLS.CA}} {
		if *of.to == "" {
			*of.to = of.text
		}
	}
	w := &f.Worker.OCI
	if n := max(w.MaxParallelism, 0); !given("max-parallelism") && !given("oci-max-parallelism") && n > 0 {
		a.maxRuns = n
	}
	a.daemonNetwork("networkMode", w.NetworkMode)
	o.labels, o.platforms = w.Labels, w.Platforms
}

// keep says what is kept of cache and records.
func (f *daemonFile) keep(c *config.Settings) {
	w := &f.Worker.OCI
	if w.GC != nil {
		c.GC = w.GC
	}
	if w.ReservedSpace == nil {
		w.ReservedSpace = w.KeepStorage
	}
	for _, of := range []struct{ to, from **config.Text }{
		{&c.ReservedSpace, &w.ReservedSpace}, {&c.MaxUsedSpace, &w.MaxUsedSpace}, {&c.MinFreeSpace, &w.MinFreeSpace},
	} {
		if *of.from != nil {
			*of.to = *of.from
		}
	}
	if len(w.Policies) > 0 {
		c.Policies = nil
	}
	for _, p := range w.Policies {
		if p.ReservedSpace == "" {
			p.ReservedSpace = p.KeepBytes
		}
		c.Policies = append(c.Policies, p.Rule)
	}
	if f.History != nil {
		c.History = f.History
	}
}

// daemonRegistries writes what a buildkitd.toml says of registries as files hosts.toml, which are read before others.
func (a *app) daemonRegistries(path string, all map[string]daemonRegistry) error {
	files, err := registryFiles(all)
	if err != nil || len(files) == 0 {
		if err != nil {
			err = fmt.Errorf("--config %s: %w", path, err)
		}
		return err
	}
	dir, err := os.MkdirTemp("", "slipway-registries-") // gone with the machine's temporary files, if not before
	if err != nil {
		return err
	}
	a.atEnd = append(a.atEnd, func() { os.RemoveAll(dir) })
	a.builderCerts = dir
	for name, data := range files {
		file := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(file), 0o700)
		if err == nil {
			err = os.WriteFile(file, data, 0o600)
		}
		if err != nil {
			return fmt.Errorf("keeping the settings of registries: %w", err)
		}
	}
	return nil
}
