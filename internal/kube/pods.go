package kube

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// seen is a pod as it was seen; gone: it is no more.
type seen struct {
	pod
	gone bool
}

// before reports whether a pod was over when another one of its Job was made: who joins a Job also finds pods that were lost before.
func (s *seen) before(other *seen) bool {
	order := s.Metadata.CreationTimestamp.Compare(other.Metadata.CreationTimestamp)
	return s.over() && (order < 0 || order == 0 && !other.over())
}

// watching watches the pods of a Job.
type watching struct {
	cluster *Cluster
	name    string // of the Job
	out     chan<- seen
	lost    func(error) // told once each time the server cannot be reached
	known   map[string]pod
}

// watch sends the pods, each time that one of them is another one than before, until the context ends or the server refuses.
func (w *watching) watch(ctx context.Context) error {
	for {
		version, err := w.list(ctx)
		if err != nil {
			return err
		}
		err = w.follow(ctx, version)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var refused *Error
		if errors.As(err, &refused) && !passes(err) && refused.Code != http.StatusGone && !isRBAC(err) { // of rights the list tells more
			return err
		}
		if err != nil { // a stream that has ended is begun anew at once
			if err := wait(ctx, pauseFirst); err != nil {
				return err
			}
		}
	}
}

func (w *watching) query() url.Values { return url.Values{"labelSelector": {label + "=" + w.name}} }

// list sends what there is, and gives the version from which on changes are to be watched.
func (w *watching) list(ctx context.Context) (version string, err error) {
	var all podList
	if err := w.cluster.call(ctx, request{method: http.MethodGet, path: w.cluster.pods(""), query: w.query()}, &all, w.lost); err != nil {
		return "", err
	}
	there := map[string]bool{}
	slices.SortStableFunc(all.Items, func(a, b pod) int { // the newest one first, and what is over last
		order := b.Metadata.CreationTimestamp.Compare(a.Metadata.CreationTimestamp)
		if order == 0 && a.over() != b.over() {
			order = map[bool]int{true: 1, false: -1}[a.over()]
		}
		return order
	})
	for _, p := range all.Items {
		there[p.Metadata.Name] = true
		if err := w.send(ctx, seen{pod: p}); err != nil {
			return "", err
		}
	}
	for name, p := range w.known {
		if !there[name] {
			if err := w.send(ctx, seen{p, true}); err != nil {
				return "", err
			}
		}
	}
	return all.Metadata.ResourceVersion, nil
}

func (w *watching) send(ctx context.Context, s seen) error {
	if w.known[s.Metadata.Name] = s.pod; s.gone {
		delete(w.known, s.Metadata.Name)
	}
	select {
	case w.out <- s:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// watchTime is how long the server keeps a stream of changes open, in seconds.
const watchTime = "300"

// follow sends changes until their stream ends.
func (w *watching) follow(ctx context.Context, version string) error {
	q := w.query()
	q.Set("watch", "true")
	q.Set("resourceVersion", version)
	q.Set("timeoutSeconds", watchTime)
	body, err := w.cluster.open(ctx, request{method: http.MethodGet, path: w.cluster.pods(""), query: q})
	if err != nil {
		return err
	}
	defer body.Close()
	for dec := json.NewDecoder(body); ; {
		var change struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := dec.Decode(&change); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		switch change.Type {
		case "ADDED", "MODIFIED", "DELETED":
			var p pod
			if err := json.Unmarshal(change.Object, &p); err != nil {
				return err
			}
			if err := w.send(ctx, seen{p, change.Type == "DELETED"}); err != nil {
				return err
			}
		case "ERROR":
			refused := &Error{}
			if err := json.Unmarshal(change.Object, refused); err != nil {
				return err
			}
			return refused
		}
	}
}

// warning is one about an object; text is "" for none.
type warning struct {
	text string
	at   time.Time
}

// lastWarning is the newest warning about an object; none also where events may not be read.
func (c *Cluster) lastWarning(ctx context.Context, uid string) (last warning) {
	var all eventList
	q := url.Values{"fieldSelector": {"involvedObject.uid=" + uid + ",type=Warning"}, "limit": {"100"}}
	if err := c.once(ctx, request{method: http.MethodGet, path: c.events(), query: q}, &all); err != nil {
		return last
	}
	for i := range all.Items {
		if e := &all.Items[i]; e.InvolvedObject.UID == uid && e.Type == "Warning" && !e.at().Before(last.at) && !strings.HasPrefix(e.Message, "Error: ") { // those are reasons without one
			last = warning{e.Reason + ": " + oneSentence(e.Message), e.at()}
		}
	}
	return last
}
