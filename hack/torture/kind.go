package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// kind is one way to torture a store.
type kind struct {
	name  string
	done  string       // what is done, for the table
	what  string       // what is counted in a round: "kills"
	short int          // rounds in the tests
	long  int          // rounds of make torture
	alone bool         // it uses all cores itself
	needs func() error // why it cannot be done on this machine
	round func(ctx context.Context, r *round) error
}

// kinds are all of them, in the order of the table.
func kinds() []kind {
	return []kind{
		{name: "kill", what: "kills", short: 5, long: 1000, needs: needStrace, round: killRound,
			done: "SIGKILL at a write, rename, link, sync, lock or transaction (one of the first calls of that kind of a thread, by strace), or at a random time"},
		{name: "fail", what: "failed calls", short: 3, long: 200, needs: needStrace, round: failRound,
			done: "a write, rename, mkdir, link or sync fails: ENOSPC, EDQUOT, EIO, once or from then on"},
		{name: "read", what: "failed reads", short: 2, long: 200, needs: needStrace, round: readRound,
			done: "reads of one file of the store fail with EIO"},
		{name: "power", what: "losses", short: 3, long: 150, needs: needDisk, round: powerRound,
			done: "the power goes, during a command, in place of a sync, or right after it: ext4 (three ways) or btrfs with all gone that was not synced or, by chance, written out; and another boot"},
		{name: "full", what: "commands without space", short: 2, long: 150, round: fullRound,
			done: "a disk of 1 to 64 MB, or of few inodes, that fills; then there is space again"},
		{name: "damage", what: "damaged files", short: 4, long: 400, round: damageRound,
			done: "a file of each kind is cut, changed in a byte, emptied, removed, or a directory is in its place"},
		{name: "form", what: "damaged directories", short: 2, long: 100, round: formRound,
			done: "in the directory of a layer a file is removed, cut, changed, added, of another mode, owner, time or kind, or the whole is gone or torn: `system check` finds it, `--repair` and builds make it right"},
		{name: "upgrade", what: "upgrades", short: 1, long: 40, needs: needStrace, round: upgradeRound,
			done: "a store of format 2, whose layers share files, is upgraded on a disk that has no space for it, or is killed in it; then there is space"},
		{name: "many", what: "builds", short: 1, long: 10, alone: true, round: manyRound,
			done: "16 builders in one store, with builder prune -af, image prune -f and rmi in loops beside them"},
		{name: "clock", what: "jumps", short: 2, long: 100, round: clockRound,
			done: "all times in the store are years ahead or back: of files and of records"},
	}
}

// round is one round of a kind.
type round struct {
	*ground
	kind  kind
	seed  uint64
	rng   *rand.Rand
	dir   string // its own
	count *atomic.Int64

	mu  sync.Mutex
	log []string // what was done
}

// note adds a line to what is told of a round that fails.
func (r *round) note(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if r.verbose {
		fmt.Fprintf(os.Stderr, "[%s %d] %s\n", r.kind.name, r.seed, line)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, line)
}

// outcome is what came of all rounds of a kind.
type outcome struct {
	kind     kind
	rounds   int
	count    int64
	took     time.Duration // of all rounds, one after the other
	skipped  error
	failures []error
}

func (o outcome) line() string {
	if o.skipped != nil {
		return fmt.Sprintf("%-8s left out: %v", o.kind.name, o.skipped)
	}
	return fmt.Sprintf("%-8s %d rounds, %d %s, %d failed, %s", o.kind.name, o.rounds, o.count, o.kind.what, len(o.failures), o.took.Round(time.Second))
}

// maxFailures of a kind end its rounds.
const maxFailures = 10

// rounds runs the rounds of a kind, several at a time.
func (g *ground) rounds(ctx context.Context, k kind) outcome {
	o := outcome{kind: k}
	if k.needs != nil {
		if o.skipped = k.needs(); o.skipped != nil {
			return o
		}
	}
	n := (k.long + max(g.part, 1) - 1) / max(g.part, 1)
	if g.short {
		n = k.short
	}
	if g.settings.rounds > 0 {
		n = g.settings.rounds
	}
	workers := g.workers
	if k.alone {
		workers = 1
	}
	var mu sync.Mutex
	done := func(e entry) {
		mu.Lock()
		defer mu.Unlock()
		o.rounds++
		o.count += e.Count
		o.took += e.took()
		if err := e.failure(); err != nil {
			o.failures = append(o.failures, err)
		}
	}
	var wg sync.WaitGroup
	seeds := make(chan uint64)
	for range workers {
		wg.Go(func() {
			for seed := range seeds {
				begin := time.Now()
				var count atomic.Int64
				err := g.one(ctx, k, seed, &count)
				if ctx.Err() != nil {
					continue
				}
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
				}
				e := entry{Kind: k.name, Seed: seed, Count: count.Load(), Failed: failed(err), Seconds: time.Since(begin).Seconds()}
				if err := g.journal.add(e); err != nil {
					fmt.Fprintln(os.Stderr, "the journal:", err)
				}
				done(e)
			}
		})
	}
	for i := range n {
		mu.Lock()
		enough := len(o.failures) >= maxFailures
		mu.Unlock()
		if ctx.Err() != nil || enough {
			break
		}
		if e, ok := g.journal.round(k.name, g.seed+uint64(i)); ok {
			done(e)
			continue
		}
		seeds <- g.seed + uint64(i)
	}
	close(seeds)
	wg.Wait()
	return o
}

// one runs one round in a directory of its own.
func (g *ground) one(ctx context.Context, k kind, seed uint64, count *atomic.Int64) (err error) {
	dir := filepath.Join(g.dir, fmt.Sprintf("%s-%d", k.name, seed))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	r := &round{ground: g, kind: k, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), dir: dir, count: count}
	err = k.round(ctx, r)
	if err != nil {
		err = fmt.Errorf("%s, seed %d: %w\nwhat was done:\n  %s\nagain: go run ./hack/torture -slipway %s -run '^%s$' -seed %d -rounds 1 -v -keep",
			k.name, seed, err, strings.Join(r.log, "\n  "), g.slipway, k.name, seed)
		if g.keep {
			return err
		}
	}
	return errors.Join(err, removeAll(dir))
}

// oneOf chooses.
func oneOf[T any](r *round, from ...T) T { return from[r.rng.IntN(len(from))] }
