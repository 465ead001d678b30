package progress

import (
	"fmt"
	"math"
	"time"

	"github.com/tonistiigi/units"
)

// Limits are how much is shown of each of the two streams of a step. -1 is no limit.
type Limits struct {
	Size  int64 // bytes
	Speed int64 // bytes for each second since the step began
}

// DefaultLimits are BuildKit's.
var DefaultLimits = Limits{Size: 2 << 20, Speed: 200 << 10}

// tailSize is how much of the end of a stream is shown all the same when something was dropped.
const tailSize = 256 << 10

// clip limits one stream as BuildKit does: what is beyond a limit is dropped, a line says so, and the
// last of it is shown at the end.
type clip struct {
	size     int64 // of all that came
	clipping bool
	dropped  bool
	tail     []byte // since something was dropped for the first time
}

// cut returns what is shown of p, which came so long after the step's beginning.
func (c *clip) cut(limits Limits, p []byte, since time.Duration) []byte {
	most, fast := limits.Size, false
	if limits.Speed != -1 {
		n := max(1, int64(math.Ceil(since.Seconds()))) * limits.Speed
		if fast = most == -1 || n <= most; fast {
			most = n
		}
	}
	shown := p
	if most != -1 {
		shown = p[:min(max(most-c.size, 0), int64(len(p)))]
	}
	c.size += int64(len(p))
	whole := len(shown) == len(p)
	if !whole {
		c.dropped = true
	}
	if c.dropped {
		c.keep(p)
	}
	if !whole && !c.clipping {
		shown = fmt.Appendf(shown[:len(shown):len(shown)], "\n[output clipped, log limit %s reached]\n", limits.name(fast))
	}
	c.clipping = !whole
	return shown
}

// name is that of the limit that was reached.
func (l Limits) name(fast bool) string {
	if fast {
		return fmt.Sprintf("%#g/s", units.Bytes(l.Speed))
	}
	return fmt.Sprintf("%#g", units.Bytes(l.Size))
}

// keep adds to the tail. It is cut when it is twice as long as it is to be, so that most bytes are
// copied once.
func (c *clip) keep(p []byte) {
	p = p[max(0, len(p)-tailSize):]
	if len(c.tail)+len(p) > 2*tailSize {
		c.tail = append(c.tail[:0], c.tail[len(c.tail)-tailSize:]...)
	}
	c.tail = append(c.tail, p...)
}

// rest returns what is shown at the end.
func (c *clip) rest() []byte { return c.tail[max(0, len(c.tail)-tailSize):] }
