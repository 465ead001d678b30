package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// maxAnswer bounds an answer of the API server that is no stream, in bytes.
const maxAnswer = 32 << 20

// How long a request is tried again: the first one of all, and later ones, when the server is known to be there.
const (
	patienceFirst = 5 * time.Second
	patienceLater = 10 * time.Minute
	patienceRight = 30 * time.Second // where a right is refused that was there before
	pauseFirst    = 200 * time.Millisecond
	pauseMost     = 5 * time.Second
)

// Error is a refusal of the API server.
type Error struct {
	Code    int    `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

func (e *Error) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("the API server answers %d %s", e.Code, http.StatusText(e.Code))
	}
	return e.Message
}

func isCode(err error, code int) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// passes reports whether a request may get another answer soon.
func passes(err error) bool {
	var e *Error
	if errors.As(err, &e) {
		return e.Code == http.StatusTooManyRequests || e.Code >= 500
	}
	return err != nil
}

// patience is how long a request is tried again that fails so, where the server had been reached before or not; 0: not at all. An API server that begins anew may answer before it has read who may what.
func (c *Cluster) patience(r *request, err error, reached bool) time.Duration {
	switch {
	case !passes(err):
		if _, admitted := c.admitted.Load(r.right()); admitted && isRBAC(err) {
			return patienceRight
		}
		return 0
	case reached:
		return patienceLater
	}
	return patienceFirst
}

// request is one to the API server.
type request struct {
	method string
	path   string // below the server's own
	query  url.Values
	body   any // as JSON; nil for none
	stream bool
}

// right is what who asks has to be allowed: the method, and the kind of what it is about.
func (r *request) right() string {
	_, kind, _ := strings.Cut(r.path, "/namespaces/")
	parts := strings.Split(kind, "/") // of the namespace, the kind, a name, and what is below that
	if len(parts) > 3 {
		parts[1] += "/" + parts[3]
	}
	return r.method + " " + strings.Join(parts[1:min(2, len(parts))], "")
}

// jobs, pods and others are the paths of a kind in the namespace, with more of a path below it.
func (c *Cluster) jobs(name string) string    { return c.of("apis/batch/v1", "jobs", name) }
func (c *Cluster) pods(name string) string    { return c.of("api/v1", "pods", name) }
func (c *Cluster) secrets(name string) string { return c.of("api/v1", "secrets", name) }
func (c *Cluster) events() string             { return c.of("api/v1", "events", "") }

func (c *Cluster) of(group, kind, name string) string {
	path := group + "/namespaces/" + url.PathEscape(c.Namespace) + "/" + kind
	if name != "" {
		path += "/" + url.PathEscape(name)
	}
	return path
}

// call asks and decodes the answer into out, which may be nil. It tries again, for long where the server has answered before: lost is told of the first
// failure then, and may be nil.
func (c *Cluster) call(ctx context.Context, r request, out any, lost func(error)) error {
	began, pause, reached := time.Now(), pauseFirst, c.reached.Load()
	for {
		err := c.once(ctx, r, out)
		switch {
		case err == nil:
			c.admitted.Store(r.right(), true)
			return nil
		case ctx.Err() != nil && passes(err):
			return context.Cause(ctx)
		case time.Since(began) >= c.patience(&r, err, reached):
			return c.explain(err)
		}
		if lost != nil && c.reached.Load() {
			lost(err)
			lost = nil
		}
		if err := wait(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, pauseMost)
	}
}

// explain says what of the server could not be reached.
func (c *Cluster) explain(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return fmt.Errorf("cannot reach the API server %s: %w", c.base.Redacted(), err)
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// once asks once.
func (c *Cluster) once(ctx context.Context, r request, out any) error {
	body, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, maxAnswer+1))
	switch {
	case err != nil:
		return err
	case len(data) > maxAnswer:
		return fmt.Errorf("the API server's answer has more than %d bytes", maxAnswer)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("decoding the answer of the API server: %w", err)
	}
	return nil
}

// open asks once, and gives the body of an answer that is no refusal.
func (c *Cluster) open(ctx context.Context, r request) (io.ReadCloser, error) {
	var body io.Reader
	if r.body != nil {
		data, err := json.Marshal(r.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(data)
	}
	u := *c.base
	u.Path = strings.TrimSuffix(u.Path, "/") + "/"
	full := u.JoinPath(r.path)
	full.RawQuery = r.query.Encode()
	req, err := http.NewRequestWithContext(ctx, r.method, full.String(), body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	c.reached.Store(true)
	if resp.StatusCode < 300 {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	refusal := &Error{}
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // what can be had of it
	if json.Unmarshal(data, refusal) != nil || refusal.Message == "" {
		refusal.Message = ""
	}
	refusal.Code = resp.StatusCode
	return nil, refusal
}

// What is read of objects: no more of them is known here.
type (
	meta struct {
		Name                       string            `json:"name"`
		UID                        string            `json:"uid"`
		Annotations                map[string]string `json:"annotations"`
		OwnerReferences            []owner           `json:"ownerReferences"`
		ResourceVersion            string            `json:"resourceVersion"`
		DeletionTimestamp          *time.Time        `json:"deletionTimestamp"`
		DeletionGracePeriodSeconds int64             `json:"deletionGracePeriodSeconds"`
		CreationTimestamp          time.Time         `json:"creationTimestamp"`
	}
	owner struct {
		UID string `json:"uid"`
	}
	condition struct {
		Type    string `json:"type"`
		Status  string `json:"status"`
		Reason  string `json:"reason"`
		Message string `json:"message"`
	}
	job struct {
		Metadata meta `json:"metadata"`
		Status   struct {
			Conditions []condition `json:"conditions"`
		} `json:"status"`
	}
	pod struct {
		Metadata meta `json:"metadata"`
		Spec     struct {
			NodeName  string `json:"nodeName"`
			HostUsers *bool  `json:"hostUsers"`
		} `json:"spec"`
		Status struct {
			Phase                 string      `json:"phase"`
			StartTime             *time.Time  `json:"startTime"`
			Reason                string      `json:"reason"`
			Message               string      `json:"message"`
			Conditions            []condition `json:"conditions"`
			ContainerStatuses     []container `json:"containerStatuses"`
			InitContainerStatuses []container `json:"initContainerStatuses"`
		} `json:"status"`
	}
	container struct {
		Name  string `json:"name"`
		State struct {
			Waiting *struct {
				Reason  string `json:"reason"`
				Message string `json:"message"`
			} `json:"waiting"`
			Running    *struct{} `json:"running"`
			Terminated *struct {
				ExitCode int    `json:"exitCode"`
				Signal   int    `json:"signal"`
				Reason   string `json:"reason"`
				Message  string `json:"message"`
			} `json:"terminated"`
		} `json:"state"`
	}
	podList struct {
		Metadata meta  `json:"metadata"`
		Items    []pod `json:"items"`
	}
	event struct {
		Type           string `json:"type"`
		Reason         string `json:"reason"`
		Message        string `json:"message"`
		InvolvedObject struct {
			Kind string `json:"kind"`
			Name string `json:"name"`
			UID  string `json:"uid"`
		} `json:"involvedObject"`
		LastTimestamp *time.Time `json:"lastTimestamp"`
		EventTime     *time.Time `json:"eventTime"`
	}
	eventList struct {
		Items []event `json:"items"`
	}
)

// at is when an event was last seen.
func (e *event) at() time.Time {
	switch {
	case e.LastTimestamp != nil:
		return *e.LastTimestamp
	case e.EventTime != nil:
		return *e.EventTime
	}
	return time.Time{}
}

// holds finds a condition that holds.
func holds(all []condition, kind string) *condition {
	for i := range all {
		if all[i].Type == kind && all[i].Status == "True" {
			return &all[i]
		}
	}
	return nil
}

// isOf reports whether the pod belongs to an object.
func (p *pod) isOf(uid string) bool {
	return slices.Contains(p.Metadata.OwnerReferences, owner{uid})
}

// over reports whether nothing of the pod runs any more.
func (p *pod) over() bool { return p.Status.Phase == "Failed" || p.Status.Phase == "Succeeded" }

// main is the container of the command; nil before it is known.
func (p *pod) main() *container {
	for i := range p.Status.ContainerStatuses {
		if p.Status.ContainerStatuses[i].Name == Container {
			return &p.Status.ContainerStatuses[i]
		}
	}
	return nil
}
