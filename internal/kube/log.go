package kube

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// maxLine is how much is kept of a line that a pod prints, in bytes.
const maxLine = 8 << 20

// place is how far a log was read: to the last of its lines with a time, of which n have that time.
type place struct {
	at time.Time
	n  int
}

// passed reports whether a line with a time was read before; same counts those of the place's own time.
func (p *place) passed(at time.Time, same *int) bool {
	switch {
	case at.Before(p.at):
		return true
	case at.Equal(p.at):
		if *same++; *same <= p.n {
			return true
		}
		p.n++
	default:
		p.at, p.n, *same = at, 1, 1
	}
	return false
}

// readLog reads what a pod has printed from a place on, which moves with it; with follow until there will be no more. Each line is given without its end.
func (c *Cluster) readLog(ctx context.Context, pod string, follow bool, from *place, line func([]byte)) error {
	q := url.Values{"container": {Container}, "timestamps": {"true"}, "follow": {strconv.FormatBool(follow)}}
	if !from.at.IsZero() { // the server knows seconds only
		q.Set("sinceTime", from.at.UTC().Truncate(time.Second).Format(time.RFC3339))
	}
	body, err := c.open(ctx, request{method: http.MethodGet, path: c.pods(pod) + "/log", query: q})
	if err != nil {
		return err
	}
	defer body.Close()
	r, same := bufio.NewReaderSize(body, 64<<10), 0
	for {
		text, whole, err := readLine(r)
		if err == nil || whole && len(text) > 0 {
			if stamp, rest, ok := bytes.Cut(text, []byte(" ")); ok {
				if at, err := time.Parse(time.RFC3339Nano, string(stamp)); err == nil && !from.passed(at, &same) {
					line(rest)
				}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readLine reads a line, of which no more than maxLine bytes are kept. whole: what there is of one at the end is a line, and no part of one.
func readLine(r *bufio.Reader) (text []byte, whole bool, _ error) {
	for {
		part, err := r.ReadSlice('\n')
		if len(text) < maxLine {
			text = append(text, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		return bytes.TrimRight(text, "\r\n"), errors.Is(err, io.EOF), err
	}
}
