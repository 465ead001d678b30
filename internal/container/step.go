package container

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/secrets"
	"github.com/slipway-build/slipway/internal/store"
)

// A step of a build that failed is kept as a container: what the process had changed is its writable layer, and it has the mounts that the
// process had. There is one for each Dockerfile, by its name: what a newer build has left takes its place, and a newer build that goes well
// takes it away. One that runs, as somebody looks into it, loses its name, and goes when it ends.

// Step says how a container came of a step that failed.
type Step struct {
	Build string `json:"build"` // the ID of the build
	Name  string `json:"name"`  // of the step, "[2/3] RUN make"
	// Slot is the name of the one container of a Dockerfile.
	Slot   string      `json:"slot"`
	Mounts []StepMount `json:"mounts,omitempty"` // each after those that it lies in
	// SecretEnv are variables with secrets, which are not there unless they are given.
	SecretEnv    []StepSecret `json:"secretEnv,omitempty"`
	MaxProcesses int64        `json:"maxProcesses,omitempty"` // as in [sandbox.Spec]
	KeepCaps     bool         `json:"keepCaps,omitempty"`     // as in [sandbox.Spec]
}

// StepMount is a mount of a step, of what the store has.
type StepMount struct {
	Dest     string `json:"dest"` // absolute
	ReadOnly bool   `json:"readOnly,omitempty"`
	Selector string `json:"selector,omitempty"` // what is shown of the files, as in [sandbox.Mount]
	// Layers are the files of a bind mount, and what a cache mount is filled from. Copied and Changed are directories of the container, by
	// their names: of files that are no layers, and of what was changed.
	Layers  layer.Snapshot `json:"layers,omitempty"`
	Copied  string         `json:"copied,omitempty"`
	Changed string         `json:"changed,omitempty"`
	// One of these, or none for a bind mount.
	Tmpfs  *sandbox.Tmpfs `json:"tmpfs,omitempty"`
	Cache  *StepCache     `json:"cache,omitempty"`
	Secret *StepSecret    `json:"secret,omitempty"`
	SSH    *StepSecret    `json:"ssh,omitempty"`
}

// StepCache is a cache mount.
type StepCache struct {
	ID      string        `json:"id"` // in the store
	Sharing store.Sharing `json:"sharing"`
}

// StepSecret names a secret or an agent. It is not there unless it is given.
type StepSecret struct {
	ID   string `json:"id"`
	Env  string `json:"env,omitempty"`  // the variable
	Mode uint32 `json:"mode,omitempty"` // permission bits of the file or socket
	UID  int    `json:"uid,omitempty"`
	GID  int    `json:"gid,omitempty"`
}

// Secrets are the IDs of the secrets and the agents that the step uses.
func (s *Step) Secrets() (ids, agents []string) {
	for _, v := range s.SecretEnv {
		ids = append(ids, v.ID)
	}
	for _, m := range s.Mounts {
		if m.Secret != nil && !slices.Contains(ids, m.Secret.ID) {
			ids = append(ids, m.Secret.ID)
		}
		if m.SSH == nil {
			continue
		}
		if id := cmp.Or(m.SSH.ID, secrets.DefaultAgent); !slices.Contains(agents, id) {
			agents = append(agents, id)
		}
	}
	return ids, agents
}

// KeptStep is a step that is to be kept.
type KeptStep struct {
	Step
	Spec     sandbox.Spec // how it was run, without ID, Root and Mounts
	Platform ocispec.Platform
	Base     layer.Snapshot
	ReadOnly bool            // the root
	Begin    []store.Adopted // "fs", if it changed something, and what Mounts name
	Started  time.Time
	Err      error // how its process ended
}

// config is what the container runs: what the step ran.
func (k *KeptStep) config() *Config {
	s := &k.Spec
	return &Config{
		Args: s.Args, Env: s.Env, Cwd: s.Cwd, User: s.User, Hostname: s.Hostname, Network: s.Network, ExtraHosts: s.ExtraHosts, Ulimits: s.Ulimits,
		ShmSize: s.ShmSize, Privileged: s.Insecure, AppArmor: s.AppArmor, UserNS: s.UserNS, CgroupParent: s.CgroupPath, Resources: s.Resources,
		ReadOnly: k.ReadOnly, Step: &k.Step,
	}
}

// KeepStep makes a container of a step that failed, in the place of the one that is kept for the same Dockerfile.
func (m *Manager) KeepStep(ctx context.Context, k *KeptStep) (c store.Container, err error) {
	if c.ID, err = store.NewContainerID(); err != nil {
		return c, err
	}
	if c.Config, err = json.Marshal(k.config()); err != nil {
		return c, fmt.Errorf("keeping the failed step: %w", err)
	}
	c.Name, c.Snapshot, c.Created = k.Slot, k.Base, time.Now()
	for _, sm := range k.Mounts {
		c.Mounted = append(c.Mounted, sm.Layers...)
	}
	if c.ImageID, err = m.stepImage(ctx, k); err != nil {
		return c, fmt.Errorf("keeping the failed step: %w", err)
	}
	c.Image = c.ImageID.String()
	for {
		if err = m.ForgetSteps(ctx, k.Slot); err != nil {
			return c, err
		}
		if err = m.Store.AddContainer(ctx, c, k.Begin...); !errors.Is(err, store.ErrNameTaken) {
			break
		}
		// Of another build at the same time, which is asked to go again, or a container of the user's.
		if taken, terr := m.Store.Container(ctx, c.Name); terr == nil && StepOf(taken) == nil {
			c.Name = besides(k.Slot, c.ID[:8])
		}
	}
	if err == nil {
		err = m.saveState(c.ID, nil, k.state())
		if errors.Is(err, os.ErrNotExist) && m.replaced(ctx, c.ID) {
			return c, nil
		}
	}
	if err != nil {
		return c, fmt.Errorf("keeping the failed step: %w", err)
	}
	return c, m.forgetOld(ctx)
}

// replaced says whether a container is gone, as that of a build which ended a moment later took its place.
func (m *Manager) replaced(ctx context.Context, id string) bool {
	_, err := m.Store.Container(ctx, id)
	return errors.Is(err, store.ErrNotFound)
}

// besides is the name of a container that cannot have that of its slot, by some digits of its ID.
func besides(slot, digits string) string { return slot + "." + digits }

// stepImage makes the configuration of an image for a step to stand on, and gives its ID: `commit` begins with it.
func (m *Manager) stepImage(ctx context.Context, k *KeptStep) (digest.Digest, error) {
	img := ocispec.Image{Platform: k.Platform, RootFS: ocispec.RootFS{Type: "layers"}}
	data, err := json.Marshal(img)
	if err != nil {
		return "", err
	}
	desc, err := m.Store.AddBlob(ctx, bytes.NewReader(data), func(ocispec.Descriptor) error { return nil })
	return desc.Digest, err
}

// state is how the step ended.
func (k *KeptStep) state() State {
	s := State{PID: os.Getpid(), Started: k.Started, Finished: time.Now()}
	s.ended(k.Err)
	return s
}

// StepOf is the failed step that a container came of; nil: it is none, or its record is damaged.
func StepOf(c store.Container) *Step {
	config, err := ReadConfig(c)
	if err != nil {
		return nil
	}
	return config.Step
}

// Steps are the failed steps that are kept, the newest first. Those that a newer build has replaced are not among them.
func (m *Manager) Steps(ctx context.Context) (all []store.Container, err error) {
	some, err := m.Store.Containers(ctx)
	for _, c := range some {
		if config, cerr := ReadConfig(c); cerr == nil && config.Step != nil && !config.AutoRemove {
			all = append(all, c)
		}
	}
	return all, err
}

// ForgetSteps removes what is kept for a Dockerfile. One that runs is removed when it has ended, by whoever runs it.
func (m *Manager) ForgetSteps(ctx context.Context, slot string) error {
	some, err := m.Store.ContainersNamed(ctx, slot)
	for _, c := range some {
		if StepOf(c) != nil {
			err = errors.Join(err, m.forgetStep(ctx, c))
		}
	}
	return err
}

// forgetStep removes a step, or lets it go.
func (m *Manager) forgetStep(ctx context.Context, c store.Container) error {
	for range 2 { // one that ends meanwhile may not know of it
		lock, err := m.lock(ctx, c.ID)
		switch {
		case err == nil:
			return errors.Join(m.Store.RemoveContainer(ctx, c.ID), lock.Close())
		case errors.Is(err, os.ErrNotExist): // somebody was faster
			return nil
		case !errors.Is(err, ErrRunning):
			return err
		}
		if err = m.letGo(ctx, c); errors.Is(err, store.ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

// letGo has a step that runs removed when it ends, and frees its name.
func (m *Manager) letGo(ctx context.Context, c store.Container) error {
	var err error
	for _, digits := range []int{8, 16, len(c.ID)} { // somebody may have a container of such a name
		err = m.Store.ChangeContainer(ctx, c.ID, func(now *store.Container) error {
			config, err := ReadConfig(*now)
			if err != nil {
				return err
			}
			config.AutoRemove = true
			if now.Name == c.Name { // else another build let it go meanwhile
				now.Name = besides(config.Step.Slot, c.ID[:digits])
			}
			now.Config, err = json.Marshal(config)
			return err
		})
		if !errors.Is(err, store.ErrNameTaken) {
			break
		}
	}
	return err
}

// forgetOld removes the steps of builds whose records are gone, of Dockerfiles that nobody builds any more.
func (m *Manager) forgetOld(ctx context.Context) error {
	all, err := m.Steps(ctx)
	for _, c := range all {
		step := StepOf(c)
		if step.Build == "" || c.Name != step.Slot {
			continue // of a build without a record; renamed by somebody who wants to keep it
		}
		if _, serr := m.Store.BuildState(step.Build); errors.Is(serr, os.ErrNotExist) {
			err = errors.Join(err, m.forgetStep(ctx, c))
		}
	}
	return err
}

// Given are secrets and agents for a step; nil: none.
type Given struct {
	Secrets secrets.Secrets
	SSH     secrets.SSH
}

// stepRun is what a step has while it runs.
type stepRun struct {
	m      *Manager
	ctx    context.Context
	id     string // of the container
	given  Given
	hidden [][]byte // the secrets that it was given
	caches map[string]*store.Cache
}

// furnish adds to a spec what the step had. hidden are the secrets that it is given. release ends the use of it, and must be called.
func (m *Manager) furnish(ctx context.Context, id string, s *Step, given Given, spec *sandbox.Spec) (hidden [][]byte, release func(), err error) {
	r := &stepRun{m: m, ctx: ctx, id: id, given: given, caches: map[string]*store.Cache{}}
	defer func() {
		if err != nil {
			r.release()
		}
	}()
	spec.Container, spec.MaxProcesses, spec.KeepCaps = false, s.MaxProcesses, s.KeepCaps
	for _, v := range s.SecretEnv {
		value, is, err := r.secret(v.ID)
		if err != nil {
			return nil, nil, err
		}
		if is {
			spec.Env = append(spec.Env[:len(spec.Env):len(spec.Env)], v.Env+"="+string(value))
		}
	}
	var mounts []sandbox.Mount
	for _, sm := range inLockOrder(s.Mounts) {
		mount, err := r.mount(sm)
		if err != nil {
			return nil, nil, fmt.Errorf("mounting %s: %w", sm.Dest, err)
		}
		if mount != nil {
			mounts = append(mounts, *mount)
		}
	}
	slices.SortStableFunc(mounts, func(a, b sandbox.Mount) int { return strings.Count(a.Dest, "/") - strings.Count(b.Dest, "/") })
	spec.Mounts = append(spec.Mounts[:len(spec.Mounts):len(spec.Mounts)], mounts...)
	return r.hidden, r.release, nil
}

// inLockOrder puts cache mounts last, in the order of their IDs, as builds open them.
func inLockOrder(mounts []StepMount) []StepMount {
	rank := func(m StepMount) string {
		if m.Cache == nil {
			return ""
		}
		return "cache " + m.Cache.ID
	}
	sorted := slices.Clone(mounts)
	slices.SortStableFunc(sorted, func(a, b StepMount) int { return strings.Compare(rank(a), rank(b)) })
	return sorted
}

func (r *stepRun) release() {
	for _, c := range r.caches {
		c.Release()
	}
}

// secret is the value of a secret, if it is given.
func (r *stepRun) secret(id string) ([]byte, bool, error) {
	if r.given.Secrets == nil {
		return nil, false, nil
	}
	value, err := r.given.Secrets.Secret(r.ctx, id)
	switch {
	case errdefs.IsNotFound(err):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	}
	r.hidden = append(r.hidden, value)
	return value, true, nil
}

// mount is a mount of the step; nil: it is not there.
func (r *stepRun) mount(sm StepMount) (*sandbox.Mount, error) {
	mount := &sandbox.Mount{Dest: sm.Dest, ReadOnly: sm.ReadOnly}
	switch {
	case sm.Tmpfs != nil:
		mount.Tmpfs = sm.Tmpfs
	case sm.Secret != nil:
		value, is, err := r.secret(sm.Secret.ID)
		if !is {
			return nil, err
		}
		mount.File = &sandbox.File{Data: value, Mode: sm.Secret.Mode, UID: sm.Secret.UID, GID: sm.Secret.GID}
	case sm.SSH != nil:
		if r.given.SSH == nil || r.given.SSH.Check(sm.SSH.ID) != nil {
			return nil, nil
		}
		mount.Socket = &sandbox.Socket{
			Serve: func(l net.Listener) error { return r.given.SSH.Serve(r.ctx, sm.SSH.ID, l) },
			Mode:  sm.SSH.Mode, UID: sm.SSH.UID, GID: sm.SSH.GID,
		}
	case sm.Cache != nil:
		cache, err := r.cache(sm)
		if err != nil {
			return nil, err
		}
		mount.Bind, mount.Mapped = cache.Dir, true
	default:
		root, err := r.root(sm)
		if err != nil {
			return nil, err
		}
		mount.Root, mount.Selector = root, sm.Selector
	}
	return mount, nil
}

// cache opens a cache mount, once. One that was pruned begins as a new one does.
func (r *stepRun) cache(sm StepMount) (*store.Cache, error) {
	if c := r.caches[sm.Cache.ID]; c != nil {
		return c, nil
	}
	c, err := r.m.Store.Cache(r.ctx, sm.Cache.ID, sm.Cache.Sharing, func(dir string) error {
		if len(sm.Layers) == 0 {
			return nil
		}
		tree, err := r.m.Store.Tree(r.ctx, sm.Layers, store.NeedContent)
		if err != nil {
			return err
		}
		return r.m.Store.FillCache(dir, tree, sm.Selector)
	})
	if err == nil {
		r.caches[sm.Cache.ID] = c
	}
	return c, err
}

// root are the files of a bind mount.
func (r *stepRun) root(sm StepMount) (*sandbox.Root, error) {
	lower, err := r.m.Store.Dirs(r.ctx, sm.Layers)
	if err != nil {
		return nil, err
	}
	dir := r.m.Store.ContainerDir(r.id)
	if sm.Copied != "" {
		lower = append(lower, filepath.Join(dir, sm.Copied))
	}
	root := &sandbox.Root{Lower: lower}
	if sm.Changed != "" {
		root.Upper, root.Work = filepath.Join(dir, sm.Changed), filepath.Join(dir, sm.Changed+".work")
		if err := newWork(root.Work); err != nil {
			return nil, err
		}
	}
	return root, nil
}
