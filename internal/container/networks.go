package container

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slipway-build/slipway/internal/atomicfile"
	"github.com/slipway-build/slipway/internal/container/host"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

// Network is a name that containers are made with: what is kept of it are its name and labels. Each container in it has a network of its own, with
// a way out unless it is an internal one, and they do not reach each other.
type Network struct {
	Name     string          `json:"name"`
	ID       string          `json:"id"`
	Created  time.Time       `json:"created"`
	Internal bool            `json:"internal,omitempty"`
	Docker   json.RawMessage `json:"docker,omitempty"` // what a client of Docker's API asked for, to be told it again
}

// Joined is a network that a container is in.
type Joined struct {
	Name string `json:"name"`
	ID   string `json:"id,omitempty"` // that of a [Network]: another one of the name is none of the container's
}

// In are the networks that a container is in.
func (c *Config) In() []Joined {
	if c.Joined != nil {
		return c.Joined
	}
	return []Joined{{Name: string(c.Network)}}
}

// NetworkNames are the names of the networks that a container is in.
func (c *Config) NetworkNames() (names []string) {
	for _, j := range c.In() {
		names = append(names, j.Name)
	}
	return names
}

var (
	// ErrNetworkExists marks a name that another network has.
	ErrNetworkExists = errors.New("already exists")
	// ErrNetworkInUse marks a network that a container has which runs.
	ErrNetworkInUse = errors.New("has active endpoints")
	// ErrNoNetwork marks a container that cannot run, as a network that it was put into was removed.
	ErrNoNetwork = host.ErrNoNetwork
)

const (
	// maxNetworkName is how long a name may be, in bytes: it is a file's.
	maxNetworkName = 200
	// maxNetworks is how many there may be, and maxAsked how much is kept of what a client asked for, in bytes: all are read to find one.
	maxNetworks = 1000
	maxAsked    = 64 << 10
)

const networkRecord = ".json"

func (m *Manager) networkPath(name string) string {
	return filepath.Join(m.Store.Root(), "networks", name+networkRecord)
}

// LockNetworks keeps other processes from making and removing networks, from putting containers into some, and from starting a container, until release is called.
func (m *Manager) LockNetworks(ctx context.Context) (release func() error, err error) {
	release, err = lockFile(ctx, filepath.Join(filepath.Dir(m.networkPath("any")), ".lock")) // no network's name
	if err != nil {
		return nil, fmt.Errorf("locking the networks: %w", err)
	}
	return release, nil
}

// MakeNetwork makes a network. The caller has [Manager.LockNetworks].
func (m *Manager) MakeNetwork(n Network) (Network, error) {
	switch {
	case !ValidName(n.Name) || len(n.Name) > maxNetworkName:
		return n, fmt.Errorf("%w network name: %q: want up to %d of [a-zA-Z0-9_.-], of which the first is a letter or a digit", ErrInvalid, n.Name, maxNetworkName)
	case slices.Contains([]sandbox.Network{sandbox.NetworkBridge, sandbox.NetworkHost, sandbox.NetworkNone, "default"}, sandbox.Network(n.Name)):
		return n, fmt.Errorf("%w network name: %q is one that is always there", ErrInvalid, n.Name)
	case len(n.Docker) > maxAsked:
		return n, fmt.Errorf("%w network: its labels and options have more than %d bytes", ErrInvalid, maxAsked)
	}
	if _, err := m.readNetwork(n.Name); err == nil || !errors.Is(err, store.ErrNotFound) {
		return n, errors.Join(err, fmt.Errorf("network with name %s %w", n.Name, ErrNetworkExists))
	}
	all, err := m.Networks()
	if err == nil && len(all) >= maxNetworks {
		err = fmt.Errorf("%w network: there are %d already: remove some first", ErrInvalid, len(all))
	}
	if err != nil {
		return n, err
	}
	var b [32]byte
	_, err = rand.Read(b[:])
	n.ID, n.Created = hex.EncodeToString(b[:]), time.Now().UTC()
	path := m.networkPath(n.Name)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	var data []byte
	if err == nil {
		data, err = json.Marshal(n)
	}
	if err == nil {
		// No network's name begins with a dot.
		err = atomicfile.Write(path, atomicfile.Options{Temporary: filepath.Join(filepath.Dir(path), ".new"), Mode: 0o600}, func(f *os.File) error {
			_, err := f.Write(data)
			return err
		})
	}
	if err != nil {
		return n, fmt.Errorf("making a network: %w", err)
	}
	return n, nil
}

// readNetwork finds a network by its name.
func (m *Manager) readNetwork(name string) (n Network, err error) {
	absent := fmt.Errorf("network %s not found: %w", name, store.ErrNotFound)
	if !ValidName(name) || len(name) > maxNetworkName {
		return n, absent
	}
	data, err := os.ReadFile(m.networkPath(name))
	if errors.Is(err, os.ErrNotExist) {
		return n, absent
	}
	if err == nil {
		err = json.Unmarshal(data, &n)
	}
	if err != nil {
		return n, fmt.Errorf("reading the record of network %s: %w", name, err)
	}
	n.Name = name
	return n, nil
}

// HasNetworks refuses, as [ErrNoNetwork], a container of which a network was removed, also where there is another one of the name now.
func (m *Manager) HasNetworks(config *Config) error {
	for _, j := range config.Joined {
		if j.ID == "" {
			continue
		}
		n, err := m.readNetwork(j.Name)
		if errors.Is(err, store.ErrNotFound) || err == nil && n.ID != j.ID {
			err = fmt.Errorf("network %s not found: %w", j.Name, ErrNoNetwork)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Networks are all that were made, by their names. What cannot be read is left out.
func (m *Manager) Networks() (all []Network, err error) {
	entries, err := os.ReadDir(filepath.Dir(m.networkPath("any")))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listing networks: %w", err)
	}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), networkRecord); ok {
			if n, err := m.readNetwork(name); err == nil {
				all = append(all, n)
			}
		}
	}
	return all, nil
}

// FindNetwork finds a network by its name, its ID or the beginning of that.
func FindNetwork(all []Network, name string) (n Network, err error) {
	for _, is := range []func(Network) bool{
		func(n Network) bool { return n.ID == name }, // which comes before one whose name it is
		func(n Network) bool { return n.Name == name },
	} {
		if i := slices.IndexFunc(all, is); i >= 0 {
			return all[i], nil
		}
	}
	found := 0
	for _, other := range all {
		if len(name) >= 4 && strings.HasPrefix(other.ID, name) {
			n, found = other, found+1
		}
	}
	switch found {
	case 0:
		return n, fmt.Errorf("network %s not found: %w", name, store.ErrNotFound)
	case 1:
		return n, nil
	}
	return n, fmt.Errorf("network %s is ambiguous (%d matches found based on ID prefix): %w", name, found, store.ErrAmbiguous)
}

// NetworkUsers are the containers that are in networks, by the IDs of these.
func (m *Manager) NetworkUsers(ctx context.Context) (users map[string][]store.Container, err error) {
	all, err := m.Store.Containers(ctx)
	if err != nil {
		return nil, err
	}
	users = map[string][]store.Container{}
	for _, c := range all {
		config, err := ReadConfig(c)
		if err != nil {
			continue
		}
		for _, j := range config.Joined {
			users[j.ID] = append(users[j.ID], c)
		}
	}
	return users, nil
}

// RemoveNetwork removes a network, of which users are in it. One that a container has which runs is [ErrNetworkInUse]; with unused, so is one that any
// has. The caller has [Manager.LockNetworks].
func (m *Manager) RemoveNetwork(n Network, users []store.Container, unused bool) error {
	for _, c := range users {
		if unused || m.State(c.ID).Running {
			return fmt.Errorf("error while removing network: network %s id %s %w (name:%q id:%.12s)", n.Name, n.ID, ErrNetworkInUse, c.Name, c.ID)
		}
	}
	if err := os.Remove(m.networkPath(n.Name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing network %s: %w", n.Name, err)
	}
	return nil
}

// Configure changes what a container runs from its next start on: with [Manager.LockNetworks], of its networks.
func (m *Manager) Configure(ctx context.Context, c store.Container, change func(*Config) error) error {
	return m.Store.ConfigureContainer(ctx, c.ID, func(raw json.RawMessage) (json.RawMessage, error) {
		config, err := ReadConfig(store.Container{Name: c.Name, Config: raw})
		if err == nil {
			err = change(config)
		}
		if err != nil {
			return nil, err
		}
		return json.Marshal(config)
	})
}
