package kube

import "time"

// SetDeadNodeTime has pods of dead nodes be given up after another time; restore ends that.
func SetDeadNodeTime(d time.Duration) (restore func()) {
	old := deadNodeTime
	deadNodeTime = d
	return func() { deadNodeTime = old }
}

// SetDrainTime has logs of containers that have ended be waited for another time; restore ends that.
func SetDrainTime(d time.Duration) (restore func()) {
	old := drainTime
	drainTime = d
	return func() { drainTime = old }
}

// SharedNames are the names of a shared Job.
func (a *Admitted) SharedNames(s *Spec) []string { return a.template.sharedNames(s) }
