package sandbox

import (
	"sync"

	"github.com/slipway-build/slipway/internal/sandbox/initproc"
)

// watchdog is the one of this process, which all runners share.
var watchdog struct {
	sync.Mutex
	*initproc.Watchdog       // nil before it is started
	err                error // of starting it
}

// startWatchdog starts the watchdog if there is none, and leaves it locked. It is started on a thread that is in
// no namespace and no cgroup of a run: what a run has is to end with it.
func startWatchdog(program string) {
	watchdog.Lock()
	if watchdog.Watchdog != nil {
		return
	}
	started := make(chan struct{})
	go func() {
		defer close(started)
		watchdog.Watchdog, watchdog.err = initproc.StartWatchdog(program)
	}()
	<-started
}

// watched has a process killed when this one dies.
func watched(pidfd int, program string) error {
	startWatchdog(program)
	defer watchdog.Unlock()
	if watchdog.err != nil {
		return watchdog.err
	}
	return watchdog.Watch(pidfd)
}

// Close ends what runs beside this process, at its end.
func Close() {
	watchdog.Lock()
	defer watchdog.Unlock()
	if watchdog.Watchdog != nil {
		_ = watchdog.Watchdog.Close() // nothing runs any more
		watchdog.Watchdog = nil
	}
}
