package kube

import (
	"testing"
	"time"
)

// TestMayLook: a Job whose pod does not start is looked at soon, and then ever less often, but when it is given up.
func TestMayLook(t *testing.T) {
	began := time.Now()
	r := &running{since: began, patience: 10 * time.Minute}
	var looks []time.Duration
	for waited := lookPeriod; waited <= r.patience+lookPeriod; waited += lookPeriod {
		if r.mayLook(began.Add(waited)) {
			r.looked = began.Add(waited)
			looks = append(looks, waited)
		}
	}
	if looks[0] != lookPeriod || looks[1] != 2*lookPeriod || looks[len(looks)-1] != r.patience+lookPeriod {
		t.Errorf("looks after %v", looks)
	}
	for i := 1; i < len(looks); i++ {
		if looks[i]-looks[i-1] > lookMost {
			t.Errorf("no look between %v and %v", looks[i-1], looks[i])
		}
	}
	if len(looks) > 40 {
		t.Errorf("%d looks in %v", len(looks), r.patience)
	}
}

// TestOverBefore: a pod that was over when another one was made never takes that one's place, in whatever order they are seen.
func TestOverBefore(t *testing.T) {
	one := func(name, phase string, second int) *seen {
		p := &seen{}
		p.Metadata.Name, p.Metadata.OwnerReferences, p.Status.Phase = name, []owner{{"job"}}, phase
		p.Metadata.CreationTimestamp = time.Unix(int64(second), 0)
		return p
	}
	for _, c := range []struct {
		pod, p *seen
		next   bool
	}{
		{one("b", "Running", 2), one("a", "Failed", 1), false},
		{one("b", "Running", 2), one("a", "Failed", 2), false},
		{one("b", "Failed", 2), one("a", "Failed", 1), false},
		{one("a", "Failed", 2), one("b", "Failed", 2), true},
		{one("a", "Running", 1), one("b", "Failed", 2), true},
		{one("b", "Running", 2), one("a", "Running", 1), true},
	} {
		r := &running{uid: "job", pod: c.pod, over: map[string]bool{}}
		if err := r.see(t.Context(), c.p); err != nil || (r.next != nil) != c.next || r.over[c.p.Metadata.Name] == c.next {
			t.Errorf("%s at %s beside %s at %s: next %v, over %v, %v", c.p.Status.Phase, c.p.Metadata.CreationTimestamp, c.pod.Status.Phase, c.pod.Metadata.CreationTimestamp, r.next, r.over, err)
		}
	}
}
