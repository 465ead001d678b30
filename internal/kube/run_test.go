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
