package sandbox

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/slipway-build/slipway/internal/sandbox/initproc"
	"golang.org/x/sys/unix"
)

// watchdog is the one of this process, which all runners share.
var watchdog keeper

// keeper keeps a watchdog: one that has died, by whomever, is followed by another one, which is given all containers
// that run.
type keeper struct {
	mu      sync.Mutex
	dog     *initproc.Watchdog // nil before it is started
	program string             // that it is started from
	watched []int              // pidfds of the containers that it was given; some have ended
	// again is how often another one is started before the next container asks for one: something may kill each.
	again int
}

// self is the program that a watchdog is started from: its own.
const self = ""

// watchdogTries bounds how often a watchdog is started for one container.
const watchdogTries = 5

// watchdogPatience is how long one may take to read what it is sent, when it is behind; a variable for tests.
var watchdogPatience = 10 * time.Second

// useless reports whether an error says that a watchdog is dead, or was stopped.
func useless(err error) bool {
	return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, os.ErrDeadlineExceeded)
}

// start starts the watchdog if there is none.
func (k *keeper) start(program string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.program = program
	return k.replace()
}

// watch has a process killed when this one dies.
func (k *keeper) watch(pidfd int, program string) error {
	own, err := unix.FcntlInt(uintptr(pidfd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("having a container watched: %w", os.NewSyscallError("fcntl", err))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.program, k.again = program, watchdogTries
	for range watchdogTries {
		if err = k.replace(); err == nil {
			if err = k.dog.Watch(own, watchdogPatience); err == nil {
				k.watched = append(initproc.Living(k.watched), own)
				return nil
			}
			k.stop()
		}
		if !useless(err) {
			break
		}
	}
	return errors.Join(err, unix.Close(own))
}

// replace starts a watchdog where there is none, and gives it the containers that run; with an error there is still none.
// It is started on a thread that is in no namespace and no cgroup of a run: what a run has is to end with it.
func (k *keeper) replace() error {
	if k.dog != nil {
		return nil
	}
	var dog *initproc.Watchdog
	var err error
	started := make(chan struct{})
	go func() {
		defer close(started)
		dog, err = initproc.StartWatchdog(k.program)
	}()
	<-started
	if err != nil {
		return err
	}
	k.watched = initproc.Living(k.watched)
	for _, pidfd := range k.watched {
		if err := dog.Watch(pidfd, watchdogPatience); err != nil {
			_ = dog.Kill() // the error tells how it ended
			return err
		}
	}
	k.dog = dog
	go k.follow(dog)
	return nil
}

// follow waits for the end of a watchdog and starts another one if a container runs.
func (k *keeper) follow(dog *initproc.Watchdog) {
	dog.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dog != dog {
		return // it was stopped here
	}
	k.stop()
	for k.again > 0 && k.dog == nil && len(k.watched) > 0 {
		k.again--
		_ = k.replace() // the next container tries again, and tells
	}
}

// stop ends a watchdog that is of no use, and none of the containers that it may know.
func (k *keeper) stop() {
	_ = k.dog.Kill() // the error tells how it ended
	k.dog = nil
}

// close ends what is watched, and then the watchdog, which may have been stopped.
func (k *keeper) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, pidfd := range k.watched {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0) // it may have ended
		_ = unix.Close(pidfd)
	}
	k.watched = nil
	if k.dog != nil {
		k.stop()
	}
}

// Close ends what runs beside this process, at its end.
func Close() {
	closePlaced()
	watchdog.close()
	if passedOn.Load() {
		_ = restorePids(unifiedCgroup()) // the next slipway there tries again
	}
}
