package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// places are the kinds of files of a store.
var places = []string{
	"blobs/sha256/*", "layers/*/index", "layers/*/fs", "layers/*/implied", "layers/*/over-*", "meta.db", "meta.db-wal", "index.json", "oci-layout",
	"seccomp", "init/*/slipway", "mask", "contexts/*", "caches/*", "caches/*/*", "containers/*/state.json", "containers/*/*", "reserve", "builds/*/*",
}

// ways are what is done to one.
var ways = map[string]func(r *round, path string) error{
	"removed": func(_ *round, path string) error { return os.RemoveAll(path) },
	"emptied": func(_ *round, path string) error { return os.Truncate(path, 0) },
	"cut": func(r *round, path string) error {
		return change(path, func(b []byte) []byte { return b[:r.rng.IntN(len(b))] })
	},
	"a byte": func(r *round, path string) error {
		return change(path, func(b []byte) []byte { b[r.rng.IntN(len(b))] ^= 1 << r.rng.IntN(8); return b })
	},
	"a page": func(r *round, path string) error {
		return change(path, func(b []byte) []byte { n := r.rng.IntN(len(b)); clear(b[n:min(n+4096, len(b))]); return b })
	},
	"longer": func(_ *round, path string) error {
		return change(path, func(b []byte) []byte { return append(b, "more"...) })
	},
	"directory": func(_ *round, path string) error { return errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o755)) },
	"file": func(_ *round, path string) error {
		return errors.Join(os.RemoveAll(path), os.WriteFile(path, []byte("a file"), 0o644))
	},
}

func change(path string, how func([]byte) []byte) error {
	data, err := os.ReadFile(path)
	if err != nil || len(data) == 0 {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(path, how(data), 0o644), os.Chtimes(path, info.ModTime(), info.ModTime()))
}

// damageRound damages a file; then everything is right, or is an error that says what is the matter; and after
// a prune of everything it is right.
func damageRound(ctx context.Context, r *round) error {
	s := r.store(filepath.Join(r.dir, "store"))
	if err := s.stock(); err != nil {
		return err
	}
	if _, err := s.must(ctx, "create", "--network", "none", "--name", "one", "app", "sh", "-c", look); err != nil {
		return err
	}
	s.damaged = true
	rel, err := s.damage()
	if err != nil {
		return err
	}
	r.count.Add(1)
	if err := s.useDamaged(ctx, rel); err != nil {
		return err
	}
	if strings.HasPrefix(rel, "meta.db") {
		return nil // there is nothing to go on with
	}
	clear(s.names) // what was damaged may be all that there was of one
	clear(s.containers)
	if _, err := s.do(ctx, deed{args: []string{"rm", "-f", "one"}}); err != nil {
		return err
	}
	if _, err := s.must(ctx, "system", "prune", "-af"); err != nil {
		return err
	}
	return s.check(ctx)
}

// damage damages some file, and returns which.
func (s *store) damage() (string, error) {
	for {
		place := oneOf(s.round, places...)
		found, err := filepath.Glob(filepath.Join(s.root, place))
		if err != nil {
			return "", err
		}
		if len(found) == 0 || !s.places.MatchString(place) {
			continue
		}
		path, way := oneOf(s.round, found...), oneOf(s.round, slices.Sorted(maps.Keys(ways))...)
		info, err := os.Lstat(path)
		if err != nil {
			return "", err
		}
		if info.IsDir() != (way == "file") && way != "removed" {
			continue
		}
		rel := strings.TrimPrefix(path, s.root+"/")
		s.note("%s: %s", rel, way)
		return rel, ways[way](s.round, path)
	}
}

// saysWhere is what a message about something damaged has: what it is about.
var saysWhere = regexp.MustCompile(`(?i)/store\b|sha256:[0-9a-f]{12}|layer [0-9a-f]|image\b|container\b`)

// useDamaged uses a store of which something is damaged in all ways.
func (s *store) useDamaged(ctx context.Context, rel string) error {
	commands := [][]string{
		{"images", "-a"}, {"save", "app"}, {"save", "lib"}, {"run", "--rm", "--network", "none", "app", "sh", "-c", look},
		{"start", "-a", "one"}, {"export", "one"}, {"run", "--rm", "--network", "none", "chain", "sh", "-c", look},
		{"build", "-q", s.path("contexts", "app")}, {"build", "-q", s.path("contexts", "chain")}, {"build", "-q", "--no-cache", s.path("contexts", "lib")},
		{"tag", "app", "tagged"}, {"load", "-i", s.path("app.tar")}, {"ps", "-a"}, {"history", "app"},
	}
	s.rng.Shuffle(len(commands), func(i, j int) { commands[i], commands[j] = commands[j], commands[i] })
	for _, args := range commands[:6] {
		c, err := s.do(ctx, deed{args: args})
		switch {
		case err != nil:
			return err
		case !c.ok() && !saysWhere.MatchString(c.err):
			return fmt.Errorf("it does not say what is damaged: %s", c)
		case c.ok() && args[0] == "save":
			err = checkArchive(strings.NewReader(c.out), s.truths[args[1]].id)
		case c.ok() && args[0] == "start" && c.out != s.truths["app"].tree,
			c.ok() && args[0] == "run" && c.out != s.truths[args[4]].tree:
			err = fmt.Errorf("a wrong tree: %s:\n%s", c, c.out)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
