package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/google/shlex"
	"github.com/pelletier/go-toml/v2"
	csvvalue "github.com/tonistiigi/go-csvvalue"
)

// What buildx says to drivers and to BuildKit's daemon. There is neither: what changes nothing of a build is accepted, and the
// rest is refused by its name, with what does the same here.

// inertOptions are options of the driver docker-container that change nothing: of the container that the daemon runs in,
// and of how its result is loaded, which it is always.
var inertOptions = []string{"image", "restart-policy", "default-load", "provenance-add-gha", "allow-untrusted-image", "gpus"}

// otherOption is what does here what an option would change.
func otherOption(key string) string {
	return map[string]string{
		"memory": "give build --memory", "memory-swap": "give build --memory-swap",
		"cpu-period": "give build --cpu-period", "cpu-quota": "give build --cpu-quota", "cpu-shares": "give build --cpu-shares",
		"cpuset-cpus": "give build --cpuset-cpus", "cpuset-mems": "give build --cpuset-mems", "cgroup-parent": "give build --cgroup-parent",
		"network": "registries are asked over the network of this machine, which is network=host: leave it out",
	}[key]
}

// optionPairs reads values of --driver-opt.
func optionPairs(values []string) (all map[string]string, err error) {
	for _, value := range values {
		fields, err := csvvalue.Fields(value, nil)
		if err != nil {
			return nil, fmt.Errorf("--driver-opt %s: %w", value, err)
		}
		for _, field := range fields {
			key, v, ok := strings.Cut(field, "=")
			if !ok {
				return nil, fmt.Errorf("--driver-opt: invalid value %q, expecting k=v", field)
			}
			if all == nil {
				all = map[string]string{}
			}
			all[key] = v
		}
	}
	return all, nil
}

// driverOptions reads values of --driver-opt for a builder of this machine.
func driverOptions(values []string) (map[string]string, error) {
	all, err := optionPairs(values)
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if err := checkOption(key, all[key]); err != nil {
			return nil, err
		}
	}
	return all, err
}

func checkOption(key, value string) error {
	env, isEnv := strings.CutPrefix(key, "env.")
	switch {
	case slices.Contains(inertOptions, key), key == "network" && (value == "host" || value == ""):
		return nil
	case isEnv && strings.HasPrefix(env, "BUILDKIT_STEP_LOG_MAX_"): // no log is cut
		return nil
	case isEnv:
		return fmt.Errorf("--driver-opt %s: no daemon runs that it could be for: set %s in the environment of slipway itself", key, env)
	case otherOption(key) != "":
		return fmt.Errorf("--driver-opt %s=%s: no container runs that it could be for: %s", key, value, otherOption(key))
	}
	return fmt.Errorf("invalid driver option %s for docker-container driver", key)
}

// inertFlag reports whether a flag of buildkitd changes nothing, and whether a value follows it. Entitlements are what the client of a
// daemon may ask for: whoever runs slipway may, with build --allow.
func inertFlag(name string) (value, inert bool) {
	value, inert = map[string]bool{
		"debug": false, "trace": false, "allow-insecure-entitlement": true, "oci-worker": false, "containerd-worker": false,
		"oci-worker-snapshotter": true, "oci-worker-no-process-sandbox": false, "log-format": true, "group": true,
	}[name]
	return value, inert
}

// daemonFlags reads --buildkitd-flags.
func daemonFlags(text string) ([]string, error) {
	words, err := shlex.Split(text)
	if err != nil {
		return nil, fmt.Errorf("failed to parse buildkit flags: %w", err)
	}
	for i := 0; i < len(words); i++ {
		flag, _, has := strings.Cut(words[i], "=")
		name, isFlag := strings.CutPrefix(flag, "--")
		takes, inert := inertFlag(name)
		switch {
		case !isFlag || !inert:
			what := "there is no BuildKit daemon that it could be for"
			if strings.HasPrefix(name, "oci-worker-net") {
				what += ": --worker-net and SLIPWAY_WORKER_NET say which network a RUN has"
			} else if strings.Contains(name, "gc") {
				what += ": slipway.toml says how much cache is kept"
			}
			return nil, fmt.Errorf("--buildkitd-flags %s: %s", words[i], what)
		case takes && !has:
			i++ // its value
		}
	}
	return words, nil
}

// inertSettings are keys of buildkitd.toml that change nothing of a build.
var inertSettings = []string{
	"debug", "trace", "log", "root", "insecure-entitlements", "grpc", "otel", "system", "compaction",
	"worker.containerd", "worker.oci.enabled", "worker.oci.snapshotter", "worker.oci.rootless", "worker.oci.noProcessSandbox", "worker.oci.platforms",
	"worker.oci.labels", "worker.oci.cniPoolSize",
	"worker.oci.max-parallelism", // which is held
}

// otherSettings are keys that would change something, and what to do here. The first that a key begins with counts.
var otherSettings = []struct{ key, instead string }{
	{"worker.oci.gc", "the keys gc and gcpolicy of slipway.toml say how much cache is kept"},
	{"worker.oci.reservedSpace", "slipway.toml has that key"}, {"worker.oci.maxUsedSpace", "slipway.toml has that key"},
	{"worker.oci.minFreeSpace", "slipway.toml has that key"},
	{"worker.oci.networkMode", "--worker-net, or the key worker-net of slipway.toml, says it"},
	{"worker.oci.apparmor-profile", "build --security-opt apparmor=PROFILE says it"},
	{"registry", "say it in a file hosts.toml of the registry, below /etc/slipway/certs.d or --certs-dir (docs/registries.md)"}, // tlsconfigdir
	{"history", "the table history of slipway.toml says it"},
	{"dns", "/etc/resolv.conf of this machine says it"},
	{"", "leave it out"},
}

// heldConfig is what buildkitd.toml says and is held.
type heldConfig struct {
	Registry map[string]daemonRegistry `toml:"registry"`
	Worker   struct {
		OCI struct {
			MaxParallelism int `toml:"max-parallelism"`
		} `toml:"oci"`
	} `toml:"worker"`

	keys []string // all, with dots between those of tables
}

// daemonConfig reads --buildkitd-config, and refuses what it says that would change something and is not held here. It gives
// what is to be kept for the builder: how many steps run at the same time, and files about registries.
func daemonConfig(path string) (maxRuns int, files map[string][]byte, err error) {
	if path == "" {
		return 0, nil, nil
	}
	c, err := readDaemonConfig(path)
	if err != nil {
		return 0, nil, fmt.Errorf("--buildkitd-config: %w", err)
	}
	for _, key := range c.keys {
		if hasKey(inertSettings, key) || strings.HasPrefix(key, "registry.") && slices.Contains(registrySettings, key[strings.LastIndexByte(key, '.')+1:]) {
			continue
		}
		i := slices.IndexFunc(otherSettings, func(o struct{ key, instead string }) bool { return strings.HasPrefix(key, o.key) })
		return 0, nil, fmt.Errorf("--buildkitd-config %s: %s: there is no BuildKit daemon that it could be for: %s", path, key, otherSettings[i].instead)
	}
	if files, err = registryFiles(c.Registry); err != nil {
		return 0, nil, fmt.Errorf("--buildkitd-config %s: %w", path, err)
	}
	return max(c.Worker.OCI.MaxParallelism, 0), files, nil
}

// hasKey reports whether a key or one above it is among keys.
func hasKey(keys []string, key string) bool {
	return slices.ContainsFunc(keys, func(k string) bool { return key == k || strings.HasPrefix(key, k+".") })
}

// readDaemonConfig reads a TOML file.
func readDaemonConfig(path string) (*heldConfig, error) {
	data, err := readSmall(path)
	if err != nil {
		return nil, err
	}
	var tables map[string]any
	c := &heldConfig{}
	if err := errors.Join(toml.Unmarshal(data, &tables), toml.Unmarshal(data, c)); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var walk func(prefix string, m map[string]any)
	walk = func(prefix string, m map[string]any) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if sub, ok := m[k].(map[string]any); ok {
				walk(prefix+k+".", sub)
				continue
			}
			c.keys = append(c.keys, prefix+k)
		}
	}
	walk("", tables)
	return c, nil
}

// readSmall reads a file that somebody names. It waits for no pipe, and does not fill the memory.
func readSmall(path string) ([]byte, error) {
	const most = 1 << 20
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s is no regular file", path))
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && len(data) > most {
		err = fmt.Errorf("%s is longer than 1 MiB", path)
	}
	return data, err
}
