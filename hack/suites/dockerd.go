package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// dockerdName is what tests start, engineName what that becomes: slipway.
const (
	dockerdName = "dockerd"
	engineName  = "engine"
)

// dockerd becomes slipway with the flags of Docker's daemon that tests give it. Those that are not known have no effect.
func dockerd(args []string) error {
	given := map[string]string{}
	for i := 0; i < len(args); i++ {
		name, value, ok := strings.Cut(args[i], "=")
		if !ok && i+1 < len(args) && !strings.HasPrefix(args[i+1], "--") {
			i++
			value = args[i]
		}
		given[name] = value
	}
	var config struct {
		Mirrors []string `json:"registry-mirrors"`
		Builder struct {
			Entitlements map[string]bool
		}
	}
	data, err := os.ReadFile(given["--config-file"])
	if err == nil {
		err = json.Unmarshal(data, &config)
	}
	if err != nil {
		return err
	}
	root := given["--data-root"]
	certs := filepath.Join(filepath.Dir(root), "certs")
	hosts := "server = \"https://registry-1.docker.io\"\n"
	for _, m := range config.Mirrors {
		hosts += fmt.Sprintf("[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n", m)
	}
	if err := os.MkdirAll(filepath.Join(certs, "docker.io"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(certs, "docker.io", "hosts.toml"), []byte(hosts), 0o600); err != nil {
		return err
	}
	self := filepath.Join(filepath.Dir(os.Args[0]), engineName)
	argv := []string{self, "serve", "--root", filepath.Join(root, "slipway"), "--addr", "unix://" + filepath.Join(root, "buildkitd.sock"), "--docker-addr", given["--host"]}
	for name, entitlement := range map[string]string{"network-host": "network.host", "security-insecure": "security.insecure"} {
		if config.Builder.Entitlements[name] {
			argv = append(argv, "--allow-insecure-entitlement", entitlement)
		}
	}
	return unix.Exec(self, argv, append(os.Environ(), "SLIPWAY_CERTS_DIR="+certs))
}
