package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"
)

// aboutSpace is what a message says when the disk is full.
var aboutSpace = regexp.MustCompile(`no space left|no inodes left|disk quota exceeded`)

// fullRound has a disk that is full, now or soon.
func fullRound(ctx context.Context, r *round) error {
	small := filepath.Join(r.dir, "small")
	if err := errors.Join(os.Mkdir(small, 0o755), unix.Mount("tmpfs", small, "tmpfs", 0, "size=512m,nr_inodes=100000")); err != nil {
		return err
	}
	s, err := r.stocked(filepath.Join(small, "store"))
	if err != nil {
		return err
	}
	if _, err := s.must(ctx, "image", "prune", "-f"); err != nil { // the first one to write keeps some space in reserve
		return err
	}
	if err := s.shrink(small); err != nil {
		return err
	}
	for range 2 + r.rng.IntN(4) {
		c, err := s.do(ctx, s.pick())
		if err != nil {
			return err
		}
		if !c.ok() {
			r.count.Add(1)
			if !aboutSpace.MatchString(c.err) {
				return fmt.Errorf("it does not say that there is no space: %s", c)
			}
		}
	}
	if err := s.pruneFull(ctx, small); err != nil {
		return err
	}
	r.note("there is space again")
	_ = os.Remove(filepath.Join(small, "fill"))
	if err := unix.Mount("tmpfs", small, "tmpfs", unix.MS_REMOUNT, "size=512m,nr_inodes=100000"); err != nil {
		return err
	}
	return s.check(ctx)
}

// shrink takes the space away: all but a little, or all of it, or all inodes.
func (s *store) shrink(small string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(small, &st); err != nil {
		return err
	}
	used, inodes := int64(st.Blocks-st.Bfree)*st.Bsize, st.Files-st.Ffree
	left := int64(1) << (12 + s.rng.IntN(11)) // 4 KB to 4 MB
	left += s.rng.Int64N(left)
	options := fmt.Sprintf("size=%d,nr_inodes=100000", max(used+left, 1<<20))
	switch s.rng.IntN(4) {
	case 0:
		options = fmt.Sprintf("size=512m,nr_inodes=%d", inodes+uint64(1+s.rng.IntN(300)))
	case 1:
		s.note("%d bytes that a file fills", left)
		return errors.Join(unix.Mount("tmpfs", small, "tmpfs", unix.MS_REMOUNT, options), fill(filepath.Join(small, "fill")))
	}
	s.note("tmpfs %s", options)
	return unix.Mount("tmpfs", small, "tmpfs", unix.MS_REMOUNT, options)
}

// fill writes a file until there is no space.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, zeros{}, make([]byte, 4096))
	if errors.Is(err, unix.ENOSPC) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// fewInodes are what prune itself may need.
const fewInodes = 16

// pruneFull gives space back while there is none, in every second round. Without inodes it need not work: the store
// keeps some, but what came before may have used them.
func (s *store) pruneFull(ctx context.Context, small string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(small, &st); err != nil || st.Ffree < fewInodes || s.rng.IntN(2) == 0 {
		return err
	}
	if _, err := s.must(ctx, "system", "prune", "-af"); err != nil {
		return fmt.Errorf("with no space: %w", err)
	}
	clear(s.names)
	clear(s.containers)
	return nil
}
