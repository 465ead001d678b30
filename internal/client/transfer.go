package client

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc/metadata"

	"github.com/slipway-build/slipway/internal/layer"
)

// maxComing is how many files the client is asked for before they are needed.
const maxComing = 1024

// transfer is a stream of packets of fsutil's: the client sends the attributes of all files, which are numbered by that, and then
// the contents of those that it is asked for, several at a time. It can be asked for each once.
type transfer struct {
	client *Client
	stream filesync.FileSync_DiffCopyClient
	ctx    context.Context // ends with the stream
	cancel context.CancelCauseFunc
	doing  string // in errors

	received *atomic.Int64 // bytes, besides the client's

	contents *contents
	wake     chan struct{} // has one when there is something to send
	over     chan struct{} // closed when nothing is received any more

	mu     sync.Mutex
	unsent []uint32 // numbers of files that are to be asked for: the client may read when it likes
	asked  []uint64 // a bit for each number
	coming map[uint32]*incoming
	broken map[uint32]error // why files did not come
	ending bool
	err    error // of all files that did not come so far
}

// incoming is a file that the client was asked for.
type incoming struct {
	file  *file
	at    int64 // where it is put
	began time.Time
	done  chan struct{} // closed when sum or err is there

	got    int64 // the receiver's
	hash   hash.Hash
	closed bool

	sum digest.Digest
	err error
}

// newTransfer returns one without a stream.
func (c *Client) newTransfer(doing string) *transfer {
	t := &transfer{
		client: c, doing: doing, wake: make(chan struct{}, 1), over: make(chan struct{}),
		coming: map[uint32]*incoming{}, broken: map[uint32]error{}, received: new(atomic.Int64),
	}
	t.ctx, t.cancel = context.WithCancelCause(c.ctx)
	return t
}

// open begins a transfer of the directory.
func (x *Context) open(caller session.Caller, md metadata.MD) (_ *transfer, err error) {
	c, doing := x.client, x.doing()
	t := c.newTransfer(doing)
	t.received = &x.received
	t.ctx = caller.Context(metadata.NewOutgoingContext(t.ctx, md))
	if t.stream, err = filesync.NewFileSyncClient(caller.Conn()).DiffCopy(t.ctx); err != nil {
		t.cancel(err)
		return nil, explain(c.ctx, err, "%s", doing)
	}
	return t, nil
}

// receive waits for the next packet.
func (t *transfer) receive(p *types.Packet) error {
	p.ResetVT() // the decoder does not
	switch err := t.stream.RecvMsg(p); {
	case errors.Is(err, io.EOF):
		return &failure{t.doing + ": the client has ended it", ErrGone}
	case err != nil:
		return explain(t.client.ctx, err, "%s", t.doing)
	}
	n := int64(p.SizeVT())
	t.client.received.Add(n)
	t.received.Add(n)
	if p.Type == types.PACKET_ERR {
		return fmt.Errorf("%s: error from sender: %s", t.doing, words(errors.New(string(p.Data))))
	}
	return nil
}

// list takes the attributes of all files.
func (t *transfer) list(l *listing) error {
	var p types.Packet
	for {
		if err := t.receive(&p); err != nil {
			return err
		}
		if p.Type != types.PACKET_STAT {
			return fmt.Errorf("%s: %w", t.doing, hostile("a packet of type %d among the names of files", p.Type))
		}
		if p.Stat == nil {
			t.asked = make([]uint64, (l.n+63)/64)
			return nil
		}
		if err := l.add(p.Stat); err != nil {
			return fmt.Errorf("%s: %w", t.doing, err)
		}
	}
}

// run takes contents until the transfer ends.
func (t *transfer) run(c *contents) {
	t.contents = c
	go t.sendRequests()
	go func() {
		defer close(t.over)
		t.fail(t.takeContents())
	}()
}

// sendRequests asks for files, and tells the client of the end. Who receives is told of errors.
func (t *transfer) sendRequests() {
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-t.wake:
		}
		t.mu.Lock()
		ids, ending := t.unsent, t.ending
		t.unsent = nil
		t.mu.Unlock()
		for _, id := range ids {
			if t.stream.SendMsg(&types.Packet{Type: types.PACKET_REQ, ID: id}) != nil {
				return
			}
		}
		if ending {
			if t.stream.SendMsg(&types.Packet{Type: types.PACKET_FIN}) == nil {
				_ = t.stream.CloseSend()
			}
			return
		}
	}
}

// send has something sent that is to be sent.
func (t *transfer) send() {
	select {
	case t.wake <- struct{}{}:
	default: // it will be with what comes before
	}
}

func (t *transfer) takeContents() error {
	var p types.Packet
	for {
		if err := t.receive(&p); err != nil {
			return err
		}
		switch p.Type {
		case types.PACKET_DATA:
			if err := t.data(p.ID, p.Data); err != nil {
				return fmt.Errorf("%s: %w", t.doing, err)
			}
		case types.PACKET_FIN:
			t.mu.Lock()
			ending := t.ending
			t.mu.Unlock()
			if !ending {
				return fmt.Errorf("%s: %w", t.doing, hostile("the end of the transfer, which is for the builder to say"))
			}
			_ = t.stream.RecvMsg(&p) // the stream's own end
			return errClosed
		default:
			return fmt.Errorf("%s: %w", t.doing, hostile("a packet of type %d among contents", p.Type))
		}
	}
}

// data takes a part of a content; an empty one is its end.
func (t *transfer) data(id uint32, data []byte) error {
	t.mu.Lock()
	in := t.coming[id]
	t.mu.Unlock()
	if in == nil {
		return hostile("the content of file number %d, which it was not asked for", id)
	}
	size := in.file.stamp.Size
	if len(data) > 0 {
		if in.closed {
			return nil // it failed
		}
		if int64(len(data)) > size-in.got {
			t.finish(id, in, fmt.Errorf("reading %q of the client: it has more than the %d bytes that the client said: %w", in.file.path, size, layer.ErrChanged))
			return nil
		}
		if _, err := t.contents.file.WriteAt(data, in.at+in.got); err != nil {
			return fmt.Errorf("keeping %q: %w", in.file.path, err)
		}
		in.hash.Write(data)
		in.got += int64(len(data))
		return nil
	}
	if !in.closed {
		var err error
		switch {
		case in.got == 0: // files without a content are not asked for
			err = fmt.Errorf("reading %q of the client: the client sent nothing of its %d bytes: it may not be read, or is gone: %w", in.file.path, size, layer.ErrChanged)
		case in.got < size:
			err = fmt.Errorf("reading %q of the client: the client sent %d of its %d bytes: %w", in.file.path, in.got, size, layer.ErrChanged)
		default:
			in.sum = digest.NewDigest(digest.SHA256, in.hash)
			t.contents.note(in.file.stamp, in.began, in.sum, in.at)
		}
		t.finish(id, in, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.coming, id)
	return nil
}

// finish tells who waits for a file that it is there, or why not. The client may go on to send it.
func (t *transfer) finish(id uint32, in *incoming, err error) {
	in.closed, in.err = true, err
	if err != nil {
		t.contents.giveBack(in.at, in.file.stamp.Size)
		t.mu.Lock()
		t.broken[id] = err
		t.mu.Unlock()
	}
	close(in.done)
}

// fail ends the transfer: what did not come will not.
func (t *transfer) fail(err error) {
	t.mu.Lock()
	if t.err == nil {
		t.err = err
	}
	all := t.coming
	t.coming = nil
	t.mu.Unlock()
	for id, in := range all {
		if !in.closed {
			t.finish(id, in, t.err)
		}
	}
	t.cancel(err)
}

// errCame says that a file has come before.
var errCame = errors.New("it has come")

// ask asks the client for a file, unless that was done. What comes of it is errCame when it is over.
func (t *transfer) ask(f *file) (*incoming, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.begin(f)
}

// expect asks for a file that will be needed, unless many are on their way.
func (t *transfer) expect(f *file) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.coming) < maxComing {
		_, _ = t.begin(f) // who needs it is told
	}
}

// begin asks for a file, unless that was done; t.mu is held.
func (t *transfer) begin(f *file) (*incoming, error) {
	if in := t.coming[f.id]; in != nil {
		return in, nil
	}
	if err := t.broken[f.id]; err != nil {
		return nil, err
	}
	word, bit := &t.asked[f.id/64], uint64(1)<<(f.id%64)
	switch {
	case *word&bit != 0:
		return nil, errCame
	case t.err != nil:
		return nil, t.err
	case t.ending:
		return nil, errClosed
	}
	at, err := t.contents.place(f.stamp.Size)
	if err != nil {
		return nil, fmt.Errorf("keeping %q: %w", f.path, err)
	}
	*word |= bit
	in := &incoming{file: f, at: at, began: time.Now(), done: make(chan struct{}), hash: newHash()}
	t.coming[f.id] = in
	t.unsent = append(t.unsent, f.id)
	t.send()
	return in, nil
}

// end tells the client that nothing more is asked for, and waits for it to end the transfer as long as ctx lives.
func (t *transfer) end(ctx context.Context) {
	t.mu.Lock()
	alive := t.err == nil
	t.ending = true
	t.mu.Unlock()
	if alive {
		t.send()
		select {
		case <-t.over:
		case <-ctx.Done():
		}
	}
	t.cancel(errClosed)
}
