package network

import (
	"math/bits"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// sendQueue is what the stack has for a process that has not acknowledged it. The stack counts bytes of data, and
// keeps what comes in one piece in a segment of its own and in memory that is a power of two: a thousand times the data
// of a peer that sends single bytes. So memory is counted here. Pieces are of generations that take half of it, and a new
// one begins only when that before the last is with the process. Meanwhile the host's kernel, which has bounds of its own,
// puts together what comes.
type sendQueue struct {
	*inner
	ep   *tcp.Endpoint
	size int // of the stack's buffer
	// of the last generation
	bytes, memory int
}

func newSendQueue(in *inner, wide bool) *sendQueue {
	q := &sendQueue{inner: in, ep: in.ep.(*tcp.Endpoint), size: narrowSend}
	if wide {
		q.size = wideSend
	}
	return q
}

func (q *sendQueue) Write(b []byte) (int, error) {
	memory := memoryOf(len(b))
	if q.memory+memory > q.size/2 {
		q.wait()
		q.bytes, q.memory = 0, 0
	}
	q.memory += memory
	n, err := q.inner.Write(b)
	q.bytes += n
	return n, err
}

// memoryOf is what the stack needs for a piece.
func memoryOf(piece int) int {
	segments := (piece + leastSegment - 1) / leastSegment // the most that it is sent in
	return chunkOf(piece) + segments*segmentOverhead
}

// chunkOf is the memory for the data of a piece.
func chunkOf(piece int) int {
	if piece <= leastChunk {
		return leastChunk
	}
	return 1 << bits.Len(uint(piece-1))
}

// wait waits until no more than the last generation is queued, or the connection is over. The stack tells when less
// than half of its buffer is in use, so that the buffer is made small meanwhile; it changes the size itself with its lock.
func (q *sendQueue) wait() {
	entry, changed := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	q.queue.EventRegister(&entry)
	defer q.queue.EventUnregister(&entry)
	for !q.isShort() {
		<-changed
	}
}

func (q *sendQueue) isShort() bool {
	q.ep.LockUser()
	defer q.ep.UnlockUser()
	options := q.ep.SocketOptions()
	options.SetSendBufferSize(int64(q.bytes)+1, false)
	if q.ep.Readiness(waiter.WritableEvents) != 0 {
		options.SetSendBufferSize(int64(q.size), false)
		return true
	}
	options.SetSendBufferSize(2*(int64(q.bytes)+1), false)
	return false
}

// setBuffers gives an end in the stack its buffers, which do not change.
func setBuffers(ep tcpip.Endpoint, wide bool) {
	receive, send := int64(narrowReceive), int64(narrowSend)
	if wide {
		receive, send = wideReceive, wideSend
	}
	ep.SocketOptions().SetReceiveBufferSize(receive, true)
	ep.SocketOptions().SetSendBufferSize(send, true)
}
