package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// check is what holds after everything, when the store can be used in peace again: what is named is there and
// whole, builds give what they have to, nothing runs on, and a prune of everything leaves nothing.
func (s *store) check(ctx context.Context) error {
	if err := s.nobodyLeft(ctx); err != nil {
		return err
	}
	if !s.damaged {
		if err := s.audit(ctx); err != nil {
			return err
		}
	}
	if err := s.checkNames(ctx); err != nil {
		return err
	}
	if err := s.checkKept(ctx); err != nil {
		return err
	}
	if err := s.checkBuilds(ctx); err != nil {
		return err
	}
	if err := s.nobodyLeft(ctx); err != nil {
		return err
	}
	return s.checkPruned(ctx)
}

// images are the names of all images, with their IDs.
func (s *store) images(ctx context.Context) (map[string]string, error) {
	out, err := s.must(ctx, "images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for line := range strings.Lines(out) {
		name, id, _ := strings.Cut(strings.TrimSpace(line), " ")
		all[name] = id
	}
	return all, nil
}

// short is a name as images shows it.
func shown(name string) string {
	name = strings.TrimPrefix(name, "docker.io/library/")
	if !strings.Contains(name, ":") {
		name += ":latest"
	}
	return name
}

// checkNames looks at all that was named.
func (s *store) checkNames(ctx context.Context) error {
	there, err := s.images(ctx)
	if err != nil {
		return err
	}
	whole := map[string]bool{}
	var look []string
	for _, name := range slices.Sorted(maps.Keys(s.names)) {
		id := there[shown(name)]
		if !s.names[name].has(id) {
			return fmt.Errorf("lost: %s is %q, and has to be one of %q", name, id, s.names[name])
		}
		if id == "" || whole[id] {
			continue
		}
		whole[id] = true
		if err := s.checkWhole(ctx, name, id); err != nil {
			return err
		}
		if s.treeOf(id) != "" {
			look = append(look, name)
		}
	}
	if len(look) > 0 {
		name := oneOf(s.round, look...)
		if err := s.checkTree(ctx, name, s.treeOf(there[shown(name)])); err != nil {
			return err
		}
	}
	return s.checkContainers(ctx)
}

// treeOf is what look prints in an image that a recipe gives, or "".
func (s *store) treeOf(id string) string {
	for _, t := range s.truths {
		if t.id == id {
			return t.tree
		}
	}
	return ""
}

func (s *store) checkContainers(ctx context.Context) error {
	out, err := s.must(ctx, "ps", "-a", "--format", "{{.Names}}")
	if err != nil {
		return err
	}
	for name, may := range s.containers {
		is := ""
		if slices.Contains(strings.Fields(out), name) {
			is = "there"
		}
		if !may.has(is) {
			return fmt.Errorf("lost: container %s is %q, and has to be one of %q", name, is, may)
		}
	}
	return nil
}

// checkWhole saves an image, all of whose blobs must be what their names say.
func (s *store) checkWhole(ctx context.Context, name, id string) error {
	out, err := s.must(ctx, "save", name)
	if err != nil {
		return fmt.Errorf("image %s is not whole: %w", name, err)
	}
	if err := checkArchive(strings.NewReader(out), id); err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	return nil
}

// checkTree looks into an image in a container.
func (s *store) checkTree(ctx context.Context, name, want string) error {
	tree, err := s.must(ctx, "run", "--rm", "--network", "none", name, "sh", "-c", look)
	if err == nil && tree != want {
		err = fmt.Errorf("a wrong tree of %s:\n%s\nhas to be\n%s", name, tree, want)
	}
	return err
}

// checkBuilds builds everything, and looks at one of the images.
func (s *store) checkBuilds(ctx context.Context) error {
	for _, recipe := range slices.Sorted(maps.Keys(recipes)) {
		d := named(recipe, s.truths[recipe].id, "build", "-q", "-t", recipe, s.path("contexts", recipe))
		c, err := s.do(ctx, d)
		if err == nil && !c.ok() {
			err = fmt.Errorf("it has to work: %s\n%s", c, lastLines(c.err, 12))
		}
		if err != nil {
			return err
		}
	}
	name := oneOf(s.round, slices.Sorted(maps.Keys(recipes))...)
	if err := s.checkWhole(ctx, name, s.truths[name].id); err != nil || s.truths[name].tree == "" {
		return err
	}
	return s.checkTree(ctx, name, s.truths[name].tree)
}

// manifest is what is read of one, of an index and of a configuration.
type manifest struct {
	Config    descriptor
	Layers    []descriptor
	Manifests []descriptor
	RootFS    struct {
		DiffIDs []string `json:"diff_ids"`
	}
}

type descriptor struct {
	Digest string
	Size   int64
}

// checkArchive reads what save gives: each blob has the digest that is its name, and the image is complete.
func checkArchive(r io.Reader, id string) error {
	small, sizes := map[string]manifest{}, map[string]int64{}
	var index manifest
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading what save gave: %w", err)
		}
		hash := sha256.New()
		var data bytes.Buffer
		if _, err := io.Copy(io.MultiWriter(hash, &data), tr); err != nil {
			return err
		}
		if h.Name == "index.json" {
			if err := json.Unmarshal(data.Bytes(), &index); err != nil {
				return err
			}
		}
		want, ok := strings.CutPrefix(h.Name, "blobs/sha256/")
		if !ok || h.Typeflag != tar.TypeReg {
			continue
		}
		if got := hex.EncodeToString(hash.Sum(nil)); got != want {
			return fmt.Errorf("a blob is not what its name says: %s has %s", h.Name, got)
		}
		sizes["sha256:"+want] = h.Size
		var m manifest
		if h.Size < 1<<20 && json.Unmarshal(data.Bytes(), &m) == nil {
			small["sha256:"+want] = m
		}
	}
	return complete(index, small, sizes, id)
}

// complete follows all descriptors.
func complete(index manifest, small map[string]manifest, sizes map[string]int64, id string) error {
	found := false
	for todo := []manifest{index}; len(todo) > 0; {
		m := todo[0]
		todo = todo[1:]
		for _, d := range slices.Concat(m.Manifests, m.Layers, []descriptor{m.Config}) {
			if d.Digest == "" {
				continue
			}
			if size, ok := sizes[d.Digest]; !ok || size != d.Size {
				return fmt.Errorf("blob %s of %d bytes has to be there: %d, %t", d.Digest, d.Size, size, ok)
			}
			found = found || d.Digest == id
			if next, ok := small[d.Digest]; ok && !slices.Contains(m.Layers, d) {
				todo = append(todo, next)
			}
		}
		if config, ok := small[m.Config.Digest]; ok && len(config.RootFS.DiffIDs) != len(m.Layers) {
			return fmt.Errorf("image %s has %d layers and %d diffIDs", id, len(m.Layers), len(config.RootFS.DiffIDs))
		}
	}
	if !found {
		return fmt.Errorf("what was saved is not %s", id)
	}
	return nil
}

// nobodyLeft waits until no process of the round runs any more.
func (s *store) nobodyLeft(ctx context.Context) error {
	end := time.Now().Add(s.timeout)
	for {
		left := s.processes()
		if left == "" {
			break
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return fmt.Errorf("a process stayed behind: %s", left)
		}
		time.Sleep(5 * time.Millisecond) // between two looks
	}
	points, err := mounts("self", s.root+"/")
	if err == nil && len(points) > 0 {
		err = fmt.Errorf("a mount stayed behind: %s", points)
	}
	return err
}

// processes describes a process that was started for the store, or sees a mount of it, or is "".
func (s *store) processes() string {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err.Error()
	}
	for _, e := range entries {
		if e.Name()[0] < '0' || e.Name()[0] > '9' {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		env, _ := os.ReadFile(filepath.Join(dir, "environ")) // what has ended has none
		seen, _ := os.ReadFile(filepath.Join(dir, "mountinfo"))
		if bytes.Contains(env, []byte("SLIPWAY_ROOT="+s.root+"\x00")) || bytes.Contains(seen, []byte(s.root+"/layers/")) {
			line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
			return fmt.Sprintf("%s %q", e.Name(), bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
		}
	}
	return ""
}

// stays are the files that a store without anything in it has.
var stays = []string{"oci-layout", "gc", "grown", "index.json", "meta.db", "meta.db-wal", "meta.db-shm", "reserve", "spare", "events", "events.1", "mask", "seccomp", "init", "private", "networks/.lock", "volumes/.lock"}

// checkPruned prunes everything, and looks at what is left.
func (s *store) checkPruned(ctx context.Context) error {
	for name, may := range s.containers {
		if name == s.slot { // a prune takes it
			continue
		}
		if len(may) > 1 || may.sure() != "" {
			if _, err := s.do(ctx, deed{args: []string{"rm", "-f", name}}); err != nil {
				return err
			}
		}
	}
	if _, err := s.must(ctx, "system", "prune", "-af"); err != nil {
		return err
	}
	clear(s.names)
	clear(s.containers)
	var left []string
	err := filepath.WalkDir(s.root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(s.root, path)
		top, _, _ := strings.Cut(rel, "/")
		if err != nil || rel == "." || slices.Contains(stays, top) || slices.Contains(stays, rel) || top == "builds" {
			return err
		}
		if rel == top && e.IsDir() || rel == "blobs/sha256" {
			return nil
		}
		left = append(left, rel)
		return nil
	})
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("after a prune of everything there is still: %s", strings.Join(left[:min(len(left), 10)], ", "))
	}
	if err != nil {
		return err
	}
	return s.noRecords()
}
