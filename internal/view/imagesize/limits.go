package imagesize

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/go-units"
)

// Limit is an amount that must not be exceeded: of bytes, or of percents of the image.
type Limit struct {
	Bytes   int64
	Percent float64
	Of      bool   // it is Percent
	text    string // "" is no limit
}

// ParseLimit reads "10MB" (a million bytes), "10MiB", or "5%" where percent are possible.
func ParseLimit(text string, percents bool) (l Limit, err error) {
	l.text = text
	if number, ok := strings.CutSuffix(text, "%"); ok && percents {
		l.Of = true
		if l.Percent, err = strconv.ParseFloat(number, 64); err != nil || !(l.Percent >= 0 && l.Percent <= 100) {
			return l, fmt.Errorf("invalid limit %q: percents are 0%% to 100%%", text)
		}
		return l, nil
	}
	parse := units.FromHumanSize
	if strings.Contains(strings.ToLower(text), "ib") {
		parse = units.RAMInBytes
	}
	if l.Bytes, err = parse(text); err != nil || l.Bytes < 0 {
		want := "want bytes with a unit, as in 10MB or 10MiB"
		if percents {
			want += ", or percents, as in 5%"
		}
		return l, fmt.Errorf("invalid limit %q: %s", text, want)
	}
	return l, nil
}

// Verdict says whether an image is within a limit.
type Verdict struct {
	Name     string `json:"limit"`
	Most     string `json:"most"`
	Is       int64  `json:"is"` // bytes
	Exceeded bool   `json:"exceeded"`
}

// Check compares an image with the limits that are set: on its size and on what is wasted of it.
func (r *Report) Check(size, wasted Limit) []Verdict {
	var all []Verdict
	for _, l := range []struct {
		name string
		Limit
		is int64
	}{{"max-size", size, r.Size}, {"max-wasted", wasted, r.Wasted}} {
		if l.text == "" {
			continue
		}
		exceeded := l.is > l.Bytes
		if l.Of {
			exceeded = float64(l.is) > l.Percent/100*float64(r.Size)
		}
		all = append(all, Verdict{l.name, l.text, l.is, exceeded})
	}
	return all
}
