package cache

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/store"
)

// A claim says that somebody is at work on a step, so that others who need its result wait for it where that takes less time than doing it as well.
// It is written with how long the step took last, under a name made of what the step does, which is the same whatever it stands on.
//
// There is no lock in a registry: who writes a tag cannot know what it replaces. Two may claim the same step at the same time, and both run it; a
// claim may get lost, and its step runs twice. Nothing but time depends on claims. Who waits holds nothing that others wait for: a step is
// claimed when all that it stands on is there, right before its process starts.
//
// A claim lapses when its holder does not renew it: when nothing of it has changed for as long as it holds by the clock of who watches it, which is
// compared with no other clock; or at once when the registry's own clock, which wrote the time into it and tells the time now, says so.

const (
	stepPrefix     = "step-"
	artifactClaims = "application/vnd.slipway.claims.v1+json"
	// annotationTook and annotationClaims are where a manifest of claims has what it says.
	annotationTook   = "build.slipway.took"
	annotationClaims = "build.slipway.claims"

	// lease is how long a claim holds that is not renewed, which its holder does every renewal.
	lease   = 45 * time.Second
	renewal = lease / 3
	// expensive is how long a step takes that is worth a claim.
	expensive = 10 * time.Second
	// maxTook is the longest time that a step is believed to have taken.
	maxTook = time.Hour
	// usualWait is for how long a build waits for others' steps, all in all.
	usualWait = 10 * time.Minute
	// firstPoll and lastPoll are how long one who waits does so before the first look at what became of a step, and between later ones.
	firstPoll = time.Second
	lastPoll  = 8 * time.Second
	// maxClaims is how many claims of one step are kept, for different keys.
	maxClaims = 16
)

// claim is what a holder says.
type claim struct {
	Key     string    `json:"key"`
	Holder  string    `json:"holder"`
	Renewed int       `json:"renewed"`        // how often
	Began   time.Time `json:"began,omitzero"` // by the registry's clock; zero where it has none
	At      time.Time `json:"at,omitzero"`    // likewise, when it was last renewed
}

// claims are those of a step, and how long it took last: 0 when that is not known.
type claims struct {
	took time.Duration
	all  []claim
	now  time.Time // by the registry's clock when they were read; zero where it has none
}

// me is what claims of this process have as their holder.
var me = sync.OnceValue(rand.Text)

// dated is a [named] with a clock of its own.
type dated interface {
	// findAt is find, and tells the time; zero when that is not known.
	findAt(ctx context.Context, name string) ([]byte, time.Time, error)
}

// readClaims reads the claims of a step. What is damaged, or somebody has put there, is none.
func readClaims(ctx context.Context, at named, step string) (c claims, err error) {
	var raw []byte
	if b, ok := at.(*byKey); ok {
		at = b.named
	}
	if d, ok := at.(dated); ok {
		raw, c.now, err = d.findAt(ctx, stepPrefix+step)
	} else {
		raw, err = at.find(ctx, stepPrefix+step)
	}
	if isDamage(err) {
		return c, nil
	}
	var m ocispec.Manifest
	if err != nil || json.Unmarshal(raw, &m) != nil || m.ArtifactType != artifactClaims {
		return c, err
	}
	if d, err := time.ParseDuration(m.Annotations[annotationTook]); err == nil {
		c.took = min(max(d, 0), maxTook)
	}
	var all []claim
	if json.Unmarshal([]byte(m.Annotations[annotationClaims]), &all) != nil {
		return c, nil
	}
	for _, one := range all {
		if len(c.all) < maxClaims && keyDigest(one.Key).Validate() == nil && len(one.Holder) <= 64 {
			c.all = append(c.all, one)
		}
	}
	return c, nil
}

// of is the claim for a key, and whether there is one.
func (c *claims) of(key string) (claim, bool) {
	i := slices.IndexFunc(c.all, func(one claim) bool { return one.Key == key })
	if i < 0 {
		return claim{}, false
	}
	return c.all[i], true
}

// without drops the claim for a key.
func (c *claims) without(key string) {
	c.all = slices.DeleteFunc(c.all, func(one claim) bool { return one.Key == key })
}

// write writes the claims of a step in the place of those that are there.
func (t *Turns) write(ctx context.Context, c *claims, step string) error {
	empty := ocispec.DescriptorEmptyJSON
	t.mu.Lock()
	there := t.empty
	t.mu.Unlock()
	if !there {
		if err := t.to.put(ctx, empty, bytesOpener(empty.Data)); err != nil {
			return err
		}
		t.mu.Lock()
		t.empty = true
		t.mu.Unlock()
	}
	all, err := json.Marshal(c.all)
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactClaims,
		Config: empty, Layers: []ocispec.Descriptor{empty},
		Annotations: map[string]string{ocispec.AnnotationCreated: time.Now().UTC().Format(time.RFC3339), annotationTook: c.took.String(), annotationClaims: string(all)},
	})
	if err != nil {
		return err
	}
	return t.to.enter(ctx, stepPrefix+step, describe(ocispec.MediaTypeImageManifest, manifest), manifest)
}

// watch is what somebody who waits has seen of a claim.
type watch struct {
	seen  claim
	since time.Time // by the own clock
}

// lapsed reports whether the holder of a claim has not renewed it in time. now is of the own clock, theirs of the registry's, or zero.
func (w *watch) lapsed(c claim, now, theirs time.Time) bool {
	if w.since.IsZero() || w.seen != c {
		w.seen, w.since = c, now
	}
	if age := theirs.Sub(c.At); !c.At.IsZero() && !theirs.IsZero() && age > lease+renewal { // it is told in seconds, and may be of several machines
		return true
	}
	return now.Sub(w.since) >= lease
}

// Step is one that may be claimed.
type Step struct {
	Key  string // of its result, hexadecimal
	Does string // which command it is, whatever it stands on, hexadecimal; it is the name of its claims
}

// Turns are claims in a cache of mode=keys.
type Turns struct {
	i        *Import
	from, to named // to is nil where nothing is written
	me       string
	patience patience

	mu    sync.Mutex
	over  bool // there was an error
	empty bool // the blob that manifests of claims name is there
}

// Turns are those in the cache of an import, which are written where one of to is the same cache. It is nil where there are none. An import must not
// be asked before it is loaded.
func (i *Import) Turns(s *store.Store, client *registry.Client, to []*To) (*Turns, error) {
	from, is := i.from.(*byKey)
	if !is || i.wait == 0 {
		return nil, nil
	}
	t := &Turns{i: i, from: from, me: me(), patience: patience{left: i.wait}}
	for _, one := range to {
		if one.Type+" "+one.location.where() != i.where {
			continue
		}
		at, err := one.location.open(s, client)
		if err != nil {
			return nil, err
		}
		if keys, ok := at.(*byKey); ok {
			t.to = keys
		}
	}
	return t, nil
}

// Turn is a step whose turn it is.
type Turn struct {
	// There says that another machine has made the result meanwhile, which the import knows now.
	There bool

	t      *Turns
	step   Step
	claims claims
	stop   context.CancelFunc
	work   sync.WaitGroup
	held   bool // there is a claim of ours; of work, until it has ended
}

// Take waits while another machine is at work on a step and that is cheaper than to do it as well, and claims it then, if it is worth that. told is
// called when it begins to wait, with for how long it does so at most, and gives what is called after that. End must be called.
func (t *Turns) Take(ctx context.Context, step Step, told func(most time.Duration) func()) *Turn {
	turn := &Turn{t: t, step: step}
	if t.isOver() || t.i.get(ctx) == nil {
		return turn
	}
	for range maxClaims { // somebody else may be first each time
		if !t.await(ctx, turn, told) || turn.There || t.to == nil || turn.claims.took < expensive {
			break
		}
		turn.claims.without(step.Key)
		turn.hold()
		if t.try(t.write(ctx, &turn.claims, step.Does)) {
			break
		}
		turn.held = true
		if t.read(ctx, turn, &t.i.patience) {
			break
		}
		if c, ok := turn.claims.of(step.Key); ok && c.Holder == t.me {
			break
		}
		turn.held = false // another one's is there by now
	}
	if t.to != nil && !turn.There {
		var life context.Context
		life, turn.stop = context.WithCancel(t.i.life)
		turn.work.Go(func() { turn.keep(life) })
	}
	return turn
}

// read reads the claims of a step, and has p wait for that. It reports whether there will be none any more.
func (t *Turns) read(ctx context.Context, turn *Turn, p *patience) (over bool) {
	late := p.wait(ctx, oneAnswer, func(ctx context.Context) {
		var err error
		turn.claims, err = readClaims(ctx, t.from, turn.step.Does)
		over = ctx.Err() == nil && t.try(err)
	})
	if late && ctx.Err() == nil {
		t.try(errSlow)
	}
	return over || late
}

// try ends the use of claims when there was an error, and reports that.
func (t *Turns) try(err error) bool {
	if err == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	return true
}

func (t *Turns) isOver() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.over
}

// await waits as long as it is another one's turn. It reports whether the step may be claimed.
func (t *Turns) await(ctx context.Context, turn *Turn, told func(time.Duration) func()) bool {
	if t.read(ctx, turn, &t.i.patience) || ctx.Err() != nil {
		return false
	}
	var w watch
	if !t.othersTurn(turn, &w) {
		return true
	}
	most := min(2*turn.claims.took+lease, t.patience.remaining())
	if most <= 0 {
		return true
	}
	defer told(most)()
	ok, polls := true, patience{left: maxTook} // which are a part of the wait
	t.patience.wait(ctx, most, func(ctx context.Context) {
		for pause := firstPoll; ; pause = min(2*pause, lastPoll) {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return
			}
			if turn.There = t.found(ctx, turn.step.Key); turn.There {
				return
			}
			over := t.read(ctx, turn, &polls)
			if ctx.Err() != nil {
				return
			}
			if ok = !over; over || !t.othersTurn(turn, &w) {
				return
			}
		}
	})
	return ok && ctx.Err() == nil
}

// othersTurn reports whether another process is at work on the step, and whether that is worth waiting for.
func (t *Turns) othersTurn(turn *Turn, w *watch) bool {
	c, ok := turn.claims.of(turn.step.Key)
	return ok && c.Holder != t.me && turn.claims.took >= expensive && !w.lapsed(c, time.Now(), turn.claims.now)
}

// found looks for the result of a key once more, and tells the import.
func (t *Turns) found(ctx context.Context, key string) bool {
	ctx, cancel := context.WithTimeout(ctx, oneAnswer)
	defer cancel()
	e, err := lookSafely(ctx, t.from.(*byKey), key)
	if err != nil || e.results[key] == nil {
		return false
	}
	t.i.learn(key, e)
	return true
}

// hold puts a claim of this process among those that were read, in the place of those that are long over.
func (turn *Turn) hold() {
	c := &turn.claims
	mine := claim{Key: turn.step.Key, Holder: turn.t.me, Began: c.now, At: c.now}
	if old, ok := c.of(mine.Key); ok && old.Holder == mine.Holder {
		mine.Began, mine.Renewed = old.Began, old.Renewed+1
	}
	c.without(mine.Key)
	c.all = slices.DeleteFunc(c.all, func(one claim) bool { return !c.now.IsZero() && c.now.Sub(one.At) > 4*lease })
	c.all = append(c.all[max(0, len(c.all)-maxClaims+1):], mine)
}

// keep claims a step that takes long, and renews the claim, until ctx ends.
func (turn *Turn) keep(ctx context.Context) {
	next, began := renewal, time.Now()
	if !turn.held {
		next = expensive
	}
	for {
		select {
		case <-time.After(next):
		case <-ctx.Done():
			return
		}
		next = renewal
		if turn.t.isOver() {
			return
		}
		c, err := readClaims(ctx, turn.t.to, turn.step.Does)
		if err != nil {
			continue // another time
		}
		if other, ok := c.of(turn.step.Key); ok && other.Holder != turn.t.me {
			continue // both are at it: one claim is enough
		}
		turn.claims = c
		turn.claims.took = max(c.took, time.Since(began)) // at least
		turn.hold()
		turn.held = turn.t.write(ctx, &turn.claims, turn.step.Does) == nil || turn.held
	}
}

// End ends the turn: with how long the step took, when its result is there for others, or 0. turn may be nil.
func (turn *Turn) End(ctx context.Context, took time.Duration) {
	if turn == nil || turn.stop == nil {
		return
	}
	turn.stop()
	turn.work.Wait()
	if !turn.held && took < expensive || turn.t.isOver() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, oneAnswer)
	defer cancel()
	c, err := readClaims(ctx, turn.t.to, turn.step.Does)
	if err != nil {
		return
	}
	if mine, ok := c.of(turn.step.Key); ok && mine.Holder == turn.t.me {
		c.without(turn.step.Key)
	}
	if took > 0 {
		c.took = min(took, maxTook)
	}
	turn.t.try(turn.t.write(ctx, &c, turn.step.Does))
}

// parseWait reads the attribute wait=.
func parseWait(attrs map[string]string) (time.Duration, error) {
	v, ok := attrs["wait"]
	if !ok {
		return usualWait, nil
	}
	if v == "0" {
		return 0, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("wait=%s: %w", v, errors.Join(err, errdefs.ErrInvalidArgument))
	}
	return d, nil
}

// StepName is what claims of a step are called by what it does.
func StepName(does []byte) string { return digest.FromBytes(does).Encoded() }
