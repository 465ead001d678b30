package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/util/gitutil"
	"github.com/moby/buildkit/util/grpcerrors"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/slipway-build/slipway/internal/build"
	buildrecords "github.com/slipway-build/slipway/internal/history"
	"github.com/slipway-build/slipway/internal/store"
)

// lookAgain is how often who listens looks for what other processes changed.
const lookAgain = 2 * time.Second

// history is what the store knows of builds. It has nothing that the store does not have: records are read again when they
// have changed.
type history struct {
	mu      sync.Mutex
	changed chan struct{} // closed when this process changed something, and replaced
	closed  chan struct{} // when nobody may listen any more
	builds  string        // the directory of records, once it was read
	read    map[string]readRecord
	asked   *time.Timer // since somebody wanted to know what was read
}

// readMemory is how long what was read is kept in memory when nobody asks.
const readMemory = 10 * time.Minute

// readRecord is a record as it was read, with what its file was then.
type readRecord struct {
	file os.FileInfo
	k    *kept
	end  *store.BuildRecord // of a build that has ended: nothing changes any more but whether it is pinned
}

func newHistory() *history {
	h := &history{changed: make(chan struct{}), closed: make(chan struct{}), read: map[string]readRecord{}}
	h.asked = time.AfterFunc(readMemory, h.forget)
	return h
}

// forget gives the memory back that records take. They are read again when somebody asks.
func (h *history) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.read)
}

// tell wakes those that listen.
func (h *history) tell() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.changed)
	h.changed = make(chan struct{})
}

// changes returns what is closed when something changes.
func (h *history) changes() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

// Close ends the streams of those that listen to what builds there are.
func (s *Server) Close() {
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	select {
	case <-s.history.closed:
	default:
		close(s.history.closed)
	}
}

// listed is a build in a list.
type listed struct {
	*kept
	pinned bool
	older  []string // directories of builds that a client called the same
}

// record is the build's record for clients.
func (l *listed) record() *controlapi.BuildHistoryRecord {
	r := l.rec.CloneVT()
	if r.Pinned = l.pinned; l.pinned {
		r.Generation = 1
	}
	return r
}

// isCanceled reports whether a build was given up: BuildKit's records have no word for it, but the code of the error.
func isCanceled(r *controlapi.BuildHistoryRecord) bool {
	return codes.Code(r.GetError().GetCode()) == codes.Canceled
}

// chosenBy is what filters see of the build.
func (l *listed) chosenBy() *buildrecords.Record {
	r := &buildrecords.Record{Recorded: build.Recorded{Running: l.running, Record: build.Record{ID: l.rec.Ref, Started: l.rec.CreatedAt.AsTime(), Error: l.rec.GetError().GetMessage(), Canceled: isCanceled(l.rec)}}}
	if l.rec.CompletedAt != nil {
		r.Took = l.rec.CompletedAt.AsTime().Sub(r.Started)
	}
	if source, ok := l.rec.FrontendAttrs["vcs:source"]; ok {
		r.Context = source
	} else if u, err := gitutil.ParseURL(l.rec.FrontendAttrs["context"]); err == nil {
		r.Context = u.Remote
	}
	return r
}

// list returns all builds, the newest first. Of those with the same ref it has the newest. Clients are told nothing of what was imported:
// whoever wrote that could call it as a build of theirs.
func (h *history) list(st *store.Store) ([]*listed, error) {
	names, err := st.BuildNames()
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked.Reset(readMemory)
	h.builds = filepath.Join(st.Root(), "builds")
	var all []*listed
	byRef, there := map[string]*listed{}, map[string]bool{}
	for _, name := range names {
		there[name] = true
		k, pinned, err := h.one(st, name)
		if err != nil {
			return nil, err
		}
		if k == nil || k.imported {
			continue
		}
		if l := byRef[k.rec.Ref]; l != nil {
			l.older = append(l.older, k.name)
			continue
		}
		l := &listed{kept: k, pinned: pinned}
		byRef[k.rec.Ref] = l
		all = append(all, l)
	}
	for name := range h.read {
		if !there[name] {
			delete(h.read, name)
		}
	}
	return all, nil
}

// one returns what is known of a build, and whether it is pinned; nil when it is gone. The lock is held.
func (h *history) one(st *store.Store, name string) (_ *kept, pinned bool, _ error) {
	old := h.read[name]
	if old.end != nil { // one who prunes has its lock for a moment: it does not run again for that
		return old.k.ended(old.end), st.IsPinned(name), nil
	}
	b, err := st.BuildState(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("listing records of builds: %w", err)
	}
	dir := filepath.Join(h.builds, name)
	fi, err := os.Lstat(filepath.Join(dir, clientFile))
	if err != nil {
		fi, err = os.Lstat(filepath.Join(dir, "record.json"))
	}
	var k *kept
	if err == nil && old.file != nil && os.SameFile(old.file, fi) && old.file.ModTime().Equal(fi.ModTime()) && old.file.Size() == fi.Size() {
		k = old.k
	} else if err == nil {
		if k, err = readKept(dir); k != nil {
			k.imported = b.Imported
		}
	}
	if k == nil {
		if _, serr := os.Lstat(dir); serr != nil {
			return nil, false, nil
		}
		k = &kept{name: name, dir: dir, rec: &controlapi.BuildHistoryRecord{Ref: name, CreatedAt: timestamppb.New(begun(name, b.Ended))}}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			k.rec.CompletedAt, k.rec.Error = timestamppb.New(b.Ended), &spb.Status{Code: int32(codes.DataLoss), Message: err.Error()}
		}
	} else {
		now := readRecord{file: fi, k: k}
		if !b.Running && k.rec.CompletedAt != nil {
			now.end = &b
		}
		h.read[name] = now
	}
	if b.Running {
		c := *k
		c.running = true
		return &c, false, nil
	}
	return k.ended(&b), b.Pinned, nil
}

// ended is what is known of a build that does not run any more.
func (k *kept) ended(b *store.BuildRecord) *kept {
	if k.rec.CompletedAt != nil {
		return k
	}
	c := *k
	c.rec = c.rec.CloneVT()
	c.rec.CompletedAt = timestamppb.New(b.Ended)
	c.rec.Error = &spb.Status{Code: int32(codes.Aborted), Message: "it was killed before it had ended"}
	return &c
}

// begun is when a build began, which its name says.
func begun(name string, otherwise time.Time) time.Time {
	const layout = "20060102-150405.000000"
	if len(name) < len(layout) {
		return otherwise
	}
	t, err := time.Parse(layout, name[:len(layout)])
	if err != nil {
		return otherwise
	}
	return t
}

// list returns all builds that the store knows.
func (s *Server) list() ([]*listed, error) {
	b, release, err := s.opt.Acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	return s.history.list(b.Store)
}

// Named returns the record of a build by the name of its directory in the store; nil if there is none.
func (s *Server) Named(name string) (*controlapi.BuildHistoryRecord, error) {
	all, err := s.list()
	if err != nil {
		return nil, err
	}
	for _, l := range all {
		if l.name == name && !l.running {
			return l.record(), nil
		}
	}
	return nil, nil
}

// listedRef returns the build with a ref.
func (s *Server) listedRef(ref string) (*listed, error) {
	all, err := s.list()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(l *listed) bool { return l.rec.Ref == ref })
	if i < 0 {
		return nil, grpcerrors.WrapCode(fmt.Errorf("failed to retrieve ref %s: %w", ref, os.ErrNotExist), codes.NotFound)
	}
	return all[i], nil
}

// ListenBuildHistory tells of builds: those that run, those that have ended, and what happens then.
func (s *Server) ListenBuildHistory(req *controlapi.BuildHistoryRequest, stream controlapi.Control_ListenBuildHistoryServer) error {
	if err := sendTime(stream); err != nil {
		return err
	}
	keep, err := buildrecords.ParseFilter(req.Filter)
	if err != nil {
		return grpcerrors.WrapCode(err, codes.InvalidArgument)
	}
	if req.Limit < 0 {
		return invalidf("invalid limit %d", req.Limit)
	}
	changed := s.history.changes()
	all, err := s.list()
	if err != nil {
		return err
	}
	l := &listener{ref: req.Ref, send: stream.Send, told: map[string]toldState{}}
	if err := l.begin(all, req, keep); err != nil || req.EarlyExit {
		return err
	}
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		select {
		case <-stream.Context().Done():
			return context.Cause(stream.Context())
		case <-s.history.closed:
			return nil
		case <-changed:
		case <-tick.C:
			if !s.history.touched(l) {
				continue
			}
		}
		changed = s.history.changes()
		if all, err = s.list(); err != nil {
			return err
		}
		if err := l.update(all); err != nil {
			return err
		}
	}
}

// touched reports whether another process may have changed something since a listener looked last: there are other
// directories, or a build of it ran.
func (h *history) touched(l *listener) bool {
	h.mu.Lock()
	dir := h.builds
	h.mu.Unlock()
	fi, err := os.Stat(dir)
	touched := err != nil || !fi.ModTime().Equal(l.looked)
	if err == nil {
		l.looked = fi.ModTime()
	}
	for _, t := range l.told {
		touched = touched || t.running
	}
	return touched
}

// listener is told of builds.
type listener struct {
	ref  string // unless empty, of this one alone
	send func(*controlapi.BuildHistoryEvent) error

	told   map[string]toldState // by ref: what it was told last, or knows
	looked time.Time            // what the directory of records was then
}

type toldState struct {
	name            string
	running, pinned bool
}

func stateOf(l *listed) toldState { return toldState{l.name, l.running, l.pinned} }

// begin tells of what there is.
func (l *listener) begin(all []*listed, req *controlapi.BuildHistoryRequest, keep buildrecords.Filter) error {
	var ended []*listed
	for _, b := range all {
		if l.ref != "" && b.rec.Ref != l.ref {
			continue
		}
		l.told[b.rec.Ref] = stateOf(b)
		if !b.running {
			if keep == nil || keep(b.chosenBy()) {
				ended = append(ended, b)
			}
			continue
		}
		if err := l.send(&controlapi.BuildHistoryEvent{Type: controlapi.BuildHistoryEventType_STARTED, Record: b.record()}); err != nil {
			return err
		}
	}
	if req.ActiveOnly {
		return nil
	}
	if n := int(req.Limit); n > 0 && len(ended) > n {
		slices.SortStableFunc(ended, func(a, b *listed) int {
			return cmp.Or(b.rec.CreatedAt.AsTime().Compare(a.rec.CreatedAt.AsTime()))
		})
		ended = ended[:n]
	}
	for _, b := range ended {
		if err := l.send(&controlapi.BuildHistoryEvent{Type: controlapi.BuildHistoryEventType_COMPLETE, Record: b.record()}); err != nil {
			return err
		}
	}
	return nil
}

// update tells of what has changed, the oldest first.
func (l *listener) update(all []*listed) error {
	there := map[string]bool{}
	for _, b := range slices.Backward(all) {
		ref := b.rec.Ref
		if l.ref != "" && ref != l.ref {
			continue
		}
		there[ref] = true
		old, now := l.told[ref], stateOf(b)
		if old == now {
			continue
		}
		l.told[ref] = now
		if old.name != now.name { // it has begun, and may have ended already
			started := b.record()
			started.CompletedAt, started.Error = nil, nil
			if err := l.send(&controlapi.BuildHistoryEvent{Type: controlapi.BuildHistoryEventType_STARTED, Record: started}); err != nil {
				return err
			}
		}
		if !b.running {
			if err := l.send(&controlapi.BuildHistoryEvent{Type: controlapi.BuildHistoryEventType_COMPLETE, Record: b.record()}); err != nil {
				return err
			}
		}
	}
	for ref := range l.told {
		if there[ref] {
			continue
		}
		delete(l.told, ref)
		err := l.send(&controlapi.BuildHistoryEvent{Type: controlapi.BuildHistoryEventType_DELETED, Record: &controlapi.BuildHistoryRecord{Ref: ref}})
		if err != nil {
			return err
		}
	}
	return nil
}

// UpdateBuildHistory pins a record, or lets it go.
func (s *Server) UpdateBuildHistory(_ context.Context, req *controlapi.UpdateBuildHistoryRequest) (*controlapi.UpdateBuildHistoryResponse, error) {
	res := &controlapi.UpdateBuildHistoryResponse{}
	if req.Finalize && !req.Delete {
		return res, nil // a record is whole when its build has ended
	}
	b, release, err := s.opt.Acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	defer s.history.tell()
	l, err := s.listedRef(req.Ref)
	if err != nil {
		return nil, err
	}
	if l.running {
		return nil, grpcerrors.WrapCode(fmt.Errorf("build %s runs", req.Ref), codes.FailedPrecondition)
	}
	if !req.Delete {
		return res, b.Store.PinBuild(l.name, req.Pinned)
	}
	for _, name := range append(l.older, l.name) {
		if err := errors.Join(b.Store.PinBuild(name, false), b.Store.RemoveBuild(name)); err != nil {
			return nil, err
		}
	}
	return res, nil
}
