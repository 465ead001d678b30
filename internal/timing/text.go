package timing

import (
	"time"

	"github.com/docker/go-units"
)

// Word is what became of a step, as a word in a table.
func (s State) Word() string {
	if s == Besides {
		return ""
	}
	return string(s)
}

// Size is a number of bytes, "" for none.
func Size(n int64) string {
	if n <= 0 {
		return ""
	}
	return units.HumanSize(float64(n))
}

// SizeDifference is how many bytes more or less it is; "" where it is the same, or not known.
func SizeDifference(before, after int64) string {
	switch {
	case before <= 0 || after <= 0 || before == after:
		return ""
	case after > before:
		return "+" + Size(after-before)
	}
	return "-" + Size(before-after)
}

// SecondsDifference is how much longer it took, with a sign.
func SecondsDifference(d time.Duration) string {
	if d > 0 {
		return "+" + Seconds(d)
	}
	return Seconds(d)
}

// Difference is by how much the step differs, in time and bytes; "" where one build alone has it.
func (c Change) Difference() string {
	if c.Before == nil || c.After == nil {
		return ""
	}
	text := SecondsDifference(c.After.Took - c.Before.Took)
	if size := SizeDifference(c.Before.Size, c.After.Size); size != "" {
		text += ", " + size
	}
	return text
}
