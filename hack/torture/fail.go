package main

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// failRound has calls that write fail.
func failRound(ctx context.Context, r *round) error {
	s, err := r.stocked(filepath.Join(r.dir, "store"))
	if err != nil {
		return err
	}
	for range 1 + r.rng.IntN(3) {
		what := fmt.Sprintf("error=%s:when=%d%s", oneOf(r, "ENOSPC", "ENOSPC", "EDQUOT", "EIO"), r.few(40), oneOf(r, "", "+"))
		calls := r.writer(true)
		r.note("%s: %s", calls, what)
		c, err := s.do(ctx, s.pick(), inject(calls, what)...)
		if err != nil {
			return err
		}
		if !c.ok() {
			r.count.Add(1)
		}
	}
	return s.check(ctx)
}

// readRound has reads of a file of the store fail.
func readRound(ctx context.Context, r *round) error {
	s := r.store(filepath.Join(r.dir, "store"))
	if err := s.stock(); err != nil {
		return err
	}
	for range 1 + r.rng.IntN(3) {
		file, err := s.someFile(func(string) bool { return true })
		if err != nil {
			return err
		}
		what := fmt.Sprintf("error=EIO:when=%d+", r.few(4))
		r.note("reads of %s: %s", strings.TrimPrefix(file, s.root+"/"), what)
		c, err := s.do(ctx, s.pick(), inject("read,pread64,readv,preadv,mmap,copy_file_range,sendfile", what, file)...)
		if err != nil {
			return err
		}
		if !c.ok() {
			r.count.Add(1)
		}
	}
	return s.check(ctx)
}

// someFile is a file of the store.
func (s *store) someFile(want func(rel string) bool) (string, error) {
	var files []string
	err := filepath.WalkDir(s.root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && want(strings.TrimPrefix(path, s.root+"/")) {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		return "", err
	}
	return oneOf(s.round, files...), nil
}
