package timing

import (
	"fmt"
	"time"

	"github.com/slipway-build/slipway/internal/terminal"
)

// maxLineName is how much of a step's name the line has, in letters.
const maxLineName = 48

// Line says in one line where the time went: "12.3 s, of which 9.1 s RUN go build; 8 of 11 steps from the cache". The longest step is
// named when it took a tenth of the time, and of a second.
func (t *Timing) Line() string {
	line := Seconds(t.Took)
	if s := t.Longest(); s != nil && s.Took >= time.Second/10 && s.Took >= t.Took/10 {
		line += fmt.Sprintf(", of which %s %s", Seconds(s.Took), terminal.Short(s.Short(), maxLineName))
	}
	switch {
	case t.Total == 0:
	case t.Cached == t.Total && t.Total > 1:
		line += fmt.Sprintf("; all %d steps from the cache", t.Total)
	default:
		line += fmt.Sprintf("; %d of %d steps from the cache", t.Cached, t.Total)
	}
	return line
}

// Seconds is a duration as people read it: "0.03 s", "12.3 s", "2 min 5 s".
func Seconds(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + Seconds(max(-d, 0)) // the least one has no opposite
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d.Round(100*time.Millisecond) < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	d = d.Round(time.Second)
	if d < time.Hour {
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
}
