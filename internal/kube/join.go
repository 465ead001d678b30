package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"
)

// A Job that is shared (Spec.Shared) has a name that says what it is: who wants the same one finds it there, and joins it in place of making another. Its name is
// no proof: what is there is compared with what the server would make.

// clientNote is an annotation of a Job: who has made it.
const clientNote = "slipway.build/client"

// maxNames is how many names of a shared Job are tried before one that nobody else has.
const maxNames = 3

// mountPatience is how long a pod may wait for its Secret: who has made the Job may have gone before it made that.
const mountPatience = 20 * time.Second

// notJoined is why a Job is not joined, or not any longer.
type notJoined struct {
	why  string
	then next
}

// next is which Job takes the place of one that is not joined.
type next int

const (
	otherName next = iota // another one that is shared: this one has the name, and is of no use to anybody who comes
	sameName              // one that is shared, by its name: it is no more
	alone                 // one's own, that nobody joins: this one may be another thing, or may fail for what one's own does not have
)

func (e *notJoined) Error() string { return e.why }

// sharedNames are the names that a Job has wherever it is made. Where one is another's Job that cannot be joined, the next one is tried.
func (t *template) sharedNames(s *Spec) (names []string) {
	if !s.Shared {
		return nil
	}
	sum := t.identity(slices.Sorted(maps.Keys(s.Files)))
	for i := range maxNames {
		name := "slipway-" + sum
		if i > 0 {
			name += fmt.Sprintf("-%d", i+1)
		}
		names = append(names, name)
	}
	return names
}

// identity is a digest of all that decides what the Job does, but for the contents of files: it is in the Job's name, which everybody may see.
func (t *template) identity(files []string) string {
	job := copied(t.job)
	metadata := Child(job, "metadata")
	for _, key := range []string{"name", "generateName", "namespace"} {
		delete(metadata, key)
	}
	text, err := json.Marshal(job)
	if err != nil { // it came from JSON
		panic(err)
	}
	h := sha256.New()
	fmt.Fprintf(h, "slipway job 1\n%s\nfiles %q\n", text, files)
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// Identity is the same for all who have a Job of the same template, image, environment and rights, and names of files.
func (a *Admitted) Identity(s *Spec) string {
	return a.template.identity(slices.Sorted(maps.Keys(s.Files)))
}

// there reads the Job that has the name, as what is known of Jobs and as a whole.
func (r *running) there(ctx context.Context) (j job, whole dict, err error) {
	var raw json.RawMessage
	if err := r.cluster.call(ctx, request{method: http.MethodGet, path: r.cluster.jobs(r.name)}, &raw, r.lostServer); err != nil {
		return j, nil, err
	}
	if err := errors.Join(json.Unmarshal(raw, &j), json.Unmarshal(raw, &whole)); err != nil {
		return j, nil, fmt.Errorf("decoding the answer of the API server: %w", err)
	}
	return j, whole, nil
}

// join has what is carried out be another client's Job, where that is the same one and may end well.
func (r *running) join(ctx context.Context, t *template, j *job, whole dict) error {
	r.joined = true
	switch {
	case j.Metadata.DeletionTimestamp != nil:
		return &notJoined{why: "it is being deleted"}
	case holds(j.Status.Conditions, "Failed") != nil || holds(j.Status.Conditions, "FailureTarget") != nil:
		return &notJoined{why: "it has failed"}
	case holds(j.Status.Conditions, "Complete") != nil || holds(j.Status.Conditions, "SuccessCriteriaMet") != nil: // it may have read tags that are others by now
		return &notJoined{why: "it has ended"}
	}
	if err := r.cluster.compare(ctx, t, r.name, whole); err != nil {
		return err
	}
	r.uid = j.Metadata.UID
	since := ""
	if made := j.Metadata.CreationTimestamp; !made.IsZero() {
		since = ", which is there since " + made.UTC().Format(time.DateTime) + " UTC"
	}
	r.view.Tell("joining Job " + r.name + " in " + r.cluster.String() + since + "; if it hangs: kubectl delete job " + r.name + " -n " + r.cluster.Namespace)
	return nil
}

// compare asks the server what Job it would make, and compares that with one that is there.
func (c *Cluster) compare(ctx context.Context, t *template, name string, there dict) error {
	trial, would := t.clone(), dict{}
	trialName := newName()
	trial.rename(trialName)
	err := c.call(ctx, request{
		method: http.MethodPost, path: c.jobs(""), query: url.Values{"dryRun": {"All"}, "fieldValidation": {"Strict"}}, body: trial.job,
	}, &would, nil)
	var refused *Error
	if errors.As(err, &refused) { // of a webhook that knows no trial runs, say
		return &notJoined{why: "it cannot be compared: " + oneSentence(err.Error()), then: alone}
	}
	if err != nil {
		return err
	}
	if what := differs(compared(there, name), compared(would, trialName), "spec"); what != "" {
		return &notJoined{why: "it is another one, by its " + what, then: alone}
	}
	return nil
}

// compared is the spec of a Job without what is each one's own: its name, what the server makes of its UID, and the name of its Secret.
func compared(job dict, name string) dict {
	spec := Child(copied(job), "spec")
	delete(spec, "selector") // the server's, as manualSelector is compared
	metadata := Child(spec, "template", "metadata")
	delete(metadata, "creationTimestamp")
	labels := Child(metadata, "labels")
	for _, key := range []string{"controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name"} {
		delete(labels, key)
	}
	if labels[label] == name {
		delete(labels, label)
	}
	volumes, _ := Child(spec, "template", "spec")["volumes"].([]any)
	for _, v := range volumes {
		if v, ok := v.(dict); ok && v["name"] == filesVolume {
			if secret, ok := v["secret"].(dict); ok {
				delete(secret, "secretName")
			}
		}
	}
	return spec
}

// differs gives the path of the first value that two objects do not have both; "" for none.
func differs(a, b any, path string) string {
	switch a1 := a.(type) {
	case dict:
		b1, ok := b.(dict)
		if !ok {
			return path
		}
		all := maps.Clone(a1)
		maps.Copy(all, b1)
		for _, key := range slices.Sorted(maps.Keys(all)) {
			if what := differs(a1[key], b1[key], path+"."+key); what != "" {
				return what
			}
		}
		return ""
	case []any:
		b1, ok := b.([]any)
		if !ok || len(a1) != len(b1) {
			return path
		}
		for i := range a1 {
			if what := differs(a1[i], b1[i], fmt.Sprintf("%s[%d]", path, i)); what != "" {
				return what
			}
		}
		return ""
	}
	if !reflect.DeepEqual(a, b) {
		return path
	}
	return ""
}

// bad is the error of a Job that cannot go on: one that was joined is left, as what keeps it from that may have been mended since it was made.
func (r *running) bad(err error) error {
	if r.joined {
		return &notJoined{why: err.Error(), then: alone}
	}
	return err
}

// stillThere finds out whether a Job that was joined is: who has made it deletes it when he has no more use for it.
func (r *running) stillThere(ctx context.Context) error {
	if !r.joined {
		return nil
	}
	var j job
	err := r.cluster.call(ctx, request{method: http.MethodGet, path: r.cluster.jobs(r.name)}, &j, r.lostServer)
	switch {
	case isCode(err, http.StatusNotFound), err == nil && j.Metadata.UID != r.uid:
		return &notJoined{why: "it was deleted", then: sameName}
	case err == nil && j.Metadata.DeletionTimestamp != nil:
		return &notJoined{why: "it is being deleted"}
	}
	return err
}

// stuck reports whether the pod of a Job that was joined waits for something that only who has made it could bring about. That is counted from when a kubelet took
// the pod, however late who joins has come, and of what was told by when it was: a volume that was late once is no reason.
func (r *running) stuck(w warning) bool {
	if !r.joined || r.pod == nil || r.pod.Status.StartTime == nil {
		return false
	}
	began := *r.pod.Status.StartTime
	return strings.HasPrefix(w.text, "FailedMount") && w.at.Sub(began) > mountPatience || time.Since(began) > r.patience
}

// failed decides what the failure of a command is. Of a Job that was joined it is not one's own: it may be for credentials of another client, which are no part of what
// was compared, or for something that was otherwise when that one ran.
func (r *running) failed(code int) error {
	if r.joined {
		return &notJoined{why: fmt.Sprintf("it failed with exit code %d", code), then: alone}
	}
	return nil
}
