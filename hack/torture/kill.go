package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// killRound kills slipway at up to three commands.
func killRound(ctx context.Context, r *round) error {
	s, err := r.stocked(filepath.Join(r.dir, "store"))
	if err != nil {
		return err
	}
	kills := 1 + r.rng.IntN(3)
	for range 3 * kills { // a call that is not made kills nobody
		d := s.pick(s.keepStep)
		if s.rng.IntN(5) == 0 { // what is killed next keeps another one, or prunes it
			if _, err := s.do(ctx, s.keepStep()); err != nil {
				return err
			}
		}
		c, err := s.killOne(ctx, d)
		if err != nil {
			return err
		}
		if c.killed {
			r.count.Add(1)
			kills--
		}
		if kills == 0 {
			break
		}
	}
	return s.check(ctx)
}

// killOne does something and kills it.
func (s *store) killOne(ctx context.Context, d deed) (result, error) {
	if s.rng.IntN(4) == 0 {
		return s.killAfter(ctx, d, time.Duration(s.rng.Int64N(int64(200*time.Millisecond))))
	}
	calls, n := s.writer(false), s.few(10)
	s.note("SIGKILL at the %d. of %s", n, calls)
	return s.do(ctx, d, s.killAt(calls, n)...)
}

// killAt are the words before a command that has SIGKILL, in place of the nth of such calls of a thread; of those about
// files, if there are any.
func (r *round) killAt(calls string, n int, files ...string) []string {
	return r.inject(calls, fmt.Sprintf("signal=SIGKILL:when=%d", n), files...)
}

// killAfter kills the command after a time.
func (s *store) killAfter(ctx context.Context, d deed, after time.Duration) (result, error) {
	s.note("SIGKILL after %s", after)
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	c := s.finish(ctx, s.program(ctx, nil, d.args...), d.args, func(pid int) {
		timer := time.NewTimer(after) // the moment is what is chosen, nothing is waited for
		defer timer.Stop()
		<-timer.C
		_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
	})
	return c, s.account(d, c)
}
