package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// failRound has calls that write fail.
func failRound(ctx context.Context, r *round) error {
	s, err := r.stocked(filepath.Join(r.dir, "store"))
	if err != nil {
		return err
	}
	for tries, failed := 0, 0; tries < 8 && failed < 2; tries++ { // a call that is not made does not fail
		what := fmt.Sprintf("error=%s:when=%d%s", oneOf(r, "ENOSPC", "ENOSPC", "EDQUOT", "EIO"), r.few(40), oneOf(r, "", "+"))
		calls := r.writer(true)
		r.note("%s: %s", calls, what)
		if _, err := s.do(ctx, s.pick(), r.inject(calls, what)...); err != nil {
			return err
		}
		if n := r.injected(); n > 0 {
			r.count.Add(n)
			failed++
		}
	}
	return s.check(ctx)
}

// readers are the calls that read files.
const readers = "read,pread64,readv,preadv,copy_file_range,sendfile"

// readRound has reads of a file of the store fail. What was done before that stays, and everything works when the
// disk can be read again.
func readRound(ctx context.Context, r *round) error {
	s := r.store(filepath.Join(r.dir, "store"))
	if err := s.stock(); err != nil {
		return err
	}
	for tries, failed := 0, 0; tries < 6 && failed < 2; tries++ {
		file, err := s.someFile()
		if err != nil {
			return err
		}
		what := fmt.Sprintf("error=EIO:when=%d+", r.few(4))
		r.note("reads of %s: %s", strings.TrimPrefix(file, s.root+"/"), what)
		around := r.inject(readers, what, file)
		for range 3 {
			if _, err := s.do(ctx, s.reading(), around...); err != nil {
				return err
			}
			if n := r.injected(); n > 0 {
				r.count.Add(n)
				failed++
			}
		}
	}
	return s.check(ctx)
}

// reading is something that reads much, or whatever can be done.
func (s *store) reading() deed {
	if image := s.someImage(); image != "" && s.rng.IntN(3) > 0 {
		return deed{args: []string{"save", "-o", filepath.Join(s.dir, "saved"), image}}
	}
	if s.rng.IntN(2) == 0 {
		return s.build()
	}
	return s.pick()
}

// someFile is a file of the store, of the kinds that are read: as often of each.
func (s *store) someFile() (string, error) {
	for {
		place := oneOf(s.round, "blobs/sha256/*", "blobs/sha256/*", "layers/*/index", "layers/*/fs/app/*", "meta.db", "index.json", "seccomp", "mask", "contexts/*")
		files, err := filepath.Glob(filepath.Join(s.root, place))
		if err != nil {
			return "", err
		}
		if len(files) > 0 {
			return oneOf(s.round, files...), nil
		}
	}
}
