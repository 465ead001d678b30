package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/codes"
)

const (
	// jobWait is how long Status waits for a build that nobody has asked for yet, as BuildKit's does: clients send both at once.
	jobWait = 6 * time.Second
	// jobMemory is how long a build that has ended, and has no record, is told of.
	jobMemory = 10 * time.Second
	// maxOver is how many of those there are at most.
	maxOver = 64
)

// job is a build that somebody asked for.
type job struct {
	ref    string
	log    *eventLog
	cancel context.CancelCauseFunc
}

// jobs are those that run, by their refs, and some that are over.
type jobs struct {
	most int

	mu       sync.Mutex
	running  map[string]*job
	over     []*job        // without a record, the latest last
	changed  chan struct{} // closed when a job begins or ends, and replaced
	draining bool
}

func newJobs(most int) *jobs {
	return &jobs{most: most, running: map[string]*job{}, changed: make(chan struct{})}
}

// errDraining says that the server ends.
var errDraining = grpcerrors.WrapCode(errors.New("the server ends, and takes no more builds"), codes.Unavailable)

// add registers a job.
func (js *jobs) add(j *job) error {
	js.mu.Lock()
	defer js.mu.Unlock()
	switch {
	case js.draining:
		return errDraining
	case js.running[j.ref] != nil:
		return fmt.Errorf("job ID %s exists", j.ref)
	case len(js.running) >= js.most:
		return grpcerrors.WrapCode(fmt.Errorf("%d builds run, which is as many as may: try again when some have ended", js.most), codes.ResourceExhausted)
	}
	js.running[j.ref] = j
	js.tell()
	return nil
}

// remove ends a job. Without a record its log stays for those that come late.
func (js *jobs) remove(j *job, recorded bool) {
	js.mu.Lock()
	defer js.mu.Unlock()
	delete(js.running, j.ref)
	js.tell()
	if recorded {
		return
	}
	if js.over = append(js.over, j); len(js.over) > maxOver {
		js.over[0].log.forget()
		js.over = js.over[1:]
	}
	time.AfterFunc(jobMemory, func() { js.forget(j) })
}

// forget ends the memory of a job that is over.
func (js *jobs) forget(j *job) {
	js.mu.Lock()
	defer js.mu.Unlock()
	for i, o := range js.over {
		if o == j {
			js.over = append(js.over[:i:i], js.over[i+1:]...)
			j.log.forget()
			return
		}
	}
}

// tell wakes who waits. The lock is held.
func (js *jobs) tell() {
	close(js.changed)
	js.changed = make(chan struct{})
}

// find returns the job with a ref, which runs or is just over, and what is closed when there are others.
func (js *jobs) find(ref string) (*job, <-chan struct{}) {
	js.mu.Lock()
	defer js.mu.Unlock()
	if j := js.running[ref]; j != nil {
		return j, js.changed
	}
	for i := range js.over {
		if j := js.over[len(js.over)-1-i]; j.ref == ref {
			return j, js.changed
		}
	}
	return nil, js.changed
}

func (js *jobs) drain() {
	js.mu.Lock()
	defer js.mu.Unlock()
	js.draining = true
}

func (js *jobs) cancel(cause error) {
	js.mu.Lock()
	defer js.mu.Unlock()
	js.draining = true
	for _, j := range js.running {
		j.cancel(cause)
	}
}

// run tells how many jobs run, and what is closed when there are others.
func (js *jobs) run() (n int, changed <-chan struct{}) {
	js.mu.Lock()
	defer js.mu.Unlock()
	return len(js.running), js.changed
}

// waitIdle waits until no job runs.
func (js *jobs) waitIdle(ctx context.Context) error {
	for {
		n, changed := js.run()
		if n == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
